"""The `aggregate` process: polls blocks, folds them, writes rows, checkpoints what is safe.

The order of one turn: 1. poll; 2. fold and write the rows (they are visible at once); 3. now and
then seal what was written and note how far it reaches; 4. once the seal says safe, save that
checkpoint, then commit to Kafka for lag monitors.
"""

import logging
import time
from collections.abc import Callable, Sequence

from features.errors import BadInput
from features.row_store import Checkpoint, RowStore, Seal
from streaming.aggregate import Aggregator
from streaming.blocks import decode_block
from streaming.metrics import Observer
from streaming.plans import load_plan
from streaming.records import Record, RecordSource

log = logging.getLogger("headrace.aggregate")


class AggregateWorker:
    """One incarnation of `aggregate`: from joining the group until a fault or a stop."""

    def __init__(
        self,
        source: RecordSource,
        store: RowStore,
        aggregator: Aggregator,
        generation: int,
        observer: Observer,
        checkpoint_interval_ms: int,
    ) -> None:
        self._source, self._store, self._aggregator = source, store, aggregator
        self._generation = generation
        self._observer = observer
        self._interval_s = checkpoint_interval_ms / 1000
        self._sealed_at = time.monotonic()
        self._sealing: tuple[Seal, dict[int, Checkpoint]] | None = None
        self._owned: set[int] = set()
        self._dirty = False
        self.joined = False

    def gained(self, partitions: Sequence[int]) -> None:
        """Take partitions over from their checkpoints."""
        for partition in partitions:
            beginning = self._source.beginning(partition)
            offset = self._aggregator.own(partition, self._generation, beginning)
            if offset < beginning:
                raise BadInput(
                    f"blocks {offset}..{beginning - 1} of updates partition {partition} were "
                    "deleted before they were folded: replay that span into a new project"
                )
            self._source.seek(partition, offset)
            self._owned.add(partition)
        self.joined = True
        log.info("owns updates partitions %s", sorted(self._owned))

    def lost(self, partitions: Sequence[int]) -> None:
        """Give partitions up; a checkpoint still waiting for them is harmless, being true."""
        for partition in partitions:
            self._aggregator.disown(partition)
            self._owned.discard(partition)

    def run(self, stopping: Callable[[], bool], poll_timeout_ms: int) -> None:
        """Work until told to stop; a fault ends the incarnation by an exception."""
        self._source.subscribe(self)
        while not stopping():
            for partition, records in self._source.poll(poll_timeout_ms).items():
                if records and partition in self._owned:
                    self._fold(partition, records)
            self._checkpoint(time.monotonic() - self._sealed_at >= self._interval_s)
        self._checkpoint(due=True)
        deadline = time.monotonic() + 6
        while self._sealing is not None and time.monotonic() < deadline:
            time.sleep(0.01)
            self._checkpoint(due=False)

    def _fold(self, partition: int, records: Sequence[Record]) -> None:
        """Fold consecutive blocks, cut where they name another plan."""
        blocks = [(record.offset, decode_block(record.value or b"")) for record in records]
        start = 0
        while start < len(blocks):
            version = blocks[start][1].header.plan
            stop = start + 1
            while stop < len(blocks) and blocks[stop][1].header.plan == version:
                stop += 1
            if self._aggregator.plan.version != version:
                self._aggregator.use(load_plan(self._store, version))
                log.info("folds by plan %s from offset %s", version, blocks[start][0])
            self._aggregator.step(partition, blocks[start:stop])
            start = stop
        self._dirty = True
        self._observer.add(self._aggregator.counts)
        self._aggregator.counts.clear()
        self._observer.set("newest_event_time_ms", self._aggregator.newest_event_time)

    def _checkpoint(self, due: bool) -> None:
        if self._sealing is not None:
            seal, covered = self._sealing
            answer = seal.safe()
            if answer is None:
                return
            self._sealing = None
            if answer:
                for partition, checkpoint in covered.items():
                    self._store.save_checkpoint(partition, checkpoint)
                self._source.commit({p: c.offset for p, c in covered.items()})
                self._observer.set("checkpoint_unix_s", time.time())
            else:
                self._dirty = True
                log.error("Redis did not confirm that rows are durable: no checkpoint is saved")
        if due and self._dirty:
            self._sealed_at = time.monotonic()
            self._dirty = False
            self._sealing = self._store.seal(), self._aggregator.checkpoints()
