"""The archive of row versions as files: Parquet by view and day, and one record per span.

    row_versions/<view>/day=0000-00-00/schema.parquet     every column there ever was, no rows
    row_versions/<view>/day=2026-11-22/<span>.parquet     the versions of one span
    row_versions/_spans/<partition>/<span>.json           written last: the span is complete

`<span>` is generation, `updates` partition, first and last offset. A file appears whole or not
at all, and what is written under a name is always the same. The empty file sorts first, and
readers take a view's columns from the first file they meet: so files of all plans read as one.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple, Self

import pyarrow as pa

from features.errors import Refused
from features.offline import FOLDER, VersionView, day_of, unified
from features.spec import EntitySpec
from streaming.archive_folder import Folder

FORMAT_VERSION: Final = 1
SPANS: Final = "_spans"
_SCHEMA: Final = "day=0000-00-00/schema.parquet"
_ENTITY: Final = "headrace.entity"


class SpanName(NamedTuple):
    """What a file covers: offsets `first` to `last` of an `updates` partition in one life."""

    generation: int
    partition: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.generation:06d}-{self.partition:04d}-{self.first:016d}-{self.last:016d}"

    @classmethod
    def of(cls, path: str) -> Self:
        """The span in a file's name."""
        stem = path.rpartition("/")[2].partition(".")[0]
        return cls(*map(int, stem.split("-")))

    def holds(self, other: "SpanName") -> bool:
        """Whether this covers all that another does."""
        same = (self.generation, self.partition) == (other.generation, other.partition)
        return same and self.first <= other.first and other.last <= self.last


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One complete span: what it covers, when it could be known, and what resuming needs."""

    generation: int
    partition: int
    first: int
    last: int
    appended_at: int
    """ms; later than that of the span before."""
    append_time: int
    """ms; the latest append time of any block so far."""
    plan: str
    high_water: dict[str, int]
    versions: dict[str, int]
    """View → how many rows have a version in this span."""

    @property
    def name(self) -> SpanName:
        """What its files are called."""
        return SpanName(self.generation, self.partition, self.first, self.last)

    def encode(self) -> bytes:
        """JSON, format version first."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The record in a file; Refused when a later version wrote it."""
        fields = json.loads(content)
        version = fields.pop("format_version")
        if version != FORMAT_VERSION:
            raise Refused(
                f"the archive has format version {version}, this archiver writes {FORMAT_VERSION}: "
                "use the version of Headrace that wrote it"
            )
        return cls(**fields)


class ArchiveFiles:
    """The versions and span records of one archive."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def declare(self, views: Iterable[VersionView]) -> None:
        """Let every view have a file with all its columns, so that what is empty can be read."""
        for view in views:
            path = f"{FOLDER}/{view.name}/{_SCHEMA}"
            known = self._schema(view.name)
            try:
                schema = unified(known, view.schema, path)
            except ValueError as error:
                raise Refused(str(error)) from error
            if known is None or len(schema) > len(known):
                self._folder.put_table(path, schema, (), {_ENTITY: view.entity.model_dump_json()})

    def entities(self) -> dict[str, EntitySpec]:
        """The views there ever were, and whose rows they hold."""
        found = {}
        for path in self._folder.list(FOLDER):
            view = path.split("/")[1]
            if path.endswith(_SCHEMA) and (schema := self._schema(view)) is not None:
                found[view] = EntitySpec.model_validate_json(schema.metadata[_ENTITY.encode()])
        return found

    def _schema(self, view: str) -> pa.Schema | None:
        path = f"{FOLDER}/{view}/{_SCHEMA}"
        if not self._folder.list(path.rpartition("/")[0]):
            return None
        with self._folder.table(path) as file:
            return file.schema_arrow

    def put(
        self, view: VersionView, record: SpanRecord, versions: Iterable[pa.RecordBatch]
    ) -> None:
        """Write the versions of one view in a span."""
        path = f"{FOLDER}/{view.name}/day={day_of(record.appended_at)}/{record.name}.parquet"
        self._folder.put_table(path, view.schema, versions, {"headrace.plan": record.plan})

    def complete(self, record: SpanRecord) -> None:
        """Say that all files of a span are written."""
        path = f"{FOLDER}/{SPANS}/{record.partition:04d}/{record.name}.json"
        self._folder.put(path, record.encode())

    def newest(self, partition: int) -> SpanRecord | None:
        """The last complete span of a partition."""
        names = self._folder.list(f"{FOLDER}/{SPANS}/{partition:04d}")
        if not names:
            return None
        content = self._folder.get(names[-1])
        return SpanRecord.decode(content) if content else None

    def backwards(self, view: str, record: SpanRecord) -> Iterator[pa.RecordBatch]:
        """The versions of a view in a partition up to a span, the newest file and rows first."""
        paths = [p for p in self._versions(view) if SpanName.of(p).partition == record.partition]
        upto = (record.generation, record.last)
        for path in sorted(paths, key=SpanName.of, reverse=True):
            name = SpanName.of(path)
            if (name.generation, name.last) > upto:
                continue  # of a span that was not completed
            with self._folder.table(path) as file:
                for group in reversed(range(file.num_row_groups)):
                    yield from reversed(file.read_row_group(group).to_batches())

    def compact(self, view: str, partition: int, before: str) -> int:
        """Join a partition's files of each day before one into one; returns how many were joined.

        The joined file is there before its parts go, so a reader may for a moment meet a version
        twice, never miss one.
        """
        joined = 0
        days: dict[str, list[str]] = {}
        for path in self._versions(view):
            day = path.split("/")[-2]
            if day < f"day={before}" and SpanName.of(path).partition == partition:
                days.setdefault(day, []).append(path)
        for day, paths in days.items():
            for generation in sorted({SpanName.of(path).generation for path in paths}):
                of_life = [p for p in paths if SpanName.of(p).generation == generation]
                joined += self._join(f"{FOLDER}/{view}/{day}", of_life)
        return joined

    def _join(self, folder: str, paths: list[str]) -> int:
        names = [SpanName.of(path) for path in paths]
        whole = min(names)._replace(last=max(name.last for name in names))
        target = f"{folder}/{whole}.parquet"
        if len(paths) < 2:
            return 0
        if target not in paths:
            schema = None
            for path in paths:
                schema = unified(schema, self._folder.table(path).schema_arrow, path)
            assert schema is not None
            self._folder.put_table(target, schema, self._batches(paths, schema), {})
        for path in paths:
            if path != target:
                self._folder.remove(path)
        return len(paths)

    def _batches(self, paths: Iterable[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with self._folder.table(path) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    columns = [
                        table.column(f.name)
                        if f.name in table.schema.names
                        else pa.nulls(len(table), f.type)
                        for f in schema
                    ]
                    yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

    def _versions(self, view: str) -> list[str]:
        paths = self._folder.list(f"{FOLDER}/{view}")
        return [path for path in paths if not path.endswith(_SCHEMA)]
