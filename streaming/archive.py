"""Archive: blocks of updates into row versions, the same ones for everybody who reads the log.

Rows are folded by `aggregate`'s own rules into a store of the archiver's. The log of each
`updates` partition is cut into spans, by nothing but the log itself: where an offset is a
multiple of `span_blocks`, where append time passes a multiple of `span_ms`, and where a block
names another plan. At the end of a span every row it changed gets a version, stamped with the
append time of the span's last block: the earliest instant at which that state could be known.

The order at the end of a span: 1. the versions of each view; 2. the span's record; 3. the
archiver's own rows and checkpoint, in one transaction. A crash between any two of them repeats
the span, and writes the same files.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from features.errors import HeadraceError, Refused
from features.offline import VersionView, day_of, stored_rows, version_views
from features.row_store import Checkpoint
from features.spec import Plan
from streaming.aggregate import Aggregator
from streaming.archive_files import ArchiveFiles, SpanRecord
from streaming.blocks import Block
from streaming.local_rows import LocalRows

log = logging.getLogger("headrace.archive")

BATCH_ROWS: Final = 4096
_SPAN: Final = "span"
Plans = Callable[[str], Plan]
"""The plan of a version."""


@dataclass(frozen=True, slots=True)
class SpanSettings:
    """Where the log of a partition is cut."""

    blocks: int
    """A span ends where the offset is a multiple of this."""
    ms: int
    """And where append time passes a multiple of this."""


class Arrived(NamedTuple):
    """A block as it stands in the log."""

    offset: int
    append_time: int
    block: Block


@dataclass(slots=True)
class _Open:
    """The span that blocks are folded into."""

    first: int
    last: int
    append_time: int
    """The latest so far, of any block."""
    period: int
    plan: str


class BlockGap(HeadraceError):
    """Blocks of one incarnation are missing: what follows them cannot be archived."""


class PartitionArchive:
    """The archive of one `updates` partition: owned by one worker, folded block by block.

    A worker that lost the partition without knowing writes what its successor writes, so nothing
    need keep the two apart.
    """

    def __init__(
        self,
        partition: int,
        generation: int,
        plan: Plan,
        plans: Plans,
        rows: LocalRows,
        files: ArchiveFiles,
        settings: SpanSettings,
        rows_max: int = 200_000,
    ) -> None:
        self.partition, self._generation = partition, generation
        self._plans, self._rows, self._files = plans, rows, files
        self._settings = settings
        self._aggregator = Aggregator(plan, rows, rows_max)
        self._open: _Open | None = None
        self._before: SpanRecord | None = None
        self._views: list[VersionView] = []
        self.counts: Counter[str] = Counter()

    @property
    def newest(self) -> SpanRecord | None:
        """The last span that was completed."""
        return self._before

    @property
    def waiting(self) -> int:
        """Offsets read whose span is not complete."""
        return 0 if self._open is None else self._open.last - self._open.first + 1

    def resume(self, beginning: int) -> int:
        """The offset to read from: where the last complete span ended.

        The archiver's own rows are used when they stand at a span of this archive, and are made
        again from its versions otherwise. Refused when blocks are gone that no span covers.
        """
        self._declare(self._aggregator.plan)
        newest = self._files.newest(self.partition)
        kept = self._rows.remembered(_SPAN).get(str(self.partition))
        own = SpanRecord.decode(kept.encode()) if kept else None
        if own != newest and not self._catches_up(own, newest, beginning):
            own = newest
            self._rebuild(newest)
        self._before = own
        if own is not None:
            self._compact(day_of(own.appended_at))  # what a crash left to be joined
        offset = self._aggregator.own(self.partition, self._generation, beginning)
        same_life = own is not None and own.generation == self._generation
        if (offset if same_life else 0) < beginning:
            raise Refused(
                f"blocks {offset if same_life else 0}..{beginning - 1} of updates partition "
                f"{self.partition} were deleted before they were archived, and rows are not known "
                "without them: replay into a new project, with the archiver running"
            )
        return offset

    def step(self, arrived: Sequence[Arrived]) -> None:
        """Fold consecutive blocks, completing the spans that end among them."""
        start = 0
        for place, (offset, append_time, block) in enumerate(arrived):
            if self._ends_before(offset, append_time, block):
                self._fold(arrived[start:place])
                self._complete()
                start = place
            self._extend(offset, append_time, block)
            if (offset + 1) % self._settings.blocks == 0:
                self._fold(arrived[start : place + 1])
                self._complete()
                start = place + 1
        self._fold(arrived[start:])

    def close(self) -> None:
        """Drop the span that is open; it is read again."""
        self._rows.close()

    def _ends_before(self, offset: int, append_time: int, block: Block) -> bool:
        span, settings = self._open, self._settings
        if span is None:
            return False
        latest = max(append_time, span.append_time)
        return (
            offset // settings.blocks != span.first // settings.blocks
            or latest // settings.ms != span.period
            or block.header.plan != span.plan
        )

    def _extend(self, offset: int, append_time: int, block: Block) -> None:
        if self._open is None:
            latest = max(append_time, self._before.append_time if self._before else 0)
            period = latest // self._settings.ms
            self._open = _Open(offset, offset, latest, period, block.header.plan)
        self._open.last = offset
        self._open.append_time = max(append_time, self._open.append_time)

    def _fold(self, arrived: Sequence[Arrived]) -> None:
        if not arrived:
            return
        version = arrived[0].block.header.plan
        if self._aggregator.plan.version != version:
            plan = self._plans(version)
            self._aggregator.use(plan)
            self._declare(plan)
            log.info("archives by plan %s from offset %s", version, arrived[0].offset)
        gaps = self._aggregator.step({self.partition: [(a.offset, a.block) for a in arrived]})
        if gaps:
            raise BlockGap(gaps[self.partition])
        self.counts["archived_blocks"] += len(arrived)

    def _declare(self, plan: Plan) -> None:
        self._views = version_views(plan)
        self._files.declare(self._views)

    def _complete(self) -> None:
        """Write the versions of the open span, say so, and keep the rows."""
        span = self._open
        assert span is not None
        before = self._before
        appended_at = max(span.append_time, before.appended_at + 1 if before else 0)
        checkpoint = self._aggregator.checkpoints()[self.partition]
        record = SpanRecord(
            generation=self._generation,
            partition=self.partition,
            first=span.first,
            last=span.last,
            appended_at=appended_at,
            append_time=span.append_time,
            plan=span.plan,
            high_water=dict(sorted(checkpoint.high_water.items())),
            versions={},
        )
        for view in self._views:
            if (changed := self._rows.count_touched(view.name)) == 0:
                continue
            some = self._rows.touched(view.name, BATCH_ROWS)
            self._files.put(view, record, (view.batch(rows, appended_at) for rows in some))
            record.versions[view.name] = changed
            self.counts["archived_versions"] += changed
        self._files.complete(record)
        self._rows.take()
        self._keep(record)
        self.counts["archived_spans"] += 1
        self._open, self._before = None, record
        if before is not None and day_of(before.appended_at) < day_of(appended_at):
            self._compact(day_of(appended_at))

    def _compact(self, today: str) -> None:
        for view in self._views:
            joined = self._files.compact(view.name, self.partition, today)
            self.counts["compacted_files"] += joined

    def _keep(self, record: SpanRecord) -> None:
        """Let the archiver's own rows stand at a span."""
        checkpoint = Checkpoint(
            generation=record.generation, offset=record.last + 1, high_water=record.high_water
        )
        self._rows.save_checkpoint(self.partition, checkpoint)
        self._rows.replace(_SPAN, str(self.partition), record.encode().decode())
        self._rows.seal()

    def _catches_up(
        self, own: SpanRecord | None, newest: SpanRecord | None, beginning: int
    ) -> bool:
        """Whether the archiver's own rows reach the newest span by reading the log again."""
        return (
            own is not None
            and newest is not None
            and own.generation == newest.generation == self._generation
            and beginning <= own.last + 1 <= newest.last
        )

    def _rebuild(self, newest: SpanRecord | None) -> None:
        """Make the archiver's own rows again from the newest version of each."""
        self._rows.clear()
        if newest is None:
            return
        log.info("rebuilds rows of updates partition %s from their versions", self.partition)
        project = self._aggregator.plan.project
        for view, entity in self._files.entities().items():
            for versions in self._files.backwards(view, newest):
                for key, fields in stored_rows(view, entity, project, versions):
                    self._rows.restore(key, view, fields)
        self._rows.take()
        self._keep(newest)
