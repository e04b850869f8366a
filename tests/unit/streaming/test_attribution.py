"""Attribution: late engagements change state and label nothing."""

from features.events import EngagementEvent, Event, ImpressionEvent, ShownItem
from ranker.training.rows import RowMaker
from streaming.attribution import attributed
from streaming.replay import Timeline
from tests.plans import PLAN


def _shown(request: str, time: int, *items: str) -> Event:
    return ImpressionEvent(
        event_id=f"{request}@{time}",
        event_time=time,
        request_id=request,
        user_id="u",
        surface="home",
        items=[ShownItem(item_id=item) for item in items],
    )


def _click(request: str, time: int, item: str) -> Event:
    return EngagementEvent(
        event_id=f"click{time}", event_time=time, user_id="u", item_id=item, action="click",
        request_id=request,
    )  # fmt: skip


EVENTS = [
    _shown("r1", 100, "a", "b"),
    _click("r1", 150, "a"),
    _shown("r1", 160, "b"),
    _click("r1", 201, "b"),  # 101 after it was shown first
    _shown("r2", 1000, "a"),
    _click("r2", 1100, "a"),  # on the edge
    _click("r1", 1101, "a"),  # of a request long forgotten
]


def test_an_engagement_within_the_window_keeps_its_request_and_a_late_one_loses_it() -> None:
    found = [e for e in attributed(EVENTS, 100) if isinstance(e, EngagementEvent)]
    assert [e.request_id for e in found] == ["r1", None, "r2", None]
    assert [e.event_id for e in found] == ["click150", "click201", "click1100", "click1101"]


def test_a_late_engagement_is_no_label_and_still_a_fact() -> None:
    def replayed(events: list[Event]) -> tuple[list[list[set[str]]], float]:
        timeline = Timeline(PLAN, events)
        timeline.run(lambda request: None)
        maker = RowMaker(PLAN, "feed", timeline.tables, ["click"])
        row = maker.add(1200, "u", "home", ["a"], [set()])[0]
        clicks = row[maker.rows().columns.index("item_rates__clicks_all")]
        return [request.outcomes for request in timeline.requests], float(clicks)

    labels, clicks = replayed(list(attributed(EVENTS, 100)))
    assert labels == [[{"click"}, set(), set()], [{"click"}]]
    assert clicks == 3
    assert replayed(EVENTS) == ([[{"click"}, set(), {"click"}], [{"click"}]], clicks)


def test_what_is_held_does_not_grow_with_the_stream() -> None:
    kept = attributed((_shown(f"r{i}", 10 * i, "a") for i in range(5000)), 50)
    for _ in kept:
        assert len(kept.gi_frame.f_locals["shown"]) <= 12  # type: ignore[attr-defined]
