"""The worker that archives logs: one member of a group per topic, in one process."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from streaming.logs.writer import PartitionLog
from streaming.metrics import Observer
from streaming.records import RecordSource

log = logging.getLogger("headrace.archive")

COMPACT_EVERY_S: Final = 60.0


@dataclass
class TopicLog:
    """The partitions of one topic that this member archives."""

    topic: str
    source: RecordSource
    log_of: Callable[[int], PartitionLog]
    owned: dict[int, PartitionLog] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    joined: bool = False

    def gained(self, partitions: Sequence[int]) -> None:
        """Take partitions over from where their files end."""
        for partition in partitions:
            found = self.owned[partition] = self.log_of(partition)
            self.source.seek(partition, found.resume(self.source.beginning(partition)))
        self.joined = True
        log.info("archives partitions %s of %s", sorted(self.owned), self.topic)

    def lost(self, partitions: Sequence[int]) -> None:
        """Give partitions up; what is in no file yet is read again by the next owner."""
        for partition in partitions:
            self.committed.pop(partition, None)
            if partition in self.owned:
                self.owned.pop(partition).close()

    def turn(self, poll_timeout_ms: int) -> int:
        """Poll once and take in what came; returns how many records did."""
        polled = self.source.poll(poll_timeout_ms)
        count = 0
        for partition, records in polled.items():
            if records and partition in self.owned:
                self.owned[partition].take(records)
                count += len(records)
        self.commit()
        return count

    def commit(self) -> None:
        """Tell lag monitors how far the files reach."""
        complete = {p: one.complete for p, one in self.owned.items()}
        moved = {p: at for p, at in complete.items() if at and self.committed.get(p) != at}
        if moved:
            self.source.commit(moved)
            self.committed |= moved


class LogWorker:
    """One incarnation of the process that archives logs."""

    def __init__(
        self,
        topics: Sequence[TopicLog],
        observer: Observer,
        idle_ms: int | None,
        finished: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics, self._observer = topics, observer
        self._idle_ms, self._finished, self._clock = idle_ms, finished, clock

    @property
    def joined(self) -> bool:
        """Whether every group took this member in."""
        return all(topic.joined for topic in self._topics)

    def run(self, stopping: Callable[[], bool], poll_timeout_ms: int) -> None:
        """Work until told to stop, or until nothing comes; a fault ends the incarnation."""
        for topic in self._topics:
            topic.source.subscribe(topic)
        # Each on a thread of its own: a client throws away a place in its group that it is given
        # while nobody waits in `poll`, and asks for one again.
        with ThreadPoolExecutor(len(self._topics), "archive") as threads:
            self._run(threads, stopping, poll_timeout_ms)

    def _run(
        self, threads: ThreadPoolExecutor, stopping: Callable[[], bool], poll_timeout_ms: int
    ) -> None:
        heard = compacted = self._clock()
        while not stopping():
            came = sum(threads.map(lambda topic: topic.turn(poll_timeout_ms), self._topics))
            self._count()
            now = self._clock()
            if came or not self.joined:
                heard = now
            if now - compacted > COMPACT_EVERY_S:
                self._each(PartitionLog.compact)
                compacted = now
            if self._idle_ms is not None and 1000 * (now - heard) > self._idle_ms:
                self._each(PartitionLog.flush)
                self._each(PartitionLog.compact)
                self._count()
                for topic in self._topics:
                    topic.commit()
                self._finished()
                return

    def close(self) -> None:
        """Drop what is in no file yet."""
        for topic in self._topics:
            topic.lost(list(topic.owned))

    def _each(self, do: Callable[[PartitionLog], None]) -> None:
        for topic in self._topics:
            for one in topic.owned.values():
                do(one)

    def _count(self) -> None:
        counts: Counter[str] = Counter()
        for topic in self._topics:
            for one in topic.owned.values():
                counts += one.counts
                one.counts.clear()
        self._observer.add(counts)
