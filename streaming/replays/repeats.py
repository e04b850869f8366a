"""`streaming.dedup.Dedup` over whole columns."""

import numpy as np
from numpy.typing import NDArray

from features.layout import Ints
from streaming.dedup import Dedup


class Repeats:
    """Says of the events of one partition which repeat an id within H offsets; see `Dedup`.

    A repeat is an event whose id last occurred at most H offsets before, whatever became of it.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self._ids = np.zeros(0, np.int64)
        self._offsets = np.zeros(0, np.int64)

    def repeated(self, ids: Ints, offsets: Ints) -> NDArray[np.bool_]:
        """[event] for consecutive events, in order of their offsets."""
        if not len(ids):
            return np.zeros(0, np.bool_)
        recent = np.flatnonzero(self._offsets >= offsets[0] - self.horizon)
        all_ids = np.concatenate([self._ids[recent], ids])
        all_offsets = np.concatenate([self._offsets[recent], offsets])
        order = np.argsort(all_ids, kind="stable")
        found = np.zeros(len(all_ids), np.bool_)
        same = all_ids[order[1:]] == all_ids[order[:-1]]
        near = all_offsets[order[1:]] - all_offsets[order[:-1]] <= self.horizon
        found[order[1:]] = same & near
        kept = all_offsets >= offsets[-1] - self.horizon
        self._ids, self._offsets = all_ids[kept], all_offsets[kept]
        return found[len(recent) :]


def as_dedup(horizon: int, ids: Ints, offsets: Ints) -> list[bool]:
    """The same from `Dedup` itself, for tests and for reading the two side by side."""
    dedup = Dedup(horizon)
    return [dedup.repeated(i, o) for i, o in zip(ids.tolist(), offsets.tolist(), strict=True)]
