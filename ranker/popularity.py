"""What everybody likes now: the source of candidates without any, and the last resort."""

import numpy as np

from features.activity import ActivityTable
from features.as_of import Tables
from features.as_of_kernels import Floats, window_sums
from features.candidates import ITEM_KEY
from features.layout import Ints
from features.sparse_counts import SparseActivity
from features.spec import Metric

HOUR_MS = 3_600_000


class Popularity:
    """Clicks of an item over the last 24 hours as of `now`, from the item table's own counters."""

    def __init__(self, tables: Tables, action: str = "click") -> None:
        self._items = tables[ITEM_KEY]
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
        """The rows of the most popular items, best first; ties by row."""
        rows = np.arange(len(self._items), dtype=np.int64)
        counts = self.counts(rows, now)
        if count < len(rows):
            rows = np.sort(np.argpartition(-counts, count)[:count])
        order = np.argsort(-counts[rows], kind="stable")
        found: Ints = rows[order]
        return found
