"""Workers turn by turn, over lists: what stops a partition, and what a lost store costs."""

import random
import struct
import zlib
from collections.abc import Callable

import pytest
from prometheus_client import generate_latest

from features.codec import MARKER_FIELD, field_name, updated_at_field
from features.errors import Unavailable
from features.events import Event, dump_event
from features.row_store import MemoryRows
from streaming.aggregate_worker import AggregateWorker
from streaming.metrics import Observer
from streaming.plans import REPLAYED, store_plan
from streaming.records import Record
from streaming.replays.recorded import Place
from streaming.route_worker import RouteWorker
from streaming.store_link import Opened
from tests.chaos.history import PLAN
from tests.chaos.simulated_kafka import Group, SimulatedSink, SimulatedSource, Topic
from tests.chaos.simulation import FixedPlan
from tests.pipeline import SETTINGS, blocks_by_target, final_rows, fold_logs, routed, unmarked
from tests.recordings import ListedEvents, replay_of
from tests.records import good_events

EVENTS = good_events(3, 200)


def _never() -> float:
    return 0.0


def _source(topic: Topic) -> SimulatedSource:
    """The only member of a group, of a broker that never fails."""
    group = Group(topic, dict.fromkeys(range(len(topic.logs)), "one"))
    return SimulatedSource(group, "one", random.Random(1), lambda _: None, _never)


def _updates(events: list[Event]) -> Topic:
    topic = Topic.empty(SETTINGS.targets)
    for outgoing in routed(events, PLAN, batch=10):
        if outgoing.partition is not None:
            topic.append(outgoing.partition, outgoing.value)
    return topic


class _Folding:
    """An `aggregate` worker over a topic, and the clock it goes by."""

    def __init__(self, topic: Topic, store: MemoryRows) -> None:
        self.now, self.away, self.connections = 0.0, False, 0
        self.store, self.observer = store, Observer("aggregate")
        store_plan(store, PLAN)
        self.worker = AggregateWorker(
            source := _source(topic),
            self._connect,
            PLAN,
            self.observer,
            100,
            clock=lambda: self.now,
        )
        source.subscribe(self.worker)

    def turns(self, count: int = 300) -> None:
        """Some turns, each a little later."""
        for _ in range(count):
            self.now += 0.02
            self.worker.turn(0)

    def _connect(self) -> Opened:
        if self.away:
            raise Unavailable("the store is away")
        self.connections += 1
        return Opened(self.store, 1)


def _damaged(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


def _broken(change: Callable[[list[Record]], None], says: str) -> None:
    """Partition 0 stops where it is broken and says why; the others end as they should."""
    topic = _updates(EVENTS)
    change(topic.logs[0])
    topic.logs[0] = [r._replace(offset=n) for n, r in enumerate(topic.logs[0])]
    topic.shown[0] = len(topic.logs[0])
    expected = final_rows(EVENTS, PLAN)
    logs = blocks_by_target(routed(EVENTS, PLAN, batch=10))
    others = {k for p, log in logs.items() if p for _, block in log for k in block.updates.keys}
    store = MemoryRows()
    for _ in range(2):  # a restart stops there again
        folding = _Folding(topic, store)
        folding.turns()
        (fault,) = folding.observer.faults()
        assert fault.startswith("partition 0 is stopped: ")
        assert says in fault
        rows = unmarked(store.rows)
        assert {k: rows[k] for k in others} == {k: expected[k] for k in others}
        assert rows != expected
        saved = store.checkpoint(0)
        assert saved is None or saved.offset <= 5
        assert folding.connections == 1


def test_a_missing_block_stops_its_partition_for_good() -> None:
    def lose(log: list[Record]) -> None:
        del log[5]

    _broken(lose, "offset 5: incarnation a of route sent block 6 of source 1/0 after 4")


def test_a_damaged_block_stops_its_partition_for_good() -> None:
    def damage(log: list[Record]) -> None:
        log[5] = log[5]._replace(value=_damaged(log[5].value or b""))

    _broken(damage, "offset 5: the block of updates is damaged")


def test_a_record_that_is_no_block_stops_its_partition_for_good() -> None:
    def replace(log: list[Record]) -> None:
        log[5] = log[5]._replace(value=None)

    _broken(replace, "offset 5: the record is not a block of updates")


def test_a_block_of_an_unknown_plan_stops_its_partition_for_good() -> None:
    other = PLAN.model_copy(update={"project": "another"})
    stranger = next(o for o in routed(EVENTS, type(PLAN)(**_parts(other)), 10) if o.partition == 0)

    def replace(log: list[Record]) -> None:
        log[5] = log[5]._replace(value=stranger.value)

    _broken(replace, "is stored in Redis although a block names it")


def test_a_stored_row_that_is_damaged_stops_its_own_partition() -> None:
    """It shows while the blocks of all partitions are folded at once."""
    topic, store = _updates(EVENTS), MemoryRows()
    logs = blocks_by_target(routed(EVENTS, PLAN, batch=10))
    key = next(k for _, block in logs[0] for k in block.updates.keys if b"user_id" in k)
    counts = field_name("user_activity", "counts")
    store.rows[key] = {
        counts: b"\x12\x03\xff\xff\xff",
        updated_at_field("user_activity"): b"\x08\x01",
    }
    folding = _Folding(topic, store)
    folding.turns()
    (fault,) = folding.observer.faults()
    assert fault.startswith("partition 0 is stopped: offsets ")
    assert "is not in Headrace's layout" in fault
    others = {k for p, log in logs.items() if p for _, block in log for k in block.updates.keys}
    expected, rows = final_rows(EVENTS, PLAN), unmarked(store.rows)
    assert {k: rows[k] for k in others} == {k: expected[k] for k in others}
    updates = sum(len(b.updates) for p, log in logs.items() if p for _, b in log)
    counted = generate_latest(folding.observer.registry).decode()
    assert f'kind="folded_updates",process="aggregate"}} {updates:.1f}' in counted


def _later(value: bytes) -> bytes:
    """A block as a later version would write it: whole, and of another format."""
    body = value[8:].replace(b'"version":2', b'"version":3', 1)
    return value[:4] + struct.pack("<I", zlib.crc32(body)) + body


def test_a_block_of_a_later_version_stops_its_partition_and_says_what_to_upgrade() -> None:
    def replace(log: list[Record]) -> None:
        log[5] = log[5]._replace(value=_later(log[5].value or b""))

    _broken(replace, "format version 3, this aggregate reads 2: upgrade aggregate before route")


@pytest.mark.parametrize("part", ["marker", "counts", "lists"])
def test_a_row_of_a_later_version_stops_its_partition_and_is_left_as_it_is(part: str) -> None:
    topic, store = _updates(EVENTS), MemoryRows()
    logs = blocks_by_target(routed(EVENTS, PLAN, batch=10))
    fold_logs({0: logs[0][:2]}, PLAN, store)
    view = "user_activity"
    written = field_name(view, "counts" if part == "marker" else part)
    key = next(k for k, row in store.rows.items() if row.get(written))
    if part == "marker":
        store.rows[key][MARKER_FIELD] = b"2.1.0.3"
    else:
        value = bytearray(store.rows[key][written])
        head = 2 if value[1] < 128 else 3
        assert value[head] == 1, "the format of what is packed"
        value[head] = 2
        store.rows[key][written] = bytes(value)
    before = dict(store.rows[key])
    folding = _Folding(topic, store)
    folding.turns()
    (fault,) = folding.observer.faults()
    assert fault.startswith("partition 0 is stopped: ")
    assert "use the version of Headrace that wrote" in fault or "Headrace's layout" in fault
    assert store.rows[key] == before
    others = {k for p, log in logs.items() if p for _, block in log for k in block.updates.keys}
    expected, rows = final_rows(EVENTS, PLAN), unmarked(store.rows)
    assert {k: rows[k] for k in others} == {k: expected[k] for k in others}


def _parts(plan: object) -> dict[str, object]:
    return {name: getattr(plan, name) for name in type(PLAN).model_fields}


def test_a_store_that_is_away_is_tried_again_and_nothing_is_lost() -> None:
    topic, store = _updates(EVENTS), MemoryRows()
    folding = _Folding(topic, store)
    folding.away = True
    folding.turns(50)
    assert folding.observer.faults() == ["the store is away, nothing is read"]
    assert store.rows == {}
    folding.away = False
    folding.turns()
    assert folding.observer.faults() == []
    assert unmarked(store.rows) == final_rows(EVENTS, PLAN)
    assert folding.connections == 1


def test_every_figure_of_a_worker_moves() -> None:
    topic, updates = Topic.empty(1), Topic.empty(SETTINGS.targets)
    for event in EVENTS:
        topic.append(0, dump_event(event))
    topic.append(0, dump_event(EVENTS[0]))
    topic.append(0, b"no event")
    topic.logs[0] = [r._replace(append_time=9 * 10**12) for r in topic.logs[0]]
    store, observer = MemoryRows(), Observer("route")
    sink = SimulatedSink(updates, [], random.Random(1), lambda _: None, _never)
    worker = RouteWorker(
        source := _source(topic),
        sink,
        lambda: Opened(store, 1),
        FixedPlan(),
        SETTINGS,
        observer,
        60_000,
    )
    source.subscribe(worker)
    for _ in range(100):
        worker.turn(0)
    folding = _Folding(updates, store)
    folding.turns()
    text = generate_latest(observer.registry) + generate_latest(folding.observer.registry)
    shown = text.decode()
    for kind in ("accepted", "repeated", "dead", "blocks", "rows_written", "folded_updates"):
        assert f'kind="{kind}"' in shown
    for series in (
        'headrace_lag_records{partition="0",process="route"} 0.0',
        'headrace_batch_size_count{of="records",process="route"}',
        'headrace_batch_size_count{of="rows",process="aggregate"}',
        'headrace_freshness_seconds_count{base="event_time",process="aggregate"}',
        'headrace_state{kind="newest_event_time_ms",process="aggregate"}',
        'headrace_state{kind="checkpoint_unix_s",process="aggregate"}',
        f'headrace_plan_info{{process="aggregate",version="{PLAN.version}"}} 1.0',
    ):
        assert series in shown, series
    assert unmarked(store.rows) == final_rows(EVENTS, PLAN)


def test_route_goes_on_where_a_replay_into_its_project_ended() -> None:
    values = [dump_event(event) for event in EVENTS]
    repeated = [*values[:120], values[7], *values[120:]]
    topic, updates, store = Topic.empty(1), Topic.empty(SETTINGS.targets), MemoryRows()
    for value in repeated:
        topic.append(0, value)
    topic.logs[0] = [r._replace(append_time=9 * 10**12) for r in topic.logs[0]]
    replay = replay_of(PLAN, ListedEvents({0: repeated[:100]}), store)
    replay.run()
    replay.finish()
    store.remember(REPLAYED, "life/0", str(replay.outcome.positions[Place(1, 0)]))
    sink = SimulatedSink(updates, [], random.Random(1), lambda _: None, _never)
    worker = RouteWorker(
        source := _source(topic),
        sink,
        lambda: Opened(store, 1),
        FixedPlan(),
        SETTINGS,
        observer := Observer("route"),
        60_000,
        topic_id="life",
    )
    source.subscribe(worker)
    for _ in range(100):
        worker.turn(0)
    folding = _Folding(updates, store)
    folding.turns()
    assert unmarked(store.rows) == final_rows(EVENTS, PLAN)
    text = generate_latest(observer.registry).decode()
    assert 'kind="accepted",process="route"} 100.0' in text
    assert 'kind="repeated",process="route"} 1.0' in text
