"""The `route` process: polls events, routes them, sends the blocks, then commits.

The order of one turn: 1. poll; 2. step (pure); 3. send every block and dead letter; 4. wait for
all acknowledgements; 5. commit the source offsets. A crash between any two of them repeats work
that `aggregate` recognises.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

from features.errors import HeadraceError, Refused
from features.plan import PlanSource
from features.plan_change import compare
from features.row_store import RowStore
from streaming.metrics import Observer
from streaming.plans import Activations, Definitions
from streaming.records import Record, RecordSink, RecordSource
from streaming.route import Routed, Router, RouteSettings

log = logging.getLogger("headrace.route")


class RouteWorker:
    """One incarnation of `route`: from joining the group until a fault or a stop."""

    def __init__(
        self,
        source: RecordSource,
        sink: RecordSink,
        store: RowStore,
        plans: PlanSource,
        settings: RouteSettings,
        generation: int,
        observer: Observer,
        plan_refresh_ms: int,
    ) -> None:
        self._source, self._sink, self._store, self._plans = source, sink, store, plans
        self._generation = generation
        self._observer = observer
        self._router = Router(settings, generation, uuid.uuid4().hex[:12])
        self._activations: dict[int, Activations] = {}
        self._resume_at: dict[int, int] = {}
        self._refused: str | None = None
        """The version of a plan that would corrupt rows, while the registry holds it."""
        self._definitions = Definitions(store)
        plan = plans.read()
        self._seen = plan.version
        if self._definitions.plan is None:
            self._definitions.define(plan, _now_ms())
        # Any other plan that may follow is looked at twice, like one that comes while this runs.
        self._definitions.check(plan)
        self._plan_refresh_s = plan_refresh_ms / 1000
        self._plan_read_at = time.monotonic()
        self.joined = False

    def gained(self, partitions: Sequence[int]) -> None:
        """Take partitions over: read the dedup span before the committed offset again."""
        for partition in partitions:
            beginning = self._source.beginning(partition)
            committed = self._source.committed(partition)
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
            read_from = max(beginning, self._router.own(partition, resume_at))
            activations = Activations(self._store, self._definitions, self._generation, partition)
            self._activations[partition] = activations
            self._resume_at[partition] = resume_at
            self._source.seek(partition, read_from)
        self._take_over()
        self.joined = True
        log.info("owns events partitions %s", sorted(self._activations))

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget partitions; whatever was in flight was acknowledged before `poll`."""
        for partition in partitions:
            self._router.disown(partition)
            self._activations.pop(partition, None)
            self._resume_at.pop(partition, None)

    def run(self, stopping: Callable[[], bool], poll_timeout_ms: int) -> None:
        """Work until told to stop; a fault ends the incarnation by an exception."""
        self._source.subscribe(self)
        while not stopping():
            self._refresh_plan()
            polled = self._source.poll(poll_timeout_ms)
            commits: dict[int, int] = {}
            self._claim(polled)
            for partition, records in polled.items():
                if records and partition in self._activations:
                    self._route(partition, records)
                    commits[partition] = max(records[-1].offset + 1, self._resume_at[partition])
            if commits:
                self._sink.flush()
                self._source.commit(commits)
        self._sink.flush()

    def _route(self, partition: int, records: Sequence[Record]) -> None:
        """Route records, cut where a new plan takes over."""
        start = 0
        while start < len(records):
            projection, until = self._activations[partition].at(records[start].offset)
            stop = start + 1
            while stop < len(records) and (until is None or records[stop].offset < until):
                stop += 1
            self._send(self._router.step(partition, records[start:stop], projection))
            start = stop

    def _send(self, routed: Routed) -> None:
        for outgoing in routed.outgoing:
            self._sink.send(outgoing)
        self._observer.add(routed.counts)
        if routed.newest_event_time:
            self._observer.set("newest_event_time_ms", routed.newest_event_time)

    def _refresh_plan(self) -> None:
        """Notice `feast apply`: a new plan applies from the next record of each partition on."""
        if time.monotonic() - self._plan_read_at < self._plan_refresh_s:
            return
        self._plan_read_at = time.monotonic()
        try:
            plan = self._plans.read()
        except HeadraceError as error:
            log.warning("the registry cannot be used, the plan stays: %s", error)
            self._observer.set("plan_refused", isinstance(error, Refused))
            return
        # `feast apply` writes object by object: a plan counts once it has stood for two looks.
        settled, self._seen = plan.version == self._seen, plan.version
        if not settled:
            return
        try:
            self._definitions.define(plan, _now_ms())
        except Refused as refused:
            if self._refused != plan.version:
                log.error("the plan in force stays, %s", refused)
            self._refused = plan.version
        else:
            self._refused = None
            self._take_over()
        self._observer.set("plan_refused", self._refused is not None)

    def _claim(self, polled: Mapping[int, Sequence[Record]]) -> None:
        """Say how far this turn will route, then look for definitions: see `streaming.plans`."""
        for partition, records in polled.items():
            if records and partition in self._activations:
                self._activations[partition].claim(records[-1].offset)
        if any(polled.values()):
            self._definitions.refresh()
            self._take_over()

    def _take_over(self) -> None:
        """Let every partition know where the newest definitions start."""
        for partition, activations in self._activations.items():
            if activations.catch_up(self._resume_at[partition]):
                number = len(self._definitions) - 1
                plan = self._definitions[number].plan
                change = compare(self._definitions[max(number - 1, 0)].plan, plan)
                log.info(
                    "plan %s applies to partition %s from offset %s: it %s",
                    plan.version,
                    partition,
                    activations.since,
                    change,
                )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
