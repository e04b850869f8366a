"""One line of the doctor's: what was looked at, how it is, and how to mend it."""

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from features.errors import HeadraceError, Unavailable

Level = Literal["ok", "note", "fault"]


class Finding(NamedTuple):
    """A `note` should be known and needs no hurry; a `fault` keeps something from working."""

    check: str
    """Part and subject: `redis/memory`, `kafka/topic updates`."""
    level: Level
    says: str
    mend: str = ""


Look = Callable[[], Iterator[Finding]]
"""Looks at one part; may raise HeadraceError, which is a fault of that part."""

UNREACHED: Final = "see whether it runs, then address, certificate authority, user and password"


def ok(check: str, says: str) -> Finding:
    """All is well there."""
    return Finding(check, "ok", says)


def looked(part: str, look: Look) -> Iterator[Finding]:
    """The findings of one part; what ended the look is its last, and says itself how to mend it."""
    try:
        yield from look()
    except HeadraceError as error:
        yield Finding(
            part, "fault", str(error), UNREACHED if isinstance(error, Unavailable) else ""
        )
