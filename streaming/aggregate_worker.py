"""The `aggregate` process: polls blocks, folds them, writes rows, checkpoints what is safe.

The order of one turn: 1. poll; 2. fold and write the rows (they are visible at once); 3. now and
then seal what was written and note how far it reaches; 4. once the seal says safe, save that
checkpoint, then commit to Kafka for lag monitors.

When the store is away the worker holds: it keeps its place in the group and reads nothing, then
takes a new connection and resumes every partition from its stored checkpoint (rule 5). A fault in
the blocks of one partition stops that partition, and says so; the others go on.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from features.errors import BadInput, HeadraceError, Refused, Unavailable
from features.row_store import Checkpoint, RowStore, Seal
from features.spec import Plan
from features.traces import NO_TRACES, Traces, sampled
from streaming.aggregate import Aggregator, Fenced, Placed
from streaming.blocks import decode_block
from streaming.metrics import Observer
from streaming.pace import repeat
from streaming.plans import load_plan
from streaming.records import Record, RecordSource
from streaming.store_link import Opened, StoreLink

log = logging.getLogger("headrace.aggregate")

FINISH_S = 6.0


class AggregateWorker:
    """One incarnation of `aggregate`: from joining the group until a fault or a stop."""

    def __init__(
        self,
        source: RecordSource,
        connect: Callable[[], Opened],
        plan: Plan,
        observer: Observer,
        checkpoint_interval_ms: int,
        rows_max: int = 200_000,
        clock: Callable[[], float] = time.monotonic,
        turn_s: float = 0.0,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._source, self._observer = source, observer
        self._traces = traces
        self._link = StoreLink(connect, clock)
        self._plan = plan
        self._rows_max = rows_max
        self._clock = clock
        self._turn_s = turn_s
        self._interval_s = checkpoint_interval_ms / 1000
        self._aggregator: Aggregator | None = None
        self._sealed_at = clock()
        self._sealing: tuple[Seal, dict[int, Checkpoint]] | None = None
        self._unsettled: set[int] = set()
        """Gained, but not yet resumed from their checkpoints."""
        self._owned: set[int] = set()
        self._stopped: set[int] = set()
        self._held = False
        self._dirty = False
        self.joined = False

    def gained(self, partitions: Sequence[int]) -> None:
        """Note what is ours; nothing is read before the checkpoints are."""
        self._observer.add(Counter(rebalances=1))
        self._unsettled.update(partitions)
        if self._unsettled:
            self._hold(True)
        self.joined = True

    def lost(self, partitions: Sequence[int]) -> None:
        """Give partitions up; a checkpoint still waiting for them is harmless, being true."""
        for partition in partitions:
            if self._aggregator is not None:
                self._aggregator.disown(partition)
            for partitions_ in (self._owned, self._unsettled, self._stopped):
                partitions_.discard(partition)
            self._observer.disowned(partition)

    def run(self, stopping: Callable[[], bool], poll_timeout_ms: int) -> None:
        """Work until told to stop; a fault ends the incarnation by an exception."""
        self._source.subscribe(self)
        repeat(lambda: self.turn(poll_timeout_ms), stopping, self._turn_s)
        self._finish()

    def turn(self, poll_timeout_ms: int) -> None:
        """Poll once, and do what the records ask for."""
        polled = self._source.poll(poll_timeout_ms)
        try:
            opened = self._link.reach()
            if opened is not None:
                self._work(opened, polled)
        except (Unavailable, Fenced) as error:
            self._step_back(error)

    def close(self) -> None:
        """Close the store."""
        self._link.close()

    def _work(self, opened: Opened, polled: Mapping[int, Sequence[Record]]) -> None:
        settled = self._settle(opened)
        # What came for a partition before it was settled is read again from its checkpoint.
        ready = (self._owned - settled).intersection(polled)
        if any(polled[partition] for partition in ready):
            came = {p: polled[p] for p in sorted(ready) if polled[p]}
            parents = sampled(record.headers for records in came.values() for record in records)
            with self._traces.span("aggregate", parents) as span:
                span.note(blocks=sum(map(len, came.values())))
                self._fold(opened.store, came)
        self._checkpoint(opened.store, self._clock() - self._sealed_at >= self._interval_s)

    def _settle(self, opened: Opened) -> set[int]:
        """Resume partitions from their checkpoints, on a fresh connection all of them (rule 5)."""
        if self._aggregator is None:
            self._aggregator = self._resumed(opened.store)
            self._unsettled |= self._owned
            self._owned.clear()
        settled: set[int] = set()
        for partition in sorted(self._unsettled - self._stopped):
            beginning = self._source.beginning(partition)
            offset = self._aggregator.own(partition, opened.generation, beginning)
            self._owned.add(partition)
            settled.add(partition)
            if offset < beginning:
                self._stop(
                    partition,
                    f"blocks {offset}..{beginning - 1} were deleted before they were folded: "
                    "replay that span into a new project",
                )
            else:
                self._source.seek(partition, offset)
        if settled:
            log.info("owns updates partitions %s", sorted(self._owned))
        self._unsettled.clear()
        self._hold(False)
        return settled

    def _resumed(self, store: RowStore) -> Aggregator:
        """The core for a fresh connection: no row is cached."""
        return Aggregator(self._plan, store, self._rows_max)

    def _hold(self, held: bool) -> None:
        if held != self._held:
            self._held = held
            self._source.hold(held)
            if not held:
                self._observer.hold(False)

    def _step_back(self, error: HeadraceError) -> None:
        """Drop what is cached and wait for the store, as a member of the group (rule 5)."""
        self._aggregator, self._sealing, self._dirty = None, None, False
        self._observer.unsaved(False)
        self._observer.hold(True)
        pause = self._link.lose()
        self._hold(True)
        log.warning("%s; reads nothing and tries again in %s s", error, pause)

    def _stop(self, partition: int, reason: str) -> None:
        """Fold no more of a partition, and say so; its checkpoint stays where it is."""
        assert self._aggregator is not None
        self._aggregator.disown(partition)
        self._owned.discard(partition)
        self._stopped.add(partition)
        self._source.stop(partition)
        self._observer.stopped(partition, reason)
        log.error("updates partition %s is stopped, others go on: %s", partition, reason)

    def _fold(self, store: RowStore, polled: Mapping[int, Sequence[Record]]) -> None:
        """Fold consecutive blocks; what cannot be folded stops its partition."""
        blocks: dict[int, deque[Placed]] = {}
        faults: dict[int, str] = {}
        for partition, records in polled.items():
            decoded = blocks[partition] = deque()
            for record in records:
                try:
                    decoded.append((record.offset, decode_block(record.value or b"")))
                except BadInput as error:
                    faults[partition] = f"offset {record.offset}: {error}"
                    break
        if not self._dirty:
            self._dirty = True
            self._observer.unsaved(True)
        while arrived := self._of_one_plan(blocks):
            for partition, fault in self._fold_all(store, arrived).items():
                faults[partition] = fault
                blocks[partition].clear()
        self._link.worked()
        for partition, fault in faults.items():
            self._stop(partition, fault)
        self._observe({p: records for p, records in polled.items() if p not in faults})

    def _of_one_plan(self, blocks: Mapping[int, deque[Placed]]) -> dict[int, list[Placed]]:
        """Take from each partition the blocks up to where another plan is named.

        The plan in use goes on as long as any partition's next block names it.
        """
        assert self._aggregator is not None
        wanted = [_plan_of(waiting) for waiting in blocks.values() if waiting]
        version = self._aggregator.plan.version
        if wanted and version not in wanted:
            version = wanted[0]
        taken: dict[int, list[Placed]] = {}
        for partition, waiting in blocks.items():
            while waiting and _plan_of(waiting) == version:
                taken.setdefault(partition, []).append(waiting.popleft())
        return taken

    def _fold_all(self, store: RowStore, arrived: Mapping[int, Sequence[Placed]]) -> dict[int, str]:
        """Fold blocks of one plan; what is wrong with the partitions that must stop."""
        try:
            return self._folding(store, arrived).step(arrived)
        except (BadInput, Refused) as error:
            if len(arrived) == 1:
                ((partition, blocks),) = arrived.items()
                return {partition: f"offsets {blocks[0][0]} to {blocks[-1][0]}: {error}"}
        # Which one it is shows when each is folded alone.
        faults: dict[int, str] = {}
        for partition, blocks in arrived.items():
            faults |= self._fold_all(store, {partition: blocks})
        return faults

    def _folding(self, store: RowStore, arrived: Mapping[int, Sequence[Placed]]) -> Aggregator:
        """The core, with the plan that blocks name."""
        assert self._aggregator is not None
        version = _plan_of(next(iter(arrived.values())))
        if self._aggregator.plan.version != version:
            self._plan = load_plan(store, version)
            self._aggregator.use(self._plan)
            log.info("folds by plan %s", version)
        return self._aggregator

    def _observe(self, folded: Mapping[int, Sequence[Record]]) -> None:
        aggregator = self._aggregator
        assert aggregator is not None
        records = [record for part in folded.values() for record in part]
        self._observer.add(aggregator.counts)
        self._observer.batch("records", len(records))
        self._observer.batch("updates", aggregator.counts["folded_updates"])
        self._observer.batch("rows", aggregator.counts["rows_written"])
        aggregator.counts.clear()
        self._observer.visible(
            aggregator.take_event_times(), [record.append_time for record in records]
        )
        self._observer.set("newest_event_time_ms", aggregator.newest_event_time)
        self._observer.plan(aggregator.plan.version)
        for partition, part in folded.items():
            end = self._source.end(partition)
            if end is not None:
                self._observer.lag(partition, end - part[-1].offset - 1)

    def _checkpoint(self, store: RowStore, due: bool) -> None:
        if self._sealing is not None:
            seal, covered = self._sealing
            answer = seal.safe()
            if answer is None:
                return
            self._sealing = None
            if answer:
                self._save(store, covered)
            else:
                self._dirty = True
                self._observer.unsaved(True)
                log.error("Redis did not confirm that rows are durable: no checkpoint is saved")
        if not due or self._aggregator is None:
            return
        self._sealed_at = self._clock()
        if self._dirty:
            self._dirty = False
            self._sealing = store.seal(), self._aggregator.checkpoints()
        elif self._owned and self._sealing is None:
            # One who has nothing to write must hear of a lost connection, too.
            store.checkpoint(min(self._owned))

    def _save(self, store: RowStore, covered: Mapping[int, Checkpoint]) -> None:
        for partition, checkpoint in covered.items():
            store.save_checkpoint(partition, checkpoint)
        self._observer.saved(rest=self._dirty)
        try:
            self._source.commit({p: c.offset for p, c in covered.items()})
        except Unavailable as error:
            log.info("lag monitors will see an older offset: %s", error)

    def _finish(self) -> None:
        """Save what is folded, if the store lets us in time; if not, it is folded again."""
        try:
            opened = self._link.reach()
            if opened is None:
                return
            self._checkpoint(opened.store, due=True)
            deadline = self._clock() + FINISH_S
            while self._sealing is not None and self._clock() < deadline:
                time.sleep(0.01)
                self._checkpoint(opened.store, due=False)
        except Unavailable as error:
            log.warning("stops without a last checkpoint: %s", error)


def _plan_of(blocks: Sequence[Placed]) -> str:
    """The plan that the first of some blocks names."""
    return blocks[0][1].header.plan
