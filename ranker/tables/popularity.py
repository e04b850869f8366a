"""What everybody likes now: the source of candidates without any, and the last resort."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import numpy as np

from features.activity import ActivityTable
from features.as_of import Tables
from features.as_of_kernels import Floats, window_sums
from features.candidates import ITEM_KEY
from features.layout import Ints
from features.sparse_counts import SparseActivity
from features.spec import Metric
from ranker.tables.repeating import Repeating

HOUR_MS = 3_600_000
INLINE_MAX: Final = 20_000
"""Rows that a request looks at by itself."""
ROWS_PER_TURN: Final = 5_000
STANDING_MAX: Final = 10_000
RENEW_S: Final = 1.0
SHARE: Final = 20
"""A renewal is at most one twentieth of the time of a core."""


class Popularity:
    """Clicks of an item over the last 24 hours as of `now`, from the item table's own counters."""

    def __init__(self, tables: Tables, action: str = "click") -> None:
        self._items = tables[ITEM_KEY]
        self._standing: list[str] | None = None
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

    def top(self, now: int, count: int) -> Ints:
        """The rows of the most popular items, best first; ties by row.

        Of a table too large to look at in a request: as of the last `renew`.
        """
        standing = self._standing
        if len(self._items) > INLINE_MAX and standing is not None:
            rows = self._items.rows_of_ids(standing[:count])
            return rows[rows >= 0]
        rows = np.arange(len(self._items), dtype=np.int64)
        counts = self.counts(rows, now)
        if count < len(rows):
            rows = np.sort(np.argpartition(-counts, count)[:count])
        order = np.argsort(-counts[rows], kind="stable")
        found: Ints = rows[order]
        return found

    def renew(self, now: int, turn: AbstractContextManager[object]) -> None:
        """Find the most popular items of all, some thousand in each turn."""
        rows, counts = np.zeros(0, np.int64), np.zeros(0)
        start = 0
        while start < len(self._items):
            with turn:
                stop = min(start + ROWS_PER_TURN, len(self._items))
                part = np.arange(start, stop, dtype=np.int64)
                rows = np.concatenate([rows, part])
                counts = np.concatenate([counts, self.counts(part, now)])
            best = np.argsort(-counts, kind="stable")[:STANDING_MAX]
            rows, counts = rows[best], counts[best]
            start = stop
        with turn:
            ids = [self._items.id_of(row) for row in rows.tolist()]
            self._standing = [item for item in ids if item is not None]


class Renewal:
    """A thread that keeps the popularity of a large table standing."""

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
        began = time.monotonic()
        self._popularity().renew(self._clock_ms(), self._lock)
        return max(RENEW_S, SHARE * (time.monotonic() - began))
