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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.entities import EntityTable, RowWrite
from features.errors import HeadraceError
from features.layout import Ints
from features.marker import Marker
from features.row_store import Checkpoint, RowStore
from features.spec import Plan
from features.strings import Strings
from features.updates import Columns, joined
from streaming.blocks import Block, BlockHeader
from streaming.plans import all_plans


class Fenced(HeadraceError):
    """Another version stands in a row: another worker owns the partition now, or did lately."""


NONE_FRESH: Final = np.zeros(0, np.bool_)
OFFSET_MAX: Final = 2**63 - 1
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

    def copy(self) -> "Progress":
        """The same, to go on from and perhaps to drop."""
        sequences = {source: dict(known) for source, known in self.sequences.items()}
        return replace(self, high_water=dict(self.high_water), sequences=sequences)

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
        """What is missing before a block of its incarnation, from any source; else None."""
        for span in header.spans:
            name = header.source_name(span)
            known = self.sequences.get(name, {})
            last = known.get(header.incarnation)
            if last is None:
                # One that was seen before may have been forgotten, where there were too many.
                is_first = self.whole and len(known) < INCARNATIONS_MAX
                last = -1 if is_first else span.sequence - 1
            if span.sequence > last + 1:
                return (
                    f"incarnation {header.incarnation} of route sent block {span.sequence} of "
                    f"source {name} after {last if last >= 0 else 'none'}: blocks between them "
                    "are missing from `updates`; replay this span into a new project"
                )
        return None

    def reached(self, header: BlockHeader) -> Ints:
        """[update]: the last offset of its source that is folded, −1 for none."""
        high_water = [self.high_water.get(header.source_name(span), -1) for span in header.spans]
        return np.repeat(np.array(high_water, np.int64), [span.updates for span in header.spans])

    def passed(self, offset: int, header: BlockHeader) -> None:
        """Note that the block at an offset is folded."""
        self.offset, incarnation = offset + 1, header.incarnation
        for span in header.spans:
            name = header.source_name(span)
            self.high_water[name] = max(self.high_water.get(name, -1), span.last)
            known = self.sequences.setdefault(name, {})
            known[incarnation] = max(span.sequence, known.pop(incarnation, -1))
            if len(known) > INCARNATIONS_MAX:
                del known[next(iter(known))]


Placed = tuple[int, Block]
"""A block and its offset."""


class Part(NamedTuple):
    """One block of a step."""

    marker: Marker
    """What it makes of the rows it is folded into."""
    updates: Columns
    fresh: NDArray[np.bool_]
    """[update]: whether no block before has brought it."""


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

    def step(self, arrived: Mapping[int, Sequence[Placed]]) -> dict[int, str]:
        """Fold consecutive blocks of partitions; what is missing in those where a block is.

        Everything before a missing block is folded and written; such a partition can only be given
        up then. All partitions are folded at once, because every call, to a kernel or to the
        store, has a cost of its own: so a fault (`BadInput`, `Refused`) may be of any of them.
        Nothing is taken for folded then, and each can be tried alone.
        """
        if sum(map(len, self._tables.values())) > self._rows_max:
            self._forget()
        ahead: dict[int, Progress] = {}
        gaps: dict[int, str] = {}
        parts: list[Part] = []
        for partition, blocks in arrived.items():
            progress = ahead[partition] = self._progress[partition].copy()
            for offset, block in blocks:
                gap = progress.gap(block.header)
                if gap is not None:
                    gaps[partition] = f"offset {offset}: {gap}"
                    break
                reached = progress.reached(block.header)
                fresh = self._fresh(block.updates.offset, reached)  # rule 1
                marker = Marker(progress.generation, partition, offset)
                parts.append(Part(marker, block.updates, fresh))
                progress.passed(offset, block.header)
        # What a failed try counted counts for nothing: its blocks come again.
        before = self.counts.copy(), self._event_times.copy(), self.newest_event_time
        try:
            self._write(self._fold(parts))
        except HeadraceError:
            self._forget()
            self.counts, self._event_times, self.newest_event_time = before
            raise
        self._progress.update(ahead)
        return gaps

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

    def _fold(self, parts: Sequence[Part]) -> list[tuple[EntityTable, RowWrite]]:
        """Fold the updates of blocks; returns the writes of the rows they change."""
        updates = joined([part.updates for part in parts])
        place = np.repeat(np.arange(len(parts)), [len(part.updates) for part in parts])
        fresh = np.flatnonzero(np.concatenate([NONE_FRESH, *(part.fresh for part in parts)]))
        rows = self._rows(updates, fresh)
        row_of_key, last, covered = np.full((3, len(updates.keys)), -1, np.int64)
        np.maximum.at(last, updates.key[fresh], place[fresh])
        for key, (table, row) in rows.items():
            row_of_key[key], marker = row, parts[last[key]].marker
            covered[key] = self._covered(table.markers[row], marker.generation)
            # A row that is open for one block of a step is open for those after it.
            if marker.offset > covered[key]:
                table.markers[row] = marker
        offset = np.array([part.marker.offset for part in parts], np.int64)[place]
        chosen = fresh[offset[fresh] > covered[updates.key[fresh]]]  # rule 2
        self.counts["repeated_updates"] += len(updates) - len(fresh)
        self.counts["skipped_updates"] += len(fresh) - len(chosen)
        self.counts["folded_updates"] += len(chosen)
        self._event_times.append(updates.time[chosen])
        self.newest_event_time = int(updates.time[chosen].max(initial=self.newest_event_time))
        touched: dict[str, dict[str, Ints]] = defaultdict(dict)
        for v in np.unique(updates.view[chosen]).tolist():
            view, part = self.plan.views[v], chosen[updates.view[chosen] == v]
            found = row_of_key[updates.key[part]]
            join_key = view.entity.join_key
            folding = self._tables[join_key].tables[view.name].folding(updates, part, found)
            folding(0, len(part))
            touched[join_key][view.name] = np.unique(found)
        return [
            (self._tables[join_key], write)
            for join_key, views in touched.items()
            for write in self._tables[join_key].writes(views)
        ]

    def _rows(self, updates: Columns, fresh: Ints) -> dict[int, tuple[EntityTable, int]]:
        """The row of each key of the fresh updates; what the cache does not hold is read."""
        used, first = np.unique(updates.key[fresh], return_index=True)
        views = updates.view[fresh[first]]
        rows: dict[int, tuple[EntityTable, int]] = {}
        missing: dict[str, list[int]] = defaultdict(list)
        for key, v in zip(used.tolist(), views.tolist(), strict=True):
            join_key = self.plan.views[v].entity.join_key
            table, name = self._tables[join_key], updates.keys[key]
            found = table.find(name)
            if found is None:
                missing[join_key].append(key)
            rows[key] = table, table.row(name) if found is None else found
        names = [updates.keys[key] for keys in missing.values() for key in keys]
        contents = iter(self._store.read(names))
        for join_key, keys in missing.items():
            held = [(rows[key][1], content) for key in keys if (content := next(contents))]
            if held:
                self._tables[join_key].load(*zip(*held, strict=True))
        self.counts["rows_read"] += len(names)
        return rows

    @staticmethod
    def _fresh(offsets: Ints, reached: Ints) -> NDArray[np.bool_]:
        """Of the updates of a block those that no block before has brought."""
        return offsets > reached

    @staticmethod
    def _covered(stored: Marker | None, generation: int) -> int:
        """The last offset that a row holds already in a life of its topic, −1 for none."""
        if stored is None or stored.generation < generation:
            return -1
        return stored.offset if stored.generation == generation else OFFSET_MAX

    def _write(self, writes: list[tuple[EntityTable, RowWrite]]) -> None:
        done = self._store.write([write for _, write in writes])
        self.counts["rows_written"] += len(writes)
        if not all(done):
            raise Fenced("another version stands in a row: another worker owns its partition")
        for table, write in writes:
            table.written(write)
