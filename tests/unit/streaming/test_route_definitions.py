"""The route worker follows its registry where that is safe, and keeps its plan where it is not."""

from collections.abc import Mapping, Sequence

import pytest

from features.errors import Refused
from features.events import EngagementEvent, dump_event
from features.plan import PlanSource
from features.row_store import MemoryRows
from features.spec import Metric, Plan, TotalSpec
from streaming.blocks import decode_block
from streaming.metrics import Observer
from streaming.plans import Definitions
from streaming.records import Listener, Outgoing, Record
from streaming.route_worker import RouteWorker
from streaming.store_link import Opened
from tests.pipeline import GENERATION, SETTINGS, records_of
from tests.plans import ITEM_ACTIVITY, changed, plan

FIRST = plan(activity=(ITEM_ACTIVITY,), latest=(), as_of=(), services={})
VISITS = TotalSpec(metric=Metric(action="visit"))
MORE = plan(
    activity=(changed(ITEM_ACTIVITY, totals=(*ITEM_ACTIVITY.totals, VISITS)),),
    latest=(),
    as_of=(),
    services={},
)
OTHER_RINGS = plan(
    activity=(
        changed(ITEM_ACTIVITY, rings=tuple(changed(r, buckets=9) for r in ITEM_ACTIVITY.rings)),
    ),
    latest=(),
    as_of=(),
    services={},
)


class Registry(PlanSource):
    """A registry that holds one plan after the other; the last one stays."""

    def __init__(self, *plans: Plan) -> None:
        self._left = list(plans)

    def read(self) -> Plan:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


class Log:
    """One partition: a source that hands out a record per poll, and the sink of its blocks."""

    def __init__(self, committed: int = 0) -> None:
        self.at = self.offset = committed
        self.sent: list[Outgoing] = []
        self._listener: Listener | None = None

    def subscribe(self, listener: Listener) -> None:
        self._listener = listener

    def poll(self, _timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        if self._listener is not None:
            self._listener.gained([0])
            self._listener = None
            return {}
        event = EngagementEvent(
            event_id=f"e{self.at}", event_time=1, user_id="u", item_id="i", action="click"
        )
        (record,) = records_of([dump_event(event)], start=self.at)
        self.at += 1
        return {0: [record]}

    def committed(self, _partition: int) -> int | None:
        return self.offset

    def beginning(self, _partition: int) -> int:
        return 0

    def seek(self, _partition: int, offset: int) -> None:
        self.at = offset

    def commit(self, offsets: Mapping[int, int]) -> None:
        self.offset = offsets[0]

    def hold(self, held: bool) -> None: ...

    def stop(self, _partition: int) -> None: ...

    def end(self, _partition: int) -> int | None:
        return None

    def send(self, outgoing: Outgoing) -> None:
        self.sent.append(outgoing)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def plans(self) -> dict[int, str]:
        """The plan under which each offset was sent."""
        headers = [decode_block(block.value).header for block in self.sent]
        spans = [(header.plan, span) for header in headers for span in header.spans]
        return {o: plan for plan, span in spans for o in range(span.first, span.last + 1)}


def _worker(
    registry: Registry, store: MemoryRows, log: Log, observer: Observer | None = None
) -> RouteWorker:
    told = observer or Observer("route")
    return RouteWorker(log, log, lambda: Opened(store, GENERATION), registry, SETTINGS, told, 0)


def _run(worker: RouteWorker, turns: int) -> None:
    left = iter(range(turns))
    worker.run(lambda: next(left, None) is None, 0)


def test_a_change_of_the_registry_applies_from_one_offset_on_once_it_has_settled() -> None:
    log, store = Log(), MemoryRows()
    _run(_worker(Registry(FIRST, FIRST, MORE), store, log), 6)
    start = int(store.remembered("starts:1/0")["1"])
    assert 0 < start < 5
    assert log.plans() == {o: (FIRST if o < start else MORE).version for o in range(5)}


def test_a_plan_applied_while_nobody_ran_starts_after_all_that_may_be_out_already() -> None:
    store, crashed = MemoryRows(), Log()
    _run(_worker(Registry(FIRST), store, crashed), 6)
    log = Log(committed=2)  # blocks of 2, 3 and 4 are out, their commit is lost
    _run(_worker(Registry(MORE), store, log), 12)
    sent = log.plans()
    assert min(sent) == 2
    assert {sent[o] for o in (2, 3, 4)} == {FIRST.version}
    assert sent[max(sent)] == MORE.version


def test_a_change_that_corrupts_rows_leaves_the_plan_in_force_and_says_so() -> None:
    log, store, observer = Log(), MemoryRows(), Observer("route")
    registry = Registry(FIRST, FIRST, OTHER_RINGS)
    _run(_worker(registry, store, log, observer), 6)
    assert set(log.plans().values()) == {FIRST.version}
    assert Definitions(store).plan == FIRST
    refused = {"process": "route", "kind": "plan_refused"}
    assert observer.registry.get_sample_value("headrace_state", refused) == 1


def test_a_refused_plan_that_is_taken_back_is_no_longer_told() -> None:
    log, store, observer = Log(), MemoryRows(), Observer("route")
    registry = Registry(FIRST, OTHER_RINGS, OTHER_RINGS, OTHER_RINGS, FIRST)
    _run(_worker(registry, store, log, observer), 9)
    refused = {"process": "route", "kind": "plan_refused"}
    assert observer.registry.get_sample_value("headrace_state", refused) == 0


def test_a_worker_does_not_start_with_a_plan_that_corrupts_rows() -> None:
    store = MemoryRows()
    _run(_worker(Registry(FIRST), store, Log()), 3)
    with pytest.raises(Refused, match=r"would corrupt rows.*another name.*new project"):
        _run(_worker(Registry(OTHER_RINGS), store, Log()), 3)


def test_what_another_worker_defined_is_taken_over_with_the_next_records() -> None:
    log, store = Log(), MemoryRows()
    worker = _worker(Registry(FIRST), store, log)
    other = Definitions(store)

    turns = iter(range(6))

    def stopping() -> bool:
        turn = next(turns, None)
        if turn == 3:
            other.define(MORE, 0)
        return turn is None

    worker._plan_refresh_s = float("inf")  # noqa: SLF001 - it looks at Redis alone
    worker.run(stopping, 0)
    start = int(store.remembered("starts:1/0")["1"])
    assert log.plans() == {o: (FIRST if o < start else MORE).version for o in range(5)}
    assert start == 3
