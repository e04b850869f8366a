"""Aggregate: blocks of updates into rows, each exactly once, by five rules.

1. An update at or below the high-water mark of its source partition is dropped: a restarted or
   zombie `route` repeats.
2. A row whose marker is at or past a block's offset is skipped: a restarted `aggregate` re-reads.
3. A row is written by one atomic compare-and-set on its marker: a fenced `aggregate` still sends.
4. The checkpoint moves only forward, and only over rows that the store says are safe.
5. On start, and after any lost connection, cached rows are dropped and work resumes from the
   stored checkpoint.

`Aggregator.step` is the core: it decides what a batch of blocks changes. What it reads and writes
goes through a `RowStore`; when anything fails, the caller drops the aggregator and resumes from
the stored checkpoint (rule 5).
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from features.entities import EntityTable, RowWrite
from features.errors import HeadraceError
from features.layout import Ints
from features.marker import Marker
from features.row_store import Checkpoint, RowStore
from features.spec import Plan, StoredView
from features.strings import Strings
from streaming.blocks import Block


class Fenced(HeadraceError):
    """A newer marker stands in a row: another worker owns the partition now."""


class BlockGap(HeadraceError):
    """Blocks of one incarnation are missing: the partition must stop and say so."""


@dataclass(slots=True)
class Progress:
    """How far one `updates` partition is folded."""

    generation: int
    offset: int
    high_water: dict[str, int] = field(default_factory=dict)
    sequence: dict[str, int] = field(default_factory=dict)

    def checkpoint(self) -> Checkpoint:
        """What to save, once the rows it covers are safe."""
        return Checkpoint(
            generation=self.generation, offset=self.offset, high_water=dict(self.high_water)
        )


class Aggregator:
    """Cached rows and progress of the partitions one worker owns."""

    def __init__(self, plan: Plan, store: RowStore, rows_max: int = 200_000) -> None:
        self._store = store
        self._rows_max = rows_max
        self._progress: dict[int, Progress] = {}
        self.counts: Counter[str] = Counter()
        self.newest_event_time = 0
        self.use(plan)

    def use(self, plan: Plan) -> None:
        """Fold by this plan from now on; cached rows are dropped, their layout may differ."""
        self.plan = plan
        self._forget()

    def own(self, partition: int, generation: int, beginning: int) -> int:
        """Take over a partition; returns the offset to read from: its checkpoint's."""
        self._forget()
        saved = self._store.checkpoint(partition)
        if saved is None:
            self._progress[partition] = Progress(generation, beginning)
        elif saved.generation != generation:
            # A new life of `updates`; the high-water marks speak of `events` and stand.
            self._progress[partition] = Progress(generation, beginning, dict(saved.high_water))
        else:
            self._progress[partition] = Progress(generation, saved.offset, dict(saved.high_water))
        return self._progress[partition].offset

    def disown(self, partition: int) -> None:
        """Give a partition up, and with it every cached row."""
        self._progress.pop(partition, None)
        self._forget()

    def checkpoints(self) -> dict[int, Checkpoint]:
        """What could be saved now for each owned partition."""
        return {partition: p.checkpoint() for partition, p in self._progress.items()}

    def step(self, partition: int, blocks: Sequence[tuple[int, Block]]) -> int:
        """Fold consecutive (offset, block) pairs of one partition; returns rows written."""
        progress = self._progress[partition]
        touched: dict[str, dict[str, list[Ints]]] = defaultdict(lambda: defaultdict(list))
        if sum(map(len, self._tables.values())) > self._rows_max:
            self._forget()
        self._fetch([block for _, block in blocks])
        for offset, block in blocks:
            self._check_sequence(progress, block)
            self._fold(progress, Marker(progress.generation, partition, offset), block, touched)
            name = block.header.source_name
            progress.high_water[name] = max(progress.high_water.get(name, -1), block.header.last)
            progress.offset = offset + 1
        writes = [
            write
            for join_key, views in touched.items()
            for write in self._tables[join_key].writes(
                {view: np.unique(np.concatenate(rows)) for view, rows in views.items()}
            )
        ]
        self._write(writes)
        return len(writes)

    def _forget(self) -> None:
        strings = Strings()
        self._strings = strings
        self._tables = {
            entity.join_key: EntityTable(self.plan, entity, strings)
            for entity in self.plan.entities
        }

    def _fetch(self, blocks: Sequence[Block]) -> None:
        """Load the rows that blocks touch and the cache does not hold."""
        missing: dict[bytes, str] = {}
        for block in blocks:
            for view, rows in self._by_view(block):
                join_key = view.entity.join_key
                table = self._tables[join_key]
                for key in np.unique(block.updates.key[rows]).tolist():
                    name = block.updates.keys[key]
                    if table.find(name) is None:
                        missing[name] = join_key
        found = self._store.read(list(missing))
        by_table: dict[str, tuple[list[int], list[dict[bytes, bytes]]]] = defaultdict(
            lambda: ([], [])
        )
        for (key, join_key), content in zip(missing.items(), found, strict=True):
            row = self._tables[join_key].row(key)
            if content:
                by_table[join_key][0].append(row)
                by_table[join_key][1].append(content)
        for join_key, (rows_, contents) in by_table.items():
            self._tables[join_key].load(rows_, contents)
        self.counts["rows_read"] += len(missing)

    def _by_view(self, block: Block) -> list[tuple[StoredView, Ints]]:
        views = block.updates.view
        return [(self.plan.views[v], np.flatnonzero(views == v)) for v in np.unique(views).tolist()]

    def _fold(
        self,
        progress: Progress,
        marker: Marker,
        block: Block,
        touched: dict[str, dict[str, list[Ints]]],
    ) -> None:
        updates = block.updates
        high_water = progress.high_water.get(block.header.source_name, -1)
        marked: list[tuple[EntityTable, Ints]] = []
        for view, chosen in self._by_view(block):
            fresh = chosen[updates.offset[chosen] > high_water]  # rule 1
            self.counts["repeated_updates"] += len(chosen) - len(fresh)
            table = self._tables[view.entity.join_key]
            keys, place = np.unique(updates.key[fresh], return_inverse=True)
            rows = np.array([table.find(updates.keys[k]) for k in keys.tolist()], np.int64)
            open_ = np.array([_is_open(table.markers[row], marker) for row in rows], np.bool_)
            kept = open_[place] if len(rows) else np.zeros(0, np.bool_)  # rule 2
            self.counts["skipped_updates"] += len(fresh) - int(kept.sum())
            fresh, place = fresh[kept], place[kept]
            if not len(fresh):
                continue
            table.tables[view.name].folding(updates, fresh, rows[place])(0, len(fresh))
            touched[view.entity.join_key][view.name].append(rows[open_])
            marked.append((table, rows[open_]))
            self.counts["folded_updates"] += len(fresh)
            self.newest_event_time = max(self.newest_event_time, int(updates.time[fresh].max()))
        for table, rows in marked:
            for row in rows.tolist():
                table.markers[row] = marker

    def _check_sequence(self, progress: Progress, block: Block) -> None:
        """A gap inside one incarnation's blocks means that some never arrived."""
        header = block.header
        last = progress.sequence.get(header.incarnation)
        if last is not None and header.sequence > last + 1:
            raise BlockGap(
                f"incarnation {header.incarnation} of route sent block {header.sequence} after "
                f"{last}: blocks between them are missing from `updates`; replay this span"
            )
        progress.sequence[header.incarnation] = max(header.sequence, last or 0)

    def _write(self, writes: list[RowWrite]) -> None:
        done = self._store.write(writes)
        self.counts["rows_written"] += len(writes)
        if not all(done):
            raise Fenced("a newer marker stands in a row: another worker owns this partition")


def _is_open(stored: Marker | None, marker: Marker) -> bool:
    """Whether a row still wants a block; the row's marker covers what it holds already."""
    return stored is None or not stored.covers(marker.generation, marker.offset)
