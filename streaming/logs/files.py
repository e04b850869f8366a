"""The files of archived logs: Parquet by kind, day and hour of append time.

    logs/events/day=2026-11-22/hour=14/<span>.parquet

`<span>` is generation, partition, first and last offset (`streaming.archive_files.SpanName`). What
is written under a name is always the same, so a crash repeats a file and never a record. Where two
files hold an offset (a compaction that was cut short, two archivers), a reader takes it once.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.archive_files import SpanName
from streaming.archive_folder import Folder
from streaming.logs.schema import LogKind

FOLDER: Final = "logs"
JOINED_RECORDS_MAX: Final = 1_000_000
"""About how many records a file has at most that compaction makes."""
GROUP_RECORDS: Final = 131_072
"""Records of a row group: what a reader holds at a time."""


class LogFile(NamedTuple):
    """One file of a log."""

    name: SpanName
    path: str

    @classmethod
    def of(cls, path: str) -> Self:
        """The file at a path."""
        return cls(SpanName.of(path), path)

    @property
    def hour(self) -> str:
        """The folder of its day and hour."""
        return self.path.rpartition("/")[0]


class Part(NamedTuple):
    """What a reader takes of a file: offsets `first` to `last`, which no file before it holds."""

    file: LogFile
    first: int
    last: int


class LogFiles:
    """The archived logs below one root."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def kinds(self) -> list[str]:
        """The kinds of logs there are."""
        return sorted({path.split("/")[1] for path in self._folder.list(FOLDER)})

    def all(self, kind: str) -> list[LogFile]:
        """The files of a log, by generation, partition and offset, the longest of equals first."""
        found = (path for path in self._folder.list(f"{FOLDER}/{kind}") if ".parquet" in path)
        return sorted(map(LogFile.of, found), key=lambda f: (*f.name[:3], -f.name.last))

    def name_life(self, kind: str, generation: int, topic_id: str) -> None:
        """Note which life of a topic a generation is, by the id the broker gave it."""
        self._folder.put(f"{FOLDER}/{kind}/lives/{generation:06d}.json", _life(topic_id))

    def lives(self, kind: str) -> dict[int, str]:
        """The ids of a topic by generation."""
        found = {}
        for path in self._folder.list(f"{FOLDER}/{kind}/lives"):
            content = self._folder.get(path) or b"{}"
            found[int(path.rpartition("/")[2].partition(".")[0])] = json.loads(content)["topic_id"]
        return found

    def newest(self, kind: str, generation: int, partition: int) -> SpanName | None:
        """The file that reaches furthest in a partition."""
        mine = (f.name for f in self.all(kind) if f.name[:2] == (generation, partition))
        return max(mine, key=lambda name: name.last, default=None)

    def put(self, kind: LogKind, name: SpanName, append_ms: int, batch: pa.RecordBatch) -> None:
        """Write one file, by the hour of an append time."""
        path = f"{FOLDER}/{kind.name}/{hour_of(append_ms)}/{name}.parquet"
        self._folder.put_table(path, kind.schema, (batch,), dict(_about(kind)))

    def open(self, file: LogFile, dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        """A file, to be read part by part."""
        return self._folder.table(file.path, dictionary)

    def compact(self, kind: LogKind, generation: int, partition: int, before_ms: int) -> int:
        """Join a partition's files of each hour before an instant; returns how many were joined.

        A joined file is there before its parts go, and holds every offset of theirs once.
        """
        mine = [f for f in self.all(kind.name) if f.name[:2] == (generation, partition)]
        hours: dict[str, list[LogFile]] = {}
        for file in mine:
            if file.hour.partition("day=")[2] < hour_of(before_ms).partition("day=")[2]:
                hours.setdefault(file.hour, []).append(file)
        return sum(self._join(kind, group) for files in hours.values() for group in _groups(files))

    def _join(self, kind: LogKind, files: Sequence[LogFile]) -> int:
        parts = list(parts_of(files))
        whole = parts[0].file.name._replace(last=parts[-1].last)
        target = f"{files[0].hour}/{whole}.parquet"
        if len(files) < 2:
            return 0
        if all(file.path != target for file in files):
            batches = (batch for part in parts for batch in self._rows(part))
            self._folder.put_table(target, kind.schema, _regrouped(batches), dict(_about(kind)))
        for file in files:
            if file.path != target:
                self._folder.remove(file.path)
        return len(files)

    def _rows(self, part: Part) -> Iterator[pa.RecordBatch]:
        with self.open(part.file) as file:
            for group in range(file.num_row_groups):
                yield from between(file.read_row_group(group), part.first, part.last).to_batches()


def parts_of(files: Iterable[LogFile]) -> Iterator[Part]:
    """What to read of the files of one partition in a life, in order: every offset once."""
    upto = -1
    for file in files:
        if file.name.last > upto:
            yield Part(file, max(file.name.first, upto + 1), file.name.last)
            upto = file.name.last


def between(table: pa.Table, first: int, last: int) -> pa.Table:
    """The rows of a table in order of offset that lie between two, both included."""
    offsets = table.column("offset").to_numpy()
    start, stop = offsets.searchsorted(first), offsets.searchsorted(last, "right")
    return table.slice(start, stop - start)


def _life(topic_id: str) -> bytes:
    return json.dumps({"topic_id": topic_id}).encode()


def hour_of(ms: int) -> str:
    """The folders of a time in ms, UTC."""
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return f"day={at.date().isoformat()}/hour={at.hour:02d}"


def _groups(files: Sequence[LogFile]) -> Iterator[list[LogFile]]:
    """Files that follow each other without a gap, so many that a joined file stays handy."""
    group: list[LogFile] = []
    upto = count = 0
    for file in files:
        records = file.name.last - file.name.first + 1
        if group and (file.name.first > upto + 1 or count + records > JOINED_RECORDS_MAX):
            yield group
            group, count = [], 0
        upto = max(upto, file.name.last) if group else file.name.last
        group.append(file)
        count += records
    if group:
        yield group


def _regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of GROUP_RECORDS, each of which becomes one row group."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= GROUP_RECORDS:
            table = pa.Table.from_batches(held).combine_chunks()
            whole = len(table) - len(table) % GROUP_RECORDS
            yield from table.slice(0, whole).to_batches(GROUP_RECORDS)
            held = table.slice(whole).to_batches()
    if sum(map(len, held)):
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()


def _about(kind: LogKind) -> Iterator[tuple[str, str]]:
    for key, value in (kind.schema.metadata or {}).items():
        yield key.decode(), value.decode()
