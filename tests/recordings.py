"""Recorded events for tests: archived logs in a folder, or lists that stand for one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from features.entities import Hash
from features.events import Event, dump_event
from features.row_store import MemoryRows, RowStore
from features.spec import Plan
from streaming.archive_folder import ArrowFolder
from streaming.logs.files import LogFiles
from streaming.logs.schema import EVENT_LOG, event_batch
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.records import Record
from streaming.replays.engine import Phase, Replay, ReplaySettings
from streaming.replays.recorded import ArchivedEvents, Place, Recorded
from tests.pipeline import GENERATION, LONG_AFTER, SETTINGS, records_of, unmarked

ROUTED = ReplaySettings(horizon=SETTINGS.horizon, max_ahead_ms=SETTINGS.max_ahead_ms)
"""What the routers of `tests.pipeline` go by."""


@dataclass
class ListedEvents:
    """Records by partition, in chunks of a few."""

    values: Mapping[int, Sequence[bytes | None]]
    size: int = 7
    append_time: int = LONG_AFTER
    name: str = "a list"
    read: list[tuple[Place, int]] = field(default_factory=list)

    def places(self) -> list[Place]:
        return [Place(GENERATION, partition) for partition in sorted(self.values)]

    def count(self) -> int:
        return sum(map(len, self.values.values()))

    def rows(
        self, place: Place, first: int, stop: int | None, columns: Sequence[str]
    ) -> Iterator[pa.Table]:
        self.read.append((place, first))
        records = records_of(self.values[place.partition], 0, place.partition, self.append_time)
        wanted = records[first:stop]
        for start in range(0, len(wanted), self.size):
            batch = event_batch(wanted[start : start + self.size])
            yield pa.Table.from_batches([batch.select(list(columns))])


def listed(events: Sequence[Event], size: int = 7, partitions: int = 1) -> ListedEvents:
    """Events dealt out to partitions in turn."""
    values: dict[int, list[bytes | None]] = {p: [] for p in range(partitions)}
    for number, event in enumerate(events):
        values[number % partitions].append(dump_event(event))
    return ListedEvents(values, size)


def replay_of(
    plan: Plan,
    recorded: Recorded,
    store: RowStore | None = None,
    settings: ReplaySettings = ROUTED,
) -> Replay:
    """A replay from the beginning by one plan."""
    return Replay(recorded, [Phase(plan, {})], store or MemoryRows(), settings)


def replayed_rows(plan: Plan, recorded: Recorded) -> dict[bytes, Hash]:
    """The rows of a whole replay, without markers."""
    store = MemoryRows()
    replay = replay_of(plan, recorded, store)
    replay.run()
    replay.finish()
    return unmarked(store.rows)


def archived(
    folder: Path, records: Mapping[int, Sequence[Record]], size: int = 10
) -> ArchivedEvents:
    """Records of `events` by partition, archived in a folder."""
    files = LogFiles(ArrowFolder(str(folder)))
    for partition, some in records.items():
        one = PartitionLog(partition, GENERATION, EVENT_LOG, files, CutSettings(size, 60_000))
        one.resume(0)
        one.take(some)
        one.flush()
    return ArchivedEvents(files, str(folder))
