"""`python -m deploy.image.audit`: known vulnerabilities of what the image runs, by pip-audit.

pip-audit says "no known vulnerabilities" of packages that it could not look up. Here what was not
looked up is said to be not checked, and is a failure only where there is a finding.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements" / "image.txt"
NOT_CHECKED = 3


def main() -> int:
    """0: all looked up, nothing found. 1: something found. 3: not checked."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off", "-r", str(LOCK)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"not checked: the database is out of reach ({why[:200]})")
        return NOT_CHECKED
    lines, code = judged(packages)
    print("\n".join(lines))
    return code


def judged(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What pip-audit's answer means, in lines, and the exit code."""
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    found = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in"
        f" {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in packages
        for flaw in one.get("vulns", [])
    ]
    lines = [*found, f"{len(packages) - len(skipped)} looked up, {len(found)} findings"]
    if skipped:
        lines.append(f"not checked: {', '.join(skipped)}")
    if found:
        return lines, 1
    return lines, NOT_CHECKED if skipped or not packages else 0


if __name__ == "__main__":
    sys.exit(main())
