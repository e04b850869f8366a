"""What everybody likes now: the source of candidates without any, and the last resort."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.activity import ActivityTable
from features.as_of import Tables
from features.as_of_kernels import Floats, window_sums
from features.candidates import ITEM_KEY, CandidateJoin
from features.layout import NEVER, Ints
from features.sparse_counts import SparseActivity
from features.spec import Metric
from ranker.tables.repeating import Repeating

HOUR_MS = 3_600_000
INLINE_MAX: Final = 20_000
"""Rows that a request looks at by itself."""
ROWS_PER_TURN: Final = 5_000
IDS_PER_TURN: Final = 500
STANDING_MAX: Final = 10_000
RENEW_S: Final = 1.0
SHARE: Final = 20
"""A renewal is at most one twentieth of the time of a core."""


class Standing(NamedTuple):
    """The most popular items as of some instant, best first; none that ended."""

    ids: list[str]
    clicks: list[float]


class Popularity:
    """Clicks of an item over the last 24 hours as of `now`, from the item table's own counters."""

    def __init__(
        self, tables: Tables, join: CandidateJoin | None = None, action: str = "click"
    ) -> None:
        """`join` tells which items ended; without it none did."""
        self._items = tables[ITEM_KEY]
        self._join = join
        self._standing: Standing | None = None
        self._table: ActivityTable | SparseActivity | None = None
        for table in self._items.tables.values():
            metric = Metric(action=action)
            if isinstance(table, ActivityTable | SparseActivity) and metric in table.metrics:
                self._table, self._metric = table, table.metrics.index(metric)
                widths = table.layout.ring_width.tolist()
                self._ring = widths.index(HOUR_MS) if HOUR_MS in widths else len(widths) - 1
                self._buckets = min(24, int(table.layout.ring_buckets[self._ring]))

    def counts(self, rows: Ints, now: int) -> Floats:
        """[row]: clicks over the window; 0 for items nobody knows."""
        if self._table is None:
            return np.zeros(len(rows))
        if isinstance(self._table, SparseActivity):
            return self._table.window_sums(rows, self._metric, self._ring, self._buckets, now)
        return window_sums(
            self._table.layout,
            self._table.arrays,
            rows,
            self._metric,
            self._ring,
            self._buckets,
            now,
        )

    @property
    def large(self) -> bool:
        """Whether the table is too large to look at in a request."""
        return len(self._items) > INLINE_MAX

    def top(self, now: int, count: int) -> Ints:
        """The rows of the most popular items, best first; ties by row.

        Of a large table: as of the last `renew`.
        """
        standing = self._standing
        if self.large and standing is not None:
            rows = self._items.rows_of_ids(standing.ids[:count])
            return rows[rows >= 0]
        rows = np.arange(len(self._items), dtype=np.int64)
        counts = self.counts(rows, now)
        if count < len(rows):
            rows = np.sort(np.argpartition(-counts, count)[:count])
        order = np.argsort(-counts[rows], kind="stable")
        found: Ints = rows[order]
        return found

    def standing(self, now: int, turn: AbstractContextManager[object], count: int) -> Standing:
        """The most popular items of all, at least so many where there are: of a large table as of
        the last `renew`, of another as of `now`."""
        if not self.large:
            return self._found(now, turn, count)
        return self.renew(now, turn) if self._standing is None else self._standing

    def renew(self, now: int, turn: AbstractContextManager[object]) -> Standing:
        """Find the most popular items of a large table."""
        self._standing = self._found(now, turn, STANDING_MAX)
        return self._standing

    def _found(self, now: int, turn: AbstractContextManager[object], count: int) -> Standing:
        """The most popular items of all, looking at some thousand in each turn."""
        rows, counts = np.zeros(0, np.int64), np.zeros(0)
        for start in range(0, len(self._items), ROWS_PER_TURN):
            with turn:
                part = np.arange(start, min(start + ROWS_PER_TURN, len(self._items)))
                part = part[self._may_be_shown(part)]
                counts = np.concatenate([counts, self.counts(part, now)])
            rows = np.concatenate([rows, part])
            best = np.argsort(-counts, kind="stable")[:count]
            rows, counts = rows[best], counts[best]
        ids: list[str | None] = []
        for start in range(0, len(rows), IDS_PER_TURN):
            with turn:
                ids += self._items.ids_of(rows[start : start + IDS_PER_TURN])
        told = [(item, n) for item, n in zip(ids, counts.tolist(), strict=True) if item is not None]
        return Standing([item for item, _ in told], [clicks for _, clicks in told])

    def _may_be_shown(self, rows: Ints) -> NDArray[np.bool_]:
        """[row]: whether it holds anything, and did not end."""
        found = np.zeros(len(rows), np.bool_)
        for view in self._items.tables.values():
            found |= view.newest[rows] != NEVER
        if self._join is not None:
            found &= self._join.numbers("ended", rows) != 1.0
        return found


class Renewal:
    """A thread that keeps the popularity of a large table standing; of another it need not."""

    def __init__(
        self,
        popularity: Callable[[], Popularity],
        lock: AbstractContextManager[object],
        clock_ms: Callable[[], int],
    ) -> None:
        self._popularity, self._lock, self._clock_ms = popularity, lock, clock_ms
        self._thread = Repeating("popularity", self._renew)

    def start(self) -> None:
        """Renew for the first time, then go on by itself."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._thread.stop()

    def _renew(self) -> float:
        popularity, began = self._popularity(), time.monotonic()
        if popularity.large:
            popularity.renew(self._clock_ms(), self._lock)
        return max(RENEW_S, SHARE * (time.monotonic() - began))
