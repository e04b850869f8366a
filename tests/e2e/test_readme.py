"""The README and the guides, done as a newcomer would do them: every block, in reading order.

One shell goes through all pages in a scratch folder that holds what they use of a checkout; its
blocks are run as they stand. `headrace down`, where the README ends, is run after the guides.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy import local, stack_file
from tests.pages import PAGES, ROOT, Block, blocks

# What a newcomer runs that the demo and the checks run as well, and not this test.
ELSEWHERE = {"make env", "make demo", "make test"}
LAST = "headrace down\n"
BLOCK_TIMEOUT_S = 240
# What was applied or sent takes effect within moments, or on a busy machine seconds.
PATIENCE_S = 30

READ = list(chain.from_iterable(blocks(page) for page in PAGES))
COMMANDS = [block for block in READ if block.language in ("sh", "python")]
RUN = [b for b in COMMANDS if b.text != LAST and not set(b.text.splitlines()) <= ELSEWHERE]
SHOWN = {command: shown for command, shown in pairwise(READ) if shown.language in ("text", "json")}


class Newcomer:
    """Somebody with a shell in a fresh checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stuck_at: str | None = None
        self._exports = folder / ".exports"
        self._exports.write_text("")
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copytree(
            ROOT / "feature_repo",
            folder / "feature_repo",
            ignore=shutil.ignore_patterns("__pycache__", "*.db", "*.bak", "archive", "data"),
        )

    def do(self, block: Block) -> str:
        """What a block prints; what it exports holds for the next one."""
        if block.language == "sh":
            script, text = f"set -e\n{block.text}\nexport -p > '{self._exports}'\n", ""
        else:
            script, text = "exec python -", block.text
        done = subprocess.run(
            ["sh", "-c", f". '{self._exports}'\n{script}"],
            cwd=self.folder,
            env=_clean_environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=BLOCK_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, question: Block, shown: Block) -> None:
        """Do a block, again if need be, until it prints what the page shows."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return _agree(self.do(question), shown)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise


def _clean_environment() -> dict[str, str]:
    """Ours without what a newcomer does not have: settings, and the virtual environment's path."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HEADRACE_", "FEAST_", "PYTHON", "PYTEST", "VIRTUAL_ENV"))
    }
    inside = str(Path(sys.prefix) / "bin")
    kept["PATH"] = ":".join(part for part in kept["PATH"].split(":") if part != inside)
    # A quick look at the registry, so that a busy machine is not slower than the pages' reader.
    return {**kept, "COLUMNS": "160", "HEADRACE_PLAN_REFRESH_MS": "500"}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    folder = tmp_path_factory.mktemp("checkout")
    try:
        yield Newcomer(folder)
    finally:
        for file in folder.glob("*/*.pid"):  # workers of a page that was not read to its end
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        local.down(folder / ".headrace", lambda _: None)


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.place)
def test_a_block_does_what_its_page_says(newcomer: Newcomer, block: Block) -> None:
    if newcomer.stuck_at is not None:
        pytest.skip(f"the reader is stuck at {newcomer.stuck_at}")
    if "curl " in block.text and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    newcomer.stuck_at = block.place
    if block in SHOWN:
        newcomer.ask(block, SHOWN[block])
    else:
        newcomer.do(block)
    newcomer.stuck_at = None


def test_headrace_down_at_last_leaves_nothing_behind(newcomer: Newcomer) -> None:
    if newcomer.stuck_at is not None:
        pytest.skip(f"the reader is stuck at {newcomer.stuck_at}")
    data = newcomer.folder / ".headrace"
    stack = stack_file.load(data)
    assert stack is not None
    newcomer.do(Block("README.md", 0, "sh", LAST))
    assert [child.process() for child in stack.children.values()] == [None] * 5
    assert stack_file.load(data) is None


def test_the_readme_ends_the_stack_and_all_else_is_run_or_listed() -> None:
    assert [block.text for block in COMMANDS].count(LAST) == 1
    left = [block for block in COMMANDS if block not in RUN and block.text != LAST]
    assert set(chain.from_iterable(block.text.splitlines() for block in left)) == ELSEWHERE


def _agree(said: str, shown: Block) -> None:
    """Assert that a block printed what its page shows, numbers aside."""
    if shown.language == "text":
        assert lines(shown.text) <= lines(said), f"{shown.place}\n{said}"
    else:
        assert shape(json.loads(said)) == shape(json.loads(shown.text)), f"{shown.place}\n{said}"


def lines(text: str) -> set[str]:
    """The lines of a printed text, without what differs from run to run: numbers and widths."""
    return {re.sub(r"[\d.,]+", "N", " ".join(line.split())) for line in text.splitlines()} - {""}


def shape(value: Any) -> Any:
    """What kind of JSON a value is: its keys, and the kinds under them."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return "null" if value is None else "text" if isinstance(value, str) else "number"
