"""`make monitoring`: write the rules and dashboards into `generated/`."""

from pathlib import Path

import yaml

from deploy.monitoring.dashboards import BOARDS, text
from deploy.monitoring.rules import rules

FOLDER = Path(__file__).with_name("generated")


def files() -> dict[str, str]:
    """What is generated, by file name."""
    made = {f"{board.uid}.json": text(board) for board in BOARDS}
    made["headrace-rules.yaml"] = yaml.safe_dump(rules(), sort_keys=False, width=100)
    return made


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content)
