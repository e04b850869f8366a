"""An archive of made-up blocks, for tests: logs, workers that die, and what the files then hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.codec import field_name, updated_at_field
from features.entities import EntityTable, Hash
from features.events import Event
from features.offline import FOLDER, stored_rows
from features.row_store import MemoryRows
from features.spec import Plan
from features.strings import Strings
from streaming.archive import Arrived, PartitionArchive, SpanSettings
from streaming.archive_files import SPANS, ArchiveFiles, SpanName, SpanRecord
from streaming.archive_folder import ArrowFolder, Folder
from streaming.local_rows import LocalRows
from streaming.route import RouteSettings
from tests.pipeline import GENERATION, SETTINGS, blocks_by_target, fold_logs, routed, unmarked

Log = list[Arrived]
EARLY = 1_700_000_000_000


class Crash(Exception):
    """The worker is gone."""


class Mortal:
    """A folder whose worker dies at its n-th write: just before it, or just after."""

    def __init__(self, folder: Folder, writes: int, after: bool) -> None:
        self._folder, self._left, self._after = folder, writes, after

    def put(self, path: str, content: bytes) -> None:
        self._die_before()
        self._folder.put(path, content)
        self._die_after()

    def put_table(
        self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], about: dict[str, str]
    ) -> None:
        self._die_before()
        self._folder.put_table(path, schema, batches, about)
        self._die_after()

    def remove(self, path: str) -> None:
        self._die_before()
        self._folder.remove(path)
        self._die_after()

    def get(self, path: str) -> bytes | None:
        return self._folder.get(path)

    def table(self, path: str, dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        return self._folder.table(path, dictionary)

    def list(self, path: str) -> list[str]:
        return self._folder.list(path)

    def _die_before(self) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash

    def _die_after(self) -> None:
        if self._left == 0:
            raise Crash


@dataclass
class Ground:
    """Where one archive and its workers' own rows are."""

    root: Path
    state: Path
    plans: dict[str, Plan]
    settings: SpanSettings
    uri: str | None = None
    """Where the archive's files are, when they are not below `root`."""

    @property
    def folder(self) -> Folder:
        """The archive's files."""
        return ArrowFolder(self.uri or str(self.root))

    def archive(
        self, partition: int, plan: Plan, folder: Folder | None = None, generation: int = GENERATION
    ) -> PartitionArchive:
        """A worker's archive of one partition, before it resumes."""
        return PartitionArchive(
            partition,
            generation,
            plan,
            self.plans.__getitem__,
            LocalRows(self.state / f"{partition}.sqlite"),
            ArchiveFiles(folder or self.folder),
            self.settings,
        )

    def run(
        self,
        logs: dict[int, Log],
        plan: Plan,
        step: int = 7,
        folder: Folder | None = None,
        upto: int | None = None,
    ) -> None:
        """Archive logs from where each stands, some blocks at a time."""
        for partition, log in sorted(logs.items()):
            archive = self.archive(partition, plan, folder)
            try:
                start = archive.resume(0)
                for at in range(start, len(log) if upto is None else min(upto, len(log)), step):
                    archive.step(log[at : at + step])
            finally:
                archive.close()

    def content(self) -> dict[str, bytes]:
        """The bytes of every file."""
        return contents(self.folder)

    def records(self) -> list[SpanRecord]:
        """The complete spans, by partition and offset."""
        paths = self.folder.list(f"{FOLDER}/{SPANS}")
        return [SpanRecord.decode((self.root / path).read_bytes()) for path in paths]

    def versions(self, record: SpanRecord, plan: Plan) -> dict[tuple[str, bytes], Hash]:
        """The (view, key) → fields of one span, as they would be stored again."""
        found = {}
        for view in plan.views:
            for path in self.folder.list(f"{FOLDER}/{view.name}"):
                if not path.endswith("schema.parquet") and SpanName.of(path) == record.name:
                    for batch in pq.read_table(self.root / path, partitioning=None).to_batches():
                        for key, row in stored_rows(view.name, view.entity, plan.project, batch):
                            found[view.name, key] = row
        return found


def contents(folder: Folder) -> dict[str, bytes]:
    """The bytes of every file of a folder, but for what was left aside."""
    paths = (path for path in folder.list("") if not path.startswith(".staging"))
    return {path: folder.get(path) or b"" for path in paths}


def newest_versions(root: Path | str, plan: Plan, partitions: int) -> dict[tuple[str, bytes], Hash]:
    """The (view, key) → fields of the newest version of every row, as they would be stored."""
    files = ArchiveFiles(ArrowFolder(str(root)))
    found: dict[tuple[str, bytes], Hash] = {}
    for partition in range(partitions):
        record = files.newest(partition)
        for view in plan.views if record else ():
            assert record is not None
            for batch in files.backwards(view.name, record):
                for key, row in stored_rows(view.name, view.entity, plan.project, batch):
                    found.setdefault((view.name, key), row)
    return found


def view_of(row: Hash, view: str, of: Plan) -> Hash:
    """The fields of one view in a row; null and absent are one thing in a column."""
    (spec,) = (v for v in of.views if v.name == view)
    fields = EntityTable(of, spec.entity, Strings()).tables[view].fields
    names = {updated_at_field(view), *(field_name(view, field) for field in fields)}
    return {name: value for name, value in row.items() if name in names and value}


def arrived(
    events: Sequence[Event],
    plan: Plan,
    times: Sequence[int] = (),
    batch: int = 2,
    settings: RouteSettings = SETTINGS,
) -> dict[int, Log]:
    """What route makes of events, as it stands in each partition of `updates`."""
    logs = blocks_by_target(routed(events, plan, batch, settings))
    return {
        partition: [
            Arrived(offset, times[offset % len(times)] if times else EARLY + offset, block)
            for offset, block in log
        ]
        for partition, log in logs.items()
    }


def rows_after(log: Log, plan: Plan) -> dict[bytes, Hash]:
    """The rows that aggregate makes of a log, without markers."""
    store = MemoryRows()
    fold_logs({0: [(a.offset, a.block) for a in log]}, plan, store)
    return unmarked(store.rows)
