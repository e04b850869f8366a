"""Replay on a virtual clock: each request sees what happened strictly before it, and what training
reads is what serving reads, bit for bit."""

from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.entities import Hash
from features.events import EngagementEvent, Event, ImpressionEvent, ShownItem
from features.marker import Marker
from ranker.training.evaluation import request_gauc
from ranker.training.rows import RowMaker
from streaming.replay import Request, Timeline
from tests.browsing import browsing, engagement
from tests.plans import World
from tests.serving import SERVED_PLAN, Serving, replayed
from tests.stored import held
from tests.strategies import ITEMS, USERS, histories

Rows = dict[bytes, Hash]
instants = st.one_of(st.integers(0, 300), st.integers(10**12, 10**12 + 300))


def rows_of(world: World | Timeline) -> Rows:
    """All rows as a store would hold them."""
    for table in world.tables.values():
        table.markers[:] = [Marker(1, 0, 1)] * len(table)
    return {k: row for table in world.tables.values() for k, row in held(table).items()}


def refolded(events: Iterable[Event], now: int) -> Rows:
    """The rows of everything before an instant, folded in the order of arrival."""
    return rows_of(World(SERVED_PLAN).fold(e for e in events if e.event_time < now))


@settings(max_examples=40)
@given(histories(), st.lists(instants, min_size=1, max_size=4).map(sorted))
def test_the_state_at_an_instant_is_what_happened_strictly_before_it(
    events: list[Event], stops: list[int]
) -> None:
    timeline = Timeline(SERVED_PLAN, events)
    for now in stops:
        timeline.fold_until(now)
        assert rows_of(timeline) == refolded(events, now)


@settings(max_examples=30)
@given(histories(), st.data())
def test_an_event_that_comes_again_counts_once(events: list[Event], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    timeline = Timeline(SERVED_PLAN, [*events, *again])
    timeline.fold_until(2 * 10**12)
    assert (timeline.repeated, timeline.events) == (len(again), len(events) + len(again))
    assert rows_of(timeline) == refolded(events, 2 * 10**12)


def test_beyond_the_horizon_an_event_counts_again() -> None:
    click = engagement("same", 5, 1, 1, "click")
    others = [engagement(f"other{n}", 5, 2, 2, "click") for n in range(10)]
    assert Timeline(SERVED_PLAN, [click, *others, click], horizon=5).repeated == 0
    assert Timeline(SERVED_PLAN, [click, *others, click], horizon=50).repeated == 1


def test_requests_come_in_order_of_time_each_with_state_of_its_own() -> None:
    events = browsing(60, seed=3)
    late_first = [*(e for e in events if e.event_time > 1_200), *events]
    timeline = Timeline(SERVED_PLAN, late_first)
    seen: list[Request] = []

    def check(request: Request) -> None:
        seen.append(request)
        assert rows_of(timeline) == refolded(events, request.now)

    timeline.run(check)
    assert [request.now for request in seen] == sorted(request.now for request in seen)
    assert len(seen) == 60
    assert rows_of(timeline) == refolded(events, 10**9)


def test_a_walk_up_to_an_instant_stops_there() -> None:
    events = browsing(60, seed=3)
    timeline = Timeline(SERVED_PLAN, events)
    seen: list[int] = []
    timeline.run(lambda request: seen.append(request.now), until=1_210)
    assert max(seen) < 1_210 <= 1_000 + 7 * (len(seen) + 1)
    assert rows_of(timeline) == refolded(events, 1_210)


def test_a_request_is_all_impressions_under_its_id_and_what_followed() -> None:
    def shown(event_id: str, time: int, *items: str) -> ImpressionEvent:
        return ImpressionEvent(
            event_id=event_id,
            event_time=time,
            request_id="r",
            user_id="u1",
            surface="search",
            items=[ShownItem(item_id=item) for item in items],
        )

    events: list[Event] = [
        shown("a", 20, "i1", "i2"),
        engagement("b", 21, 1, 1, "click", "r"),
        shown("c", 10, "i1"),
        engagement("d", 22, 1, 1, "like", "r"),
        engagement("e", 23, 1, 2, "skip", "other"),
        engagement("f", 24, 1, 9, "click", "r"),
        engagement("g", 25, 1, 2, "click"),
    ]
    (request,) = Timeline(SERVED_PLAN, events).requests
    assert request == Request(
        "r", "u1", "search", 10, ["i1", "i2", "i1"], [{"click"}, set(), {"like"}]
    )


def vectors(
    plan_tables: World | Timeline, now: int, user: str, items: Sequence[str]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    maker = RowMaker(SERVED_PLAN, "feed", plan_tables.tables, ["click"])
    return maker.add(now, user, "home", items, [set()] * len(items))


@settings(max_examples=40)
@given(histories(), instants, st.sampled_from((*USERS, "stranger")))
def test_training_reads_the_bits_that_serving_serves(
    events: list[Event], now: int, user: str
) -> None:
    timeline = Timeline(SERVED_PLAN, events)
    timeline.fold_until(now)
    wanted = [*ITEMS, "ghost"]
    trained = vectors(timeline, now, user, wanted)
    serving = Serving(World(SERVED_PLAN).fold(e for e in events if e.event_time < now))
    feed = serving.ask(user_id=user, candidates=wanted, now=now, features=True, limit=500)
    logged = serving.log.newest()
    for place, item in enumerate(feed.items):
        expected = [None if x != x else x.hex() for x in trained[wanted.index(item.item_id)]]
        served = list((item.features or {}).values())
        assert [None if x is None else x.hex() for x in served] == expected
        assert [None if x is None else float(x).hex() for x in logged["vectors"][place]] == expected


@settings(max_examples=40)
@given(histories(), histories(), instants)
def test_what_comes_at_or_after_a_request_moves_no_feature_of_it(
    events: list[Event], later: list[Event], now: int
) -> None:
    planted = [
        event.model_copy(update={"event_id": f"later-{n}", "event_time": now + n})
        for n, event in enumerate(later)
    ]
    alone, beside = Timeline(SERVED_PLAN, events), Timeline(SERVED_PLAN, [*planted, *events])
    for timeline in (alone, beside):
        timeline.fold_until(now)
    for user in USERS:
        expected = vectors(alone, now, user, ITEMS)
        assert vectors(beside, now, user, ITEMS).tobytes() == expected.tobytes()


def test_planting_a_label_moves_the_label_and_not_the_row() -> None:
    events = browsing(200, seed=5)
    rows = replayed(events)
    shown = [e for e in events if isinstance(e, ImpressionEvent)]
    clicked = {
        (e.request_id, e.item_id)
        for e in events
        if isinstance(e, EngagementEvent) and e.action == "click"
    }
    place, last = len(shown) - 1, shown[-1]
    target = next(i.item_id for i in last.items if (last.request_id, i.item_id) not in clicked)
    label = engagement(
        "planted", last.event_time, int(last.user_id[1:]), int(target[1:]), "click", last.request_id
    )
    planted = replayed([*events, label])
    here = rows.request == place
    assert planted.labels["click"][here].sum() == rows.labels["click"][here].sum() + 1
    assert planted.matrix.tobytes() == rows.matrix.tobytes()


def test_a_feature_that_is_constant_in_a_request_cannot_move_the_request_gauc() -> None:
    rows = replayed(browsing(300, seed=7))
    label = rows.labels["click"]
    own = rows.matrix[:, rows.columns.index("user_item__author_affinity")]
    before = request_gauc(label, np.round(own * 1024), rows.request)
    assert before != 0.5
    for place, name in enumerate(rows.columns):
        if name.startswith(("user_rates__", "request_facts__")):
            column = np.nan_to_num(np.round(rows.matrix[:, place] * 1024))
            assert request_gauc(label, column, rows.request) == 0.5, name
            assert request_gauc(label, np.round(own * 1024) + column, rows.request) == before, name
