"""Fresh items that were hardly shown: those that exploration draws from."""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from features.activity import ActivityTable
from features.as_of_kernels import ALL, Floats, window_sums
from features.candidates import ITEM_KEY
from features.latest import LatestTable
from features.layout import Ints
from features.sparse_counts import SparseActivity
from features.spec import IMPRESSION, Metric
from features.tables import EntityRows
from ranker.reading import Reading

POOL_MAX: Final = 5_000
"""Of more items that qualify, the newest: what is drawn from is looked at by every request."""
KEPT_S: Final = 1.0
"""How long a pool serves before it is made anew, unless the tables are others."""
NEAR_MS: Final = 2_000


class FreshPool:
    """Items created at most `age_ms` ago and shown at most `impressions_max` times.

    The less an item was shown, the more it weighs: 1 / (1 + impressions). A pool serves all
    requests of a second, and those that ask for another time by `now` alone.
    """

    def __init__(
        self,
        age_ms: int,
        impressions_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._age_ms, self._impressions_max, self._clock = age_ms, impressions_max, clock
        self._made: tuple[object, float, int] | None = None
        self._pool: tuple[list[str], Floats] = [], np.zeros(0)

    def at(self, now: int, reading: Reading) -> tuple[list[str], Floats]:
        """Ids and weights, as of `now`; the table lock is held."""
        made, at = self._made, self._clock()
        same = made is not None and made[0] is reading.tables
        if made is not None and same and at - made[1] < KEPT_S and 0 <= now - made[2] < NEAR_MS:
            return self._pool
        self._pool = self._find(now, reading)
        self._made = (reading.tables, at, now)
        return self._pool

    def _find(self, now: int, reading: Reading) -> tuple[list[str], Floats]:
        items = reading.tables[ITEM_KEY]
        rows = self._young(now, reading, items)
        shown = _impressions(items, rows, now)
        rows, shown = rows[shown <= self._impressions_max], shown[shown <= self._impressions_max]
        ids = items.ids_of(rows)
        there = np.array([item is not None for item in ids], np.bool_)
        return [item for item in ids if item is not None], 1.0 / (1.0 + shown[there])

    def _young(self, now: int, reading: Reading, items: EntityRows) -> Ints:
        """Rows of items created lately that were not taken down, newest first."""
        created = _numbers(reading, items, "created_at")
        ended = _numbers(reading, items, "ended")
        if created is None:
            return np.zeros(0, np.int64)
        young = (created > now - self._age_ms) & (created <= now)
        if ended is not None:
            young &= ended != 1.0
        rows = np.flatnonzero(young)
        newest: Ints = rows[np.argsort(-created[rows], kind="stable")][:POOL_MAX]
        return newest


def _numbers(reading: Reading, items: EntityRows, path: str) -> Floats | None:
    """[row]: the number at a path of the profiles; None when no view keeps it."""
    for view in reading.plan.latest:
        for field in view.fields:
            table = items.tables.get(view.name)
            if field.path == path and isinstance(table, LatestTable):
                return table.column(field.name).number[: len(items)]
    return None


def _impressions(items: EntityRows, rows: Ints, now: int) -> Floats:
    """[row]: how often it was ever shown; 0 where nobody counts it."""
    metric = Metric(action=IMPRESSION)
    for table in items.tables.values():
        if isinstance(table, ActivityTable | SparseActivity) and metric in table.metrics:
            place = table.metrics.index(metric)
            if isinstance(table, SparseActivity):
                return table.window_sums(rows, place, ALL, 0, now)
            return window_sums(table.layout, table.arrays, rows, place, ALL, 0, now)
    return np.zeros(len(rows))
