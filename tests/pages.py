"""The pages a newcomer reads, and the blocks of code in them, in reading order."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDES = (
    "feed-engineer",
    "feature-engineer",
    "features",
    "plain-feast",
    "ml-engineer",
    "kubernetes",
    "operator",
    "replay",
)
PAGES = (ROOT / "README.md", *(ROOT / "deploy" / "guides" / f"{name}.md" for name in GUIDES))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, for a person."""
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page.name, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in FENCE.finditer(text)
    ]


def inline_code(page: Path) -> list[str]:
    """The code spans in a page's prose, each on one line."""
    prose = FENCE.sub("", page.read_text())
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose)]


def table_rows(page: Path, first_cell: str) -> list[list[str]]:
    """The rows of a page's tables whose first cell matches a pattern; cells without backquotes."""
    rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if line[:1] == "|"]
    cells = [[cell.strip().replace("`", "") for cell in row] for row in rows]
    return [row for row in cells if re.fullmatch(first_cell, row[0])]
