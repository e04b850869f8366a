"""One partition of a topic into files, each record once.

The log is cut by nothing but itself: where an offset is a multiple of `records`, where append time
passes a multiple of `ms` or the hour changes. So whoever reads it writes the same files, and the
file that reaches furthest says where to go on: there is no other state to lose.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from streaming.archive_files import SpanName
from streaming.logs.files import LogFiles
from streaming.logs.schema import LogKind
from streaming.records import Record

log = logging.getLogger("headrace.archive")

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class CutSettings:
    """Where the log of a partition is cut into files."""

    records: int
    """A file ends where the offset is a multiple of this."""
    ms: int
    """And where append time passes a multiple of this."""


class PartitionLog:
    """The archived log of one partition of a topic, in one life of it."""

    def __init__(
        self, partition: int, generation: int, kind: LogKind, files: LogFiles, cut: CutSettings
    ) -> None:
        self.partition, self._generation, self._kind = partition, generation, kind
        self._files, self._cut = files, cut
        self._held: list[Record] = []
        self._next = 0
        self._latest = 0
        """The latest append time so far: a log may tell of an earlier one after it."""
        self.counts: Counter[str] = Counter()

    @property
    def complete(self) -> int | None:
        """The offset after the last that is in a file."""
        return self._held[0].offset if self._held else self._next or None

    @property
    def archived_at(self) -> int:
        """The latest append time that is in a file, ms."""
        return self._latest

    @property
    def waiting(self) -> int:
        """Records that were read and are in no file yet."""
        return len(self._held)

    def resume(self, beginning: int) -> int:
        """The offset to read from. What was deleted before it was archived stays a gap."""
        newest = self._files.newest(self._kind.name, self._generation, self.partition)
        self._next = 0 if newest is None else newest.last + 1
        if self._next < beginning:
            log.error(
                "%s %s..%s of partition %s were deleted before they were archived: `headrace "
                "archive show` tells of the gap",
                self._kind.name,
                self._next,
                beginning - 1,
                self.partition,
            )
            self._next = beginning
        return self._next

    def take(self, records: Sequence[Record]) -> None:
        """Take in consecutive records, writing the files that end among them."""
        for record in records:
            if self._held and self._ends_before(record):
                self.flush()
            self._held.append(record)
            self._latest = max(self._latest, record.append_time)
            if (record.offset + 1) % self._cut.records == 0:
                self.flush()

    def flush(self) -> None:
        """Write what is held as a file of its own."""
        if not self._held:
            return
        last = self._held[-1].offset
        # From the offset that was due: what a broker leaves out between two records is no gap.
        name = SpanName(self._generation, self.partition, self._next, last)
        self._files.put(self._kind, name, self._latest, self._kind.batch(self._held))
        self.counts["archived_records"] += len(self._held)
        self._held, self._next = [], last + 1

    def close(self) -> None:
        """Drop what is held; it is read again."""
        self._held = []

    def compact(self) -> None:
        """Join the small files of the hours before the newest one."""
        joined = self._files.compact(self._kind, self._generation, self.partition, self._latest)
        self.counts["compacted_files"] += joined

    def _ends_before(self, record: Record) -> bool:
        latest = max(record.append_time, self._latest)
        spans = (self._cut.ms, HOUR_MS)
        return any(latest // span != self._latest // span for span in spans)
