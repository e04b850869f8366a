"""The roles of the pipeline. Each returns the smallest thing that states its answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.as_of import Moment
from features.as_of_kernels import Floats
from features.entities import EntityTable
from features.layout import AUTHOR, CATEGORY, ITEM, Ints
from features.marker import Marker
from ranker.cursor import Cursor
from ranker.deadline import Timing
from ranker.reading import Reading
from ranker.request import RankRequest
from ranker.tables.user_rows import UserRow

Mask = NDArray[np.bool_]

GIVEN = "request"
"""The source of candidates that came with the request."""


@dataclass(frozen=True, slots=True)
class User:
    """A user's row as it was read for one request."""

    table: EntityTable
    row: int
    """−1: nobody knows this user."""
    marker: Marker | None
    updated_at: int | None
    """Newest event time in the row, ms."""
    read: UserRow


@dataclass(slots=True)
class Query:
    """One request on its way through the pipeline."""

    request: RankRequest
    request_id: str
    now: int
    session: Cursor
    """What the pages before this one showed."""
    timing: Timing = field(default_factory=lambda: Timing(10_000.0))
    stored: Any = None
    """The user's row as it was fetched; None when it could not be."""
    user: User | None = None
    """The user as they were read, once that is done: before any source is asked."""
    candidates: "Candidates | None" = None
    keep: Mask | None = None
    """[candidate]: which may be shown. Both stand here once they are known."""
    read: Any = None
    """The versions of rows that the candidates' features were computed from (`RowsRead`)."""
    degraded: list[str] = field(default_factory=list)
    """Stages that were late or failed; each says what was done instead."""

    @property
    def timings_ms(self) -> dict[str, float]:
        """Stage → how long it took."""
        return self.timing.timings_ms


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items to be ranked, as columns."""

    items: Sequence[str]
    rows: Ints
    """Rows of the item table, −1 for unknown items."""
    moment: Moment
    """Whose rows they join, and their ids as codes of the process's strings."""
    reading: Reading
    sources: tuple[str, ...] = (GIVEN,)
    """The names of those that brought them."""
    source: Ints | None = None
    """[candidate]: the place among `sources` of the first that brought it; None: all the first."""
    propensity: Floats | None = None
    """[candidate]: the chance with which it came to be one; None: nothing was left to chance."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def codes(self) -> Ints:
        """[candidate]: the item's id as a code."""
        codes: Ints = self.moment.keys[:, ITEM]
        return codes

    @property
    def authors(self) -> Ints:
        """[candidate]: its author's id as a code, −1 where there is none."""
        codes: Ints = self.moment.keys[:, AUTHOR]
        return codes

    @property
    def categories(self) -> Ints:
        """[candidate]: its first category as a code, −1 where there is none."""
        codes: Ints = self.moment.keys[:, CATEGORY]
        return codes

    def numbers(self, path: str) -> Floats:
        """[candidate]: the number at a path of its profile; NaN where it is not known."""
        return self.reading.join.numbers(path, self.rows)

    def source_of(self, place: int) -> str:
        """The first source that brought a candidate."""
        return self.sources[0 if self.source is None else int(self.source[place])]


@dataclass(frozen=True, slots=True)
class Sourced:
    """What one source brings, best first."""

    items: Sequence[str]
    propensity: Floats | None = None
    """[item]: the chance with which it was drawn, in (0, 1]; None: nothing was left to chance."""


class UserHydrator(Protocol):
    """Reads the user's row: one round trip, within a deadline."""

    async def fetch(self, query: Query) -> Any:
        """The row as it is stored; must not take the table lock. Raises `Unavailable`."""
        ...

    def hydrate(self, query: Query, stored: Any) -> User:
        """What was fetched, for the tables that stand now; row −1 for a user nobody knows.

        Called with the table lock held. Raises `BadInput` when it is nothing of ours.
        """
        ...

    def alone(self, query: Query, stored: Any) -> User:
        """The same without the lock: its codes are its own, and fit no other table's."""
        ...

    def nobody(self) -> User:
        """An unknown user, for when the row cannot be read; called with the table lock held."""
        ...


class Source(Protocol):
    """Brings candidates. Called once a request, under the table lock; pure."""

    name: str

    def items(self, query: Query, reading: Reading) -> Sourced:
        """Items, best first, and the chances with which they were drawn."""
        ...


class Filter(Protocol):
    """Says which candidates may be shown. Pure; cannot drop or add any itself."""

    name: str
    vouches: bool
    """Whether nothing may be shown that it has not let pass: it fails closed. Others fail open,
    because an item once too often is better than no feed."""

    def keep(self, query: Query, candidates: Candidates) -> Mask:
        """[candidate]: True for those that may be shown."""
        ...


class SideEffect(Protocol):
    """Told of every answer after it was given. Must not block."""

    name: str

    def served(self, query: Query, served: "Served") -> None:
        """Note what was served."""
        ...

    def trouble(self) -> str | None:
        """What is wrong with it, to be named in the answers."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """What was ranked and shown, for the serving log."""

    user: User | None
    plan: str
    columns: tuple[str, ...]
    matrix: Floats
    """[shown, column]: the vectors that were scored."""
    items: Sequence[str]
    heads: dict[str, Floats]
    score: Floats
    model: str
    sources: Sequence[str]
    """[shown]: which source brought it."""
    propensity: Sequence[float | None]
    by_score: Ints
    """[shown]: the place it had by score alone, from 0, before diversity."""
    read: Any = None
    """The versions of rows they were computed from (`RowsRead`); None: no row was looked at."""
    variant: str = "default"
