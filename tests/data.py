"""The real data beside the repository, which is read there and never copied into it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1].parent / "shared" / "data"


def real_data(name: str) -> Path:
    """The folder of the data set `name`; the test that asks is skipped where it is absent."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not in {FOLDER}")
    return folder
