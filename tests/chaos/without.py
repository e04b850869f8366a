"""The workers with one rule of the protocol taken out: what the simulator must catch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from features.codec import MARKER_FIELD
from features.entities import ANY, RowWrite
from features.layout import Ints
from features.marker import Marker
from features.row_store import Checkpoint, MemoryRows, RowStore
from streaming.aggregate import Aggregator
from streaming.aggregate_worker import AggregateWorker
from streaming.route import Router
from streaming.route_worker import RouteWorker
from tests.chaos.simulation import DEFAULT, Rules


class _FoldsRepeats(Aggregator):
    """Without rule 1: what a restarted `route` repeats is folded again."""

    @staticmethod
    def _fresh(offsets: Ints, reached: Ints) -> NDArray[np.bool_]:
        return np.ones(len(offsets), np.bool_)


class _FoldsIntoAnyRow(Aggregator):
    """Without rule 2: a row that holds a block already takes it once more."""

    @staticmethod
    def _covered(stored: Marker | None, generation: int) -> int:
        return -1


class _Overwriting(MemoryRows):
    """Without rule 3: rows are set whatever stands there."""

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        for write in writes:
            self.rows.get(write.key, {}).pop(MARKER_FIELD, None)
        return super().write([write._replace(base=ANY) for write in writes])


class _AnyCheckpoint(MemoryRows):
    """Without half of rule 4: a checkpoint may go back."""

    def __init__(self) -> None:
        super().__init__()
        self._newest: dict[int, Checkpoint] = {}

    def checkpoint(self, partition: int) -> Checkpoint | None:
        return self._newest.get(partition)

    def save_checkpoint(self, partition: int, checkpoint: Checkpoint) -> None:
        self._newest[partition] = checkpoint


class _Remembering(Aggregator):
    """Without half of rule 5: rows outlive the connection they were read over."""

    def _forget(self) -> None:
        if not hasattr(self, "_tables"):
            super()._forget()

    def reconnect(self, store: RowStore) -> None:
        """Go on with another connection."""
        self._store = store


class _GoingOn(_Remembering):
    """Without rule 5: work goes on where it stood."""

    def own(self, partition: int, generation: int, beginning: int) -> int:
        known = self._progress.get(partition)
        return super().own(partition, generation, beginning) if known is None else known.offset


def _aggregate(make: type[Aggregator]) -> type[AggregateWorker]:
    class Worker(AggregateWorker):
        """Folds by a core that lacks a rule."""

        def _resumed(self, store: RowStore) -> Aggregator:
            return make(self._plan, store, self._rows_max)

    return Worker


def _keeping(make: type[_Remembering]) -> type[AggregateWorker]:
    class Worker(AggregateWorker):
        """Keeps its core when a connection is lost."""

        _kept: _Remembering | None = None

        def _resumed(self, store: RowStore) -> Aggregator:
            if self._kept is None:
                self._kept = make(self._plan, store, self._rows_max)
            self._kept.reconnect(store)
            return self._kept

    return Worker


class _Hasty(RouteWorker):
    """Commits before its blocks are acknowledged."""

    def _acknowledge(self, commits: Mapping[int, int]) -> None:
        self._source.commit(commits)
        self._sink.flush()


class _Forgetful(Router):
    """Does not read the dedup span again."""

    def own(self, partition: int, resume_at: int) -> int:
        super().own(partition, resume_at)
        return resume_at


class _WithoutHorizon(RouteWorker):
    """Routes by a core that forgets which ids occurred."""

    def _new_router(self, generation: int) -> Router:
        return _Forgetful(self._settings, generation, self._incarnation)


RULES: Mapping[str, Rules] = {
    "1 the high-water mark": replace(DEFAULT, aggregate=_aggregate(_FoldsRepeats)),
    "2 the row's marker": replace(DEFAULT, aggregate=_aggregate(_FoldsIntoAnyRow)),
    "3 compare-and-set": replace(DEFAULT, rows=_Overwriting),
    "4 the seal before the checkpoint": replace(DEFAULT, seals_lie=True),
    "4 a checkpoint only forward": replace(DEFAULT, rows=_AnyCheckpoint),
    "5 resuming from the checkpoint": replace(DEFAULT, aggregate=_keeping(_GoingOn)),
    "5 dropping cached rows": replace(DEFAULT, aggregate=_keeping(_Remembering)),
    "the commit after the acknowledgement": replace(DEFAULT, route=_Hasty),
    "the dedup span read again": replace(DEFAULT, route=_WithoutHorizon),
}
"""By the rule that is missing."""
