"""Aggregate: blocks of updates into rows, each exactly once, by five rules.

1. An update at or below the high-water mark of its source partition is dropped: a restarted or
   zombie `route` repeats.
2. A row whose marker is at or past a block's offset is skipped: a restarted `aggregate` re-reads.
3. A row is written by one atomic compare-and-set on its marker, from the version that was read to
   the new one: a fenced `aggregate` still sends, and a write is right only on top of its base.
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
from typing import Final

import numpy as np

from features.entities import EntityTable, RowWrite
from features.errors import HeadraceError
from features.layout import Ints
from features.marker import Marker
from features.row_store import Checkpoint, RowStore
from features.spec import Plan, StoredView
from features.strings import Strings
from streaming.blocks import Block, BlockHeader
from streaming.plans import all_plans


class Fenced(HeadraceError):
    """Another version stands in a row: another worker owns the partition now, or did lately."""


class BlockGap(HeadraceError):
    """Blocks of one incarnation are missing: the partition must stop and say so."""


INCARNATIONS_MAX: Final = 8
"""Of one source, the newest ones whose block numbers are kept: an owner and its zombies."""


@dataclass(slots=True)
class Progress:
    """How far one `updates` partition is folded."""

    generation: int
    offset: int
    high_water: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, dict[str, int]] = field(default_factory=dict)
    whole: bool = False

    @classmethod
    def resumed(cls, saved: Checkpoint | None, generation: int, beginning: int) -> "Progress":
        """Where a partition goes on in a life of its topic."""
        if saved is None:
            return cls(generation, beginning, whole=beginning == 0)
        if saved.generation != generation:
            # A new life of `updates`; the high-water marks speak of `events` and stand. Which
            # blocks the old life took with it nobody can say, so the numbers begin anywhere.
            return cls(generation, beginning, dict(saved.high_water))
        sequences = {source: dict(known) for source, known in saved.sequences.items()}
        return cls(generation, saved.offset, dict(saved.high_water), sequences, saved.whole)

    def checkpoint(self) -> Checkpoint:
        """What to save, once the rows it covers are safe."""
        return Checkpoint(
            generation=self.generation,
            offset=self.offset,
            high_water=dict(self.high_water),
            sequences={source: dict(known) for source, known in self.sequences.items()},
            whole=self.whole,
        )

    def gap(self, header: BlockHeader) -> str | None:
        """What is missing before a block of its incarnation, from the same source; else None."""
        known = self.sequences.get(header.source_name, {})
        last = known.get(header.incarnation)
        if last is None:
            # One that was seen before may have been forgotten, where there were too many.
            is_first = self.whole and len(known) < INCARNATIONS_MAX
            last = -1 if is_first else header.sequence - 1
        if header.sequence <= last + 1:
            return None
        return (
            f"incarnation {header.incarnation} of route sent block {header.sequence} of source "
            f"{header.source_name} after {last if last >= 0 else 'none'}: blocks between them are "
            "missing from `updates`; replay this span into a new project"
        )

    def passed(self, offset: int, header: BlockHeader) -> None:
        """Note that the block at an offset is folded."""
        name, incarnation = header.source_name, header.incarnation
        self.offset = offset + 1
        self.high_water[name] = max(self.high_water.get(name, -1), header.last)
        known = self.sequences.setdefault(name, {})
        known[incarnation] = max(header.sequence, known.pop(incarnation, -1))
        if len(known) > INCARNATIONS_MAX:
            del known[next(iter(known))]


class Aggregator:
    """Cached rows and progress of the partitions one worker owns."""

    def __init__(self, plan: Plan, store: RowStore, rows_max: int = 200_000) -> None:
        self._store = store
        self._rows_max = rows_max
        self._progress: dict[int, Progress] = {}
        self.counts: Counter[str] = Counter()
        self.newest_event_time = 0
        self._event_times: list[Ints] = []
        self.use(plan)

    def use(self, plan: Plan) -> None:
        """Fold by this plan from now on; cached rows are dropped, their layout may differ."""
        self.plan = plan
        # Blocks of two partitions may name two plans in turn: what one counts, the other keeps.
        self._others = all_plans(self._store)
        self._forget()

    def own(self, partition: int, generation: int, beginning: int) -> int:
        """Take over a partition; returns the offset to read from: its checkpoint's."""
        self._forget()
        saved = self._store.checkpoint(partition)
        self._progress[partition] = Progress.resumed(saved, generation, beginning)
        return self._progress[partition].offset

    def disown(self, partition: int) -> None:
        """Give a partition up, and with it every cached row."""
        self._progress.pop(partition, None)
        self._forget()

    def checkpoints(self) -> dict[int, Checkpoint]:
        """What could be saved now for each owned partition."""
        return {partition: p.checkpoint() for partition, p in self._progress.items()}

    def step(self, partition: int, blocks: Sequence[tuple[int, Block]]) -> int:
        """Fold consecutive (offset, block) pairs of one partition; returns rows written.

        Raises BlockGap where a block is missing, once everything before it is written; the
        partition can only be given up then, as after any other fault.
        """
        progress = self._progress[partition]
        touched: dict[str, dict[str, list[Ints]]] = defaultdict(lambda: defaultdict(list))
        if sum(map(len, self._tables.values())) > self._rows_max:
            self._forget()
        self._fetch([block for _, block in blocks])
        gap: str | None = None
        for offset, block in blocks:
            gap = progress.gap(block.header)
            if gap is not None:
                gap = f"offset {offset}: {gap}"
                break
            self._fold(progress, Marker(progress.generation, partition, offset), block, touched)
            progress.passed(offset, block.header)
        writes = [
            (self._tables[join_key], write)
            for join_key, views in touched.items()
            for write in self._tables[join_key].writes(
                {view: np.unique(np.concatenate(rows)) for view, rows in views.items()}
            )
        ]
        self._write(writes)
        if gap is not None:
            raise BlockGap(gap)
        return len(writes)

    def take_event_times(self) -> Ints:
        """Event times of all updates folded since the last call, in milliseconds."""
        times, self._event_times = self._event_times, []
        return np.concatenate(times) if times else np.zeros(0, np.int64)

    def _forget(self) -> None:
        strings = Strings()
        self._strings = strings
        self._tables = {
            entity.join_key: EntityTable(self.plan, entity, strings, self._others)
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
            fresh = self._fresh(updates.offset, chosen, high_water)  # rule 1
            self.counts["repeated_updates"] += len(chosen) - len(fresh)
            table = self._tables[view.entity.join_key]
            keys, place = np.unique(updates.key[fresh], return_inverse=True)
            rows = np.array([table.find(updates.keys[k]) for k in keys.tolist()], np.int64)
            open_ = np.array([self._is_open(table.markers[r], marker) for r in rows], np.bool_)
            kept = open_[place] if len(rows) else np.zeros(0, np.bool_)  # rule 2
            self.counts["skipped_updates"] += len(fresh) - int(kept.sum())
            fresh, place = fresh[kept], place[kept]
            if not len(fresh):
                continue
            table.tables[view.name].folding(updates, fresh, rows[place])(0, len(fresh))
            touched[view.entity.join_key][view.name].append(rows[open_])
            marked.append((table, rows[open_]))
            self.counts["folded_updates"] += len(fresh)
            times = updates.time[fresh]
            self._event_times.append(times)
            self.newest_event_time = max(self.newest_event_time, int(times.max()))
        for table, rows in marked:
            for row in rows.tolist():
                table.markers[row] = marker

    @staticmethod
    def _fresh(offsets: Ints, chosen: Ints, high_water: int) -> Ints:
        """Of the chosen updates those that no block before has brought."""
        return chosen[offsets[chosen] > high_water]

    @staticmethod
    def _is_open(stored: Marker | None, marker: Marker) -> bool:
        """Whether a row still wants a block; the row's marker covers what it holds already."""
        return stored is None or not stored.covers(marker.generation, marker.offset)

    def _write(self, writes: list[tuple[EntityTable, RowWrite]]) -> None:
        done = self._store.write([write for _, write in writes])
        self.counts["rows_written"] += len(writes)
        if not all(done):
            raise Fenced("another version stands in a row: another worker owns its partition")
        for table, write in writes:
            table.written(write)
