"""Where replay takes recorded events from: archived logs, a file of events, a span of a topic."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import BadInput
from features.events import BadEvent
from streaming.event_file import read_batches
from streaming.kafka import Broker
from streaming.logs.files import LogFile, LogFiles, between, parts_of
from streaming.logs.schema import EVENT_LOG, PARSED, PARSED_KEY, event_batch
from streaming.records import Record
from streaming.replays.chunk import DICTIONARY

FILE_GENERATION: Final = 1
RAW: Final = ("offset", "append_time", "key", "value")


class Place(NamedTuple):
    """One partition of the events, in one life of its topic."""

    generation: int
    partition: int

    def __str__(self) -> str:
        return f"{self.generation}/{self.partition}"


class Recorded(Protocol):
    """Recorded events by partition; what is asked twice is the same."""

    name: str

    def places(self) -> list[Place]:
        """The partitions there are."""

    def count(self) -> int | None:
        """How many records there are, about; None where nobody knows."""

    def rows(
        self, place: Place, first: int, stop: int | None, columns: Sequence[str]
    ) -> Iterator[pa.Table]:
        """These columns of `logs.schema.EVENTS`, by offset, from `first` and below `stop`."""


class ArchivedEvents:
    """The archived log of `events`, up to an append time if one is given."""

    def __init__(self, files: LogFiles, name: str) -> None:
        self.name, self._files = name, files
        self._listed: dict[Place, list[LogFile]] = {}
        for file in files.all(EVENT_LOG.name):
            place = Place(file.name.generation, file.name.partition)
            self._listed.setdefault(place, []).append(file)
        if not self._listed:
            raise BadInput(
                f"{name} holds no archived events: `headrace archive log` writes them; a file of "
                "events ends in .jsonl or .jsonl.gz, and a topic is named kafka:TOPIC"
            )

    def places(self) -> list[Place]:
        """The partitions, those of older lives first."""
        return sorted(self._listed)

    def count(self) -> int:
        """Offsets that the files hold."""
        parts = (part for files in self._listed.values() for part in parts_of(files))
        return sum(part.last - part.first + 1 for part in parts)

    def rows(
        self, place: Place, first: int, stop: int | None, columns: Sequence[str]
    ) -> Iterator[pa.Table]:
        """Row group by row group; those that lie outside are not read."""
        for part in parts_of(self._listed[place]):
            low, high = max(first, part.first), part.last if stop is None else stop - 1
            high = min(high, part.last)
            if low > high:
                continue
            with self._files.open(part.file, DICTIONARY) as file:
                for group in range(file.num_row_groups):
                    if _within(file, group, low, high):
                        found = between(_read(file, group, columns), low, high)
                        if len(found):
                            yield found


class FileEvents:
    """A file of events, as one partition; each event was appended when it happened."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadInput(f"no file {path}: make one with `headrace adapt`, or name another")
        self.name, self._path = str(path), path

    def places(self) -> list[Place]:
        """The one partition."""
        return [Place(FILE_GENERATION, 0)]

    def count(self) -> int | None:
        """Nobody knows before it is read."""
        return None

    def rows(
        self, place: Place, first: int, stop: int | None, columns: Sequence[str]
    ) -> Iterator[pa.Table]:
        """The lines from number `first`, counted from 0 without blank ones."""
        offsets, newest = count(), 0
        held: list[pa.RecordBatch] = []
        for batch in read_batches(self._path):
            records, parsed = [], []
            for value, event in zip(batch.values, batch.events, strict=True):
                offset = next(offsets)
                if not isinstance(event, BadEvent):
                    newest = event.event_time
                if offset >= first and (stop is None or offset < stop):
                    records.append(Record(place.partition, offset, None, value, newest))
                    parsed.append(event)
            if records:
                held.append(event_batch(records, parsed).select(list(columns)))
            if sum(map(len, held)) >= CHUNK_RECORDS:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)


class TopicEvents:
    """A span of a topic: offsets from `first` and below `stop` of each partition."""

    def __init__(
        self, broker: Broker, topic: str, generation: int, first: int = 0, stop: int | None = None
    ) -> None:
        self.name, self._broker, self._topic = f"kafka:{topic}", broker, topic
        self._generation, self._first, self._stop = generation, first, stop

    def places(self) -> list[Place]:
        """The partitions of the topic as it stands."""
        return [Place(self._generation, p) for p in sorted(self._broker.ends(self._topic))]

    def count(self) -> int | None:
        """A broker's ends may be too low: nobody knows."""
        return None

    def rows(
        self, place: Place, first: int, stop: int | None, columns: Sequence[str]
    ) -> Iterator[pa.Table]:
        """Record by record as the broker gives them, until none comes."""
        stops = [s for s in (stop, self._stop) if s is not None]
        upto = min(stops) if stops else None
        held: list[pa.RecordBatch] = []
        low = max(first, self._first)
        for records in self._broker.span(self._topic, place.partition, low, upto):
            held.append(event_batch(records).select(list(columns)))
            if sum(map(len, held)) >= CHUNK_RECORDS:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)


CHUNK_RECORDS: Final = 65_536
"""Records that are gathered before they are folded."""


def _read(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    """One row group; parsed anew when another version wrote its columns."""
    if (file.schema_arrow.metadata or {}).get(PARSED_KEY) == PARSED.encode():
        return file.read_row_group(group, columns=list(columns), use_threads=False)
    raw = file.read_row_group(group, columns=list(RAW), use_threads=False)
    times = raw.column("append_time").cast(pa.int64()).to_pylist()
    rows = zip(*(raw.column(n).to_pylist() for n in ("offset", "key", "value")), times, strict=True)
    records = [Record(0, offset, key, value, at) for offset, key, value, at in rows]
    return pa.Table.from_batches([event_batch(records).select(list(columns))])


def _within(file: pq.ParquetFile, group: int, low: int, high: int) -> bool:
    statistics = file.metadata.row_group(group).column(0).statistics
    return statistics is None or (statistics.max >= low and statistics.min <= high)
