"""The roles of the pipeline. Each returns the smallest thing that states its answer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from features.candidates import CandidateJoin
from features.entities import EntityTable
from features.layout import Ints
from features.marker import Marker
from ranker.reading import Reading
from ranker.request import RankRequest
from ranker.user_rows import UserRow


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
    degraded: list[str] = field(default_factory=list)
    """Stages that were late or failed; each says what was done instead."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Stage → how long it took."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[stage] = (time.perf_counter() - began) * 1000


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items to be ranked, as columns."""

    items: Sequence[str]
    rows: Ints
    """Rows of the item table, −1 for unknown items."""
    join: CandidateJoin

    def __len__(self) -> int:
        return len(self.items)


class UserHydrator(Protocol):
    """Reads the user's row: one round trip, within a deadline. Raises `Unavailable`."""

    async def hydrate(self, query: Query) -> User:
        """The row, or row −1 for a user nobody knows."""
        ...

    def nobody(self) -> User:
        """An unknown user, for when the row cannot be read."""
        ...

    def current(self, user: User) -> User:
        """The same row for the tables that stand now; called with their lock held."""
        ...


class Source(Protocol):
    """Brings candidates. Called once a request, under the table lock; pure."""

    name: str

    def items(self, query: Query, reading: Reading) -> Sequence[str]:
        """Item ids, best first."""
        ...


class Filter(Protocol):
    """Says which candidates may be shown. Pure; cannot drop or add any itself."""

    name: str

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[candidate]: True for those that may be shown."""
        ...


class SideEffect(Protocol):
    """Told of every answer after it is made. Must not block or fail."""

    def served(self, query: Query, served: "Served") -> None:
        """Note what was served."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """What was ranked and shown, for the serving log."""

    user: User
    plan: str
    columns: tuple[str, ...]
    matrix: Floats
    """[shown, column]: the vectors that were scored."""
    items: Sequence[str]
    heads: dict[str, Floats]
    score: Floats
    model: str
