"""The `route` process: polls events, routes them, sends the blocks, then commits.

The order of one turn: 1. poll; 2. step (pure); 3. send every block and dead letter; 4. wait for
all acknowledgements; 5. commit the source offsets. A crash between any two of them repeats work
that `aggregate` recognises.

Before it routes what came, a turn tells the store how far it will, so that a new plan applies
further on only (`streaming.plans`). When the store is away the worker holds: it keeps its place in
the group and reads nothing. When Kafka takes no more blocks, step 4 waits and nothing is polled; a
failed send ends the incarnation.
"""

import logging
import time
import uuid
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from features.errors import HeadraceError, Refused, Unavailable
from features.plan_change import compare
from features.reader import Reader
from features.row_store import RowStore
from features.spec import Plan
from features.traces import HEADER, NO_TRACES, Traces, sampled
from streaming.metrics import Observer
from streaming.pace import repeat
from streaming.plans import REPLAYED, Activations, Definitions, claim
from streaming.records import Record, RecordSink, RecordSource
from streaming.route import Routed, Router, RouteSettings
from streaming.store_link import Opened, StoreLink, secure

log = logging.getLogger("headrace.route")

STEP_RECORDS: Final = 1_000
"""Records of one step: more cost more each, because all their events live at once."""


class Plans(Protocol):
    """Where definitions come from: the registry."""

    def read(self) -> Plan:
        """The plan as it is declared now."""


class RouteWorker:
    """One incarnation of `route`: from joining the group until a fault or a stop."""

    def __init__(
        self,
        source: RecordSource,
        sink: RecordSink,
        connect: Callable[[], Opened],
        plans: Plans,
        settings: RouteSettings,
        observer: Observer,
        plan_refresh_ms: int,
        incarnation: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        turn_s: float = 0.0,
        topic_id: str = "",
        traces: Traces = NO_TRACES,
    ) -> None:
        self._source, self._sink, self._plans = source, sink, plans
        self._link = StoreLink(connect, clock)
        self._settings, self._topic_id = settings, topic_id
        self._observer = observer
        self._traces = traces
        self._incarnation = incarnation or uuid.uuid4().hex[:12]
        self._clock = clock
        self._turn_s = turn_s
        self._router: Router | None = None
        self._activations: dict[int, Activations] = {}
        self._resume_at: dict[int, int] = {}
        self._unsettled: set[int] = set()
        """Gained, but not yet resumed from their committed offsets."""
        self._held = False
        self._refused: str | None = None
        """The version of a plan that would corrupt rows, while the registry holds it."""
        self._definitions: Definitions | None = None
        self._declared: Plan = plans.read()
        self._plan_refresh_s = plan_refresh_ms / 1000
        self._plan_read_at = clock()
        self.joined = False

    def gained(self, partitions: Sequence[int]) -> None:
        """Note what is ours; nothing is read before it is settled."""
        self._observer.add(Counter(rebalances=1))
        self._unsettled.update(partitions)
        if self._unsettled:
            self._hold(True)
        self.joined = True

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget partitions; whatever was in flight was acknowledged before `poll`."""
        for partition in partitions:
            if self._router is not None:
                self._router.disown(partition)
            self._activations.pop(partition, None)
            self._resume_at.pop(partition, None)
            self._unsettled.discard(partition)
            self._observer.disowned(partition)

    def run(self, stopping: Callable[[], bool], poll_timeout_ms: int) -> None:
        """Work until told to stop; a fault ends the incarnation by an exception."""
        self._source.subscribe(self)
        repeat(lambda: self.turn(poll_timeout_ms), stopping, self._turn_s)
        self._sink.flush()

    def turn(self, poll_timeout_ms: int) -> None:
        """Poll once, route what came, and commit it when it is acknowledged."""
        polled = self._source.poll(poll_timeout_ms)
        # What came for a partition before it was settled is read again from where it resumes.
        settled = self._at_the_store({p: r for p, r in polled.items() if p in self._activations})
        arrived = {
            partition: records
            for partition, records in sorted(polled.items())
            if records and partition in self._activations and partition not in settled
        }
        if arrived:
            self._route(arrived)
            self._acknowledge(
                {
                    partition: max(records[-1].offset + 1, self._resume_at[partition])
                    for partition, records in arrived.items()
                }
            )

    def close(self) -> None:
        """Close the store."""
        self._link.close()

    def _acknowledge(self, commits: Mapping[int, int]) -> None:
        """Steps 4 and 5: an offset is committed only once all its blocks are in the log."""
        self._sink.flush()
        self._source.commit(commits)

    def _at_the_store(self, polled: Mapping[int, Sequence[Record]]) -> set[int]:
        """What needs the store: partitions just gained, new plans, and how far this turn will go.

        Returns the partitions just gained.
        """
        try:
            settled = self._settle() if self._unsettled else set()
            self._refresh_plan()
            self._claim(polled)
        except Unavailable as error:
            # A plan may be in force that is not safe yet: nothing is routed until it is.
            self._unsettled.update(self._activations)
            self._activations.clear()
            self._hold(True)
            self._observer.hold(True)
            pause = self._link.lose()
            log.warning("%s; reads nothing and tries again in %s s", error, pause)
            return set()
        return settled

    def _settle(self) -> set[int]:
        """Take partitions over: read the dedup span before the committed offset again."""
        opened = self._link.reach()
        if opened is None:
            return set()
        if self._router is None:
            self._router = self._new_router(opened.generation)
        first = self._definitions is None
        definitions = self._definitions = Definitions(opened.store)
        if definitions.plan is None:
            definitions.define(self._declared, _now_ms())
        elif first:
            # Any other plan that may follow is looked at twice, like one that comes meanwhile.
            definitions.check(self._declared)
        settled = {
            partition: (Activations(opened.store, definitions, opened.generation, partition), at)
            for partition in sorted(self._unsettled)
            for at in (self._resumes_at(opened.store, partition),)
        }
        for partition, (activations, resume_at) in settled.items():
            self._activations[partition] = activations
            self._resume_at[partition] = resume_at
            read_from = max(
                self._source.beginning(partition), self._router.own(partition, resume_at)
            )
            self._source.seek(partition, read_from)
        self._take_over()
        # A plan must not be lost once a block names it, nor the offset it applies from.
        secure(opened.store, "the plan in force")
        self._unsettled.clear()
        self._link.worked()
        self._hold(False)
        log.info("owns events partitions %s", sorted(self._activations))
        return set(settled)

    def _new_router(self, generation: int) -> Router:
        return Router(self._settings, generation, self._incarnation)

    def _resumes_at(self, store: RowStore, partition: int) -> int:
        """The offset from which a partition is routed on: first, where a replay into it ended."""
        beginning = self._source.beginning(partition)
        committed = self._source.committed(partition)
        if committed is None:
            replayed = store.remembered(REPLAYED).get(f"{self._topic_id}/{partition}")
            committed = None if replayed is None else int(replayed)
        resume_at = beginning if committed is None else committed
        if resume_at < beginning:
            log.error(
                "events %s..%s of partition %s were deleted before they were routed: "
                "replay them from the archive",
                resume_at,
                beginning - 1,
                partition,
            )
            resume_at = beginning
        return resume_at

    def _hold(self, held: bool) -> None:
        if held != self._held:
            self._held = held
            self._source.hold(held)
            if not held:
                self._observer.hold(False)

    def _route(self, arrived: Mapping[int, Sequence[Record]]) -> None:
        """Route records, cut where a new plan takes over."""
        assert self._router is not None
        self._observer.batch("records", sum(map(len, arrived.values())))
        for partition, records in arrived.items():
            end = self._source.end(partition)
            if end is not None:
                self._observer.lag(partition, end - records[-1].offset - 1)
        for projection, step in self._steps(arrived):
            headers = (record.headers for records in step.values() for record in records)
            with self._traces.span("route", sampled(headers)) as span:
                routed = self._router.step(step, projection)
                count = sum(map(len, step.values()))
                span.note(partitions=len(step), records=count, **routed.counts)
                self._send(routed, span.header())

    def _steps(
        self, arrived: Mapping[int, Sequence[Record]]
    ) -> Iterator[tuple[Reader[Any], dict[int, Sequence[Record]]]]:
        """Steps of one plan each, of several partitions where they share it."""
        most = max(1, STEP_RECORDS // len(arrived))
        waiting = {p: deque(self._cut(p, records, most)) for p, records in arrived.items()}
        while waiting := {p: pieces for p, pieces in waiting.items() if pieces}:
            reader, _ = next(iter(waiting.values()))[0]
            version = reader.plan.version
            yield (
                reader,
                {
                    partition: pieces.popleft()[1]
                    for partition, pieces in waiting.items()
                    if pieces[0][0].plan.version == version
                },
            )

    def _cut(
        self, partition: int, records: Sequence[Record], most: int
    ) -> Iterator[tuple[Reader[Any], Sequence[Record]]]:
        """Records of a partition in pieces of one plan each, of so many at most."""
        start = 0
        while start < len(records):
            reader, until = self._activations[partition].at(records[start].offset)
            piece = records[start : start + most]
            if until is not None:
                piece = piece[: bisect_left(piece, until, key=_offset)]
            yield reader, piece
            start += len(piece)

    def _send(self, routed: Routed, trace: str | None) -> None:
        for outgoing in routed.outgoing:
            if trace is not None:
                headers = (*outgoing.headers, (HEADER, trace.encode()))
                self._sink.send(outgoing._replace(headers=headers))
            else:
                self._sink.send(outgoing)
        self._observer.add(routed.counts)
        self._observer.batch("updates", routed.counts["updates"])
        if routed.newest_event_time:
            self._observer.set("newest_event_time_ms", routed.newest_event_time)

    def _refresh_plan(self) -> None:
        """Notice `feast apply`: a plan that may follow is defined, one that may not is refused."""
        if self._clock() - self._plan_read_at < self._plan_refresh_s:
            return
        self._plan_read_at = self._clock()
        try:
            plan = self._plans.read()
        except HeadraceError as error:
            log.warning("the registry cannot be used, the plan stays: %s", error)
            self._observer.set("plan_refused", isinstance(error, Refused))
            return
        # `feast apply` writes object by object: a plan counts once it has stood for two looks.
        settled, self._declared = plan.version == self._declared.version, plan
        opened = self._link.reach()
        if not settled or self._definitions is None or opened is None:
            return
        had = len(self._definitions)
        try:
            self._definitions.define(plan, _now_ms())
        except Refused as refused:
            if self._refused != plan.version:
                log.error("the plan in force stays, %s", refused)
            self._refused = plan.version
        else:
            self._refused = None
        self._observer.set("plan_refused", self._refused is not None)
        if len(self._definitions) > had:
            self._take_over()
            secure(opened.store, "the new plan")

    def _claim(self, polled: Mapping[int, Sequence[Record]]) -> None:
        """Say how far this turn will route, then look for definitions: see `streaming.plans`."""
        last = {partition: records[-1].offset for partition, records in polled.items() if records}
        opened = self._link.reach()
        if last and self._definitions is not None and opened is not None:
            claim(opened.store, opened.generation, last)
            self._definitions.refresh()
            if self._take_over():
                secure(opened.store, "the offset from which a new plan applies")

    def _take_over(self) -> bool:
        """Let every partition know where the newest definitions start; whether any are new."""
        assert self._definitions is not None
        changed = False
        for partition, activations in self._activations.items():
            if activations.catch_up(self._resume_at[partition]):
                number = len(self._definitions) - 1
                plan = self._definitions[number].plan
                change = compare(self._definitions[max(number - 1, 0)].plan, plan)
                changed = True
                self._observer.plan(plan.version)
                log.info(
                    "plan %s applies to partition %s from offset %s: it %s",
                    plan.version,
                    partition,
                    activations.since,
                    change,
                )
        return changed


def _offset(record: Record) -> int:
    return record.offset


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
