"""The `archive` process: polls blocks and folds them into the row versions of its partitions.

Its place in the log stands in the archive itself; what it commits to Kafka is for lag monitors.
"""

import logging
import time
from collections.abc import Callable, Sequence

from streaming.archive import Arrived, PartitionArchive
from streaming.blocks import decode_block
from streaming.metrics import Observer
from streaming.records import Record, RecordSource

log = logging.getLogger("headrace.archive")

BLOCKS_PER_STEP = 64


class ArchiveWorker:
    """One incarnation of `archive`: from joining the group until a fault or a stop."""

    def __init__(
        self,
        source: RecordSource,
        archive_of: Callable[[int], PartitionArchive],
        observer: Observer,
        idle_ms: int | None,
        finished: Callable[[], None],
    ) -> None:
        self._source, self._archive_of, self._observer = source, archive_of, observer
        self._idle_ms, self._finished = idle_ms, finished
        self._owned: dict[int, PartitionArchive] = {}
        self._committed: dict[int, int] = {}
        self.joined = False

    def gained(self, partitions: Sequence[int]) -> None:
        """Take partitions over from their newest spans."""
        for partition in partitions:
            archive = self._owned[partition] = self._archive_of(partition)
            self._source.seek(partition, archive.resume(self._source.beginning(partition)))
        self.joined = True
        log.info("archives updates partitions %s", sorted(self._owned))

    def lost(self, partitions: Sequence[int]) -> None:
        """Give partitions up; their open spans are read again by the next owner."""
        for partition in partitions:
            if partition in self._owned:
                self._owned.pop(partition).close()

    def run(self, stopping: Callable[[], bool], poll_timeout_ms: int) -> None:
        """Work until told to stop, or until nothing comes; a fault ends the incarnation."""
        self._source.subscribe(self)
        heard = time.monotonic()
        while not stopping():
            for partition, records in self._source.poll(poll_timeout_ms).items():
                if records and partition in self._owned:
                    self._fold(self._owned[partition], records)
                    heard = time.monotonic()
            self._commit()
            if not self._owned:
                heard = time.monotonic()
            idle_ms = 1000 * (time.monotonic() - heard)
            if self._idle_ms is not None and idle_ms > self._idle_ms:
                self._say_what_waits()
                self._finished()
                return

    def close(self) -> None:
        """Drop what is open."""
        self.lost(list(self._owned))

    def _fold(self, archive: PartitionArchive, records: Sequence[Record]) -> None:
        for start in range(0, len(records), BLOCKS_PER_STEP):
            archive.step(
                [
                    Arrived(record.offset, record.append_time, decode_block(record.value or b""))
                    for record in records[start : start + BLOCKS_PER_STEP]
                ]
            )
        self._observer.add(archive.counts)
        archive.counts.clear()
        if archive.newest is not None:
            self._observer.set("newest_archived_ms", archive.newest.appended_at)

    def _commit(self) -> None:
        complete = {
            partition: archive.newest.last + 1
            for partition, archive in self._owned.items()
            if archive.newest is not None
        }
        moved = {p: offset for p, offset in complete.items() if self._committed.get(p) != offset}
        if moved:
            self._source.commit(moved)
            self._committed |= moved

    def _say_what_waits(self) -> None:
        for partition, archive in sorted(self._owned.items()):
            upto = f"up to offset {archive.newest.last}" if archive.newest else "nothing yet"
            log.info(
                "updates partition %s: archived %s; %s more wait for the end of their span",
                partition,
                upto,
                archive.waiting,
            )
