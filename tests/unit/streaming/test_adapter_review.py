"""A wrong mapping is explained, a right one passes without a word."""

from collections.abc import Callable
from typing import Any

import pytest

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem
from streaming.adapters.review import Review

T0 = 1_700_000_000_000


def _events(**wrong: Callable[[int], Any]) -> list[Event]:
    """Ten requests of one item each, half of them clicked; `wrong` changes one mapping."""

    def told(name: str, number: int, right: Any) -> Any:
        return wrong[name](number) if name in wrong else right

    items: list[Event] = [
        ItemEvent(event_id=f"item{i}", event_time=told("time", 0, T0), author_id="a",
                  item_id=told("item", i, f"i{i}"))
        for i in range(10)
    ]  # fmt: skip
    acts: list[Event] = []
    for i in range(10):
        time = told("time", i, T0 + 1000 * i)
        context: dict[str, Any] = {"event_time": time, "user_id": "u"}
        shown = [ShownItem(item_id=f"i{i}")]
        acts.append(ImpressionEvent(event_id=f"s{i}", request_id=f"r{i}", surface="home",
                                    items=shown, **context))  # fmt: skip
        if i % 2:
            acts.append(
                EngagementEvent(
                    event_id=f"c{i}",
                    action=told("action", i, "click"),
                    request_id=told("request", i, f"r{i}"),
                    item_id=f"i{i}",
                    **context,
                )
            )
    return items + acts


def _remarks(events: list[Event]) -> list[str]:
    review = Review()
    assert list(review.each(events)) == events
    return review.remarks()


def test_a_right_mapping_needs_no_remark() -> None:
    assert _remarks(_events()) == []


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (_events(time=lambda i: 1_700_000_000 + i), "probably seconds; multiply by 1000"),
        (_events(time=lambda i: T0 - i), "sort by event_time"),
        (_events(request=lambda i: f"r{i + 1}"), "5 of 5 engagements name a request in which"),
        (_events(request=lambda i: None), "none of 5 engagements names a request"),
        (_events(item=lambda i: f"0{i}"), "10 of 10 shown items have no item event"),
        ([e for e in _events() if e.type != "impression"], "no impressions"),
        ([e for e in _events() if e.type != "engagement"], "no engagements"),
    ],
)
def test_a_wrong_mapping_is_explained(events: list[Event], said: str) -> None:
    assert any(said in remark for remark in _remarks(events)), _remarks(events)


def test_actions_are_told_with_how_often_they_came_and_impressions_are_among_them() -> None:
    review = Review()
    list(review.each(_events(action=lambda i: "tap" if i > 5 else "click")))
    assert review.acted() == {"impression": 10, "click": 3, "tap": 2}
