"""A clock that a test sets, of a process that lives by it: see `sitecustomize`."""

import os
from pathlib import Path

HERE = Path(__file__).parent


class Clock:
    """How far ahead of the true time a process is, from its start on and while it runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(8))

    def set(self, ahead_s: int) -> None:
        """From now on it is so many seconds ahead (negative: behind)."""
        with self._file.open("r+b") as file:  # in place: whoever lives by it has it mapped
            file.write((ahead_s * 1_000_000_000).to_bytes(8, "little", signed=True))

    def environment(self) -> dict[str, str]:
        """What makes a process live by it, and leaves alone the clock that only measures."""
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"PYTHONPATH": path, "HEADRACE_TEST_CLOCK": str(self._file)}
