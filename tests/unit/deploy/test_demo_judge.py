"""The demo's judgement: baselines that know what the ranker knows, and nothing after a request."""

from collections.abc import Mapping

import pytest

from deploy.demo.judge import HOUR_MS, Judgement, Known, judged_requests
from features.events import ImpressionEvent, ItemEvent
from ranker.request import Freshness, RankedItem, RankResponse
from streaming.replay import Request
from tests.browsing import browsing, engagement

NOW = 10 * HOUR_MS


def click(event_id: str, time: int, item: int) -> Known:
    known = Known("click")
    known.learn([engagement(event_id, time, 1, item, "click")])
    return known


def answer(scores: Mapping[str, float], took_ms: float = 2.0) -> RankResponse:
    items = [
        RankedItem(
            item_id=item,
            position=place,
            score=score,
            heads={},
            author_id=None,
            categories=[],
            known=True,
        )
        for place, (item, score) in enumerate(scores.items())
    ]
    fresh = Freshness(user_updated_at=None, user_age_ms=None, item_staleness_ms=0.0)
    return RankResponse(
        request_id="r",
        now=NOW,
        items=items,
        model="m",
        freshness=fresh,
        degraded=[],
        took_ms=took_ms,
    )


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (NOW - HOUR_MS - 1, 0),
        (NOW - HOUR_MS, 1),
        (NOW - 1, 1),
        (NOW, 0),
        (NOW + 1, 0),
    ],
)
def test_a_window_ends_strictly_before_now(time: int, expected: int) -> None:
    assert click("a", time, 7).actions("i7", NOW, HOUR_MS) == expected
    assert click("a", time, 7).actions("i8", NOW, HOUR_MS) == 0


def test_only_the_label_counts_as_an_action() -> None:
    known = Known("like")
    known.learn([engagement("a", 5, 1, 7, "click"), engagement("b", 5, 1, 7, "like")])
    assert known.actions("i7", NOW, 24 * HOUR_MS) == 1


def test_events_that_are_not_learnt_are_not_known() -> None:
    request = Request("r", "u1", "home", NOW, ["i1", "i2"], [set(), {"click"}])
    known = Known("click")
    known.learn([ItemEvent(event_id="a", event_time=1, item_id="i1", created_at=77)])
    judgement = Judgement()
    judgement.add(request, known, lambda _: answer({"i2": 0.9, "i1": 0.1}))
    assert judgement.scores == {
        "Headrace": [0.1, 0.9],
        "popular, last hour": [0, 0],
        "popular, last day": [0, 0],
        "newest first": [77, 0],
    }
    assert judgement.label == [0, 1]


def test_the_ranker_is_asked_for_the_recorded_request_at_its_own_time() -> None:
    asked: list[dict[str, object]] = []

    def rank(body: dict[str, object]) -> RankResponse:
        asked.append(body)
        return answer({"i1": 0.5})

    request = Request("r", "u1", "search", NOW, ["i1", "i2"], [{"click"}, set()])
    judgement = Judgement()
    judgement.add(request, Known("click"), rank)
    judgement.add(request, Known("click"), rank)
    assert asked[0] == {
        "user_id": "u1",
        "surface": "search",
        "candidates": ["i1", "i2"],
        "limit": 2,
        "now": NOW,
        "request_id": "r",
    }
    # An item that was not ranked is judged by no method; each answer is a request of its own.
    assert judgement.label == [1, 1]
    assert judgement.request == [1, 2]
    assert judgement.took_ms == [2.0, 2.0]


def test_the_table_has_every_method_over_all_rows_and_inside_requests() -> None:
    judgement = Judgement()
    known = click("early", NOW - 5, 2)
    for items in (["i1", "i2"], ["i3", "i2"]):
        request = Request("r", "u1", "home", NOW, items, [{"click"}, set()])
        judgement.add(request, known, lambda _: answer({"i1": 0.9, "i3": 0.8, "i2": 0.1}))
    table = judgement.table()
    assert table["Headrace"] == (1.0, 1.0)
    assert table["popular, last hour"] == (0.0, 0.0)
    assert table["newest first"] == (0.5, 0.5)


def test_judged_requests_begin_at_the_cut_and_know_what_followed() -> None:
    events = browsing(50)
    requests = judged_requests(events, "click", 1_200)
    shown = [e for e in events if isinstance(e, ImpressionEvent) and e.event_time >= 1_200]
    assert [request.request_id for request in requests] == [e.request_id for e in shown]
    assert {action for r in requests for actions in r.outcomes for action in actions} == {"click"}
    assert [r.items for r in requests] == [[i.item_id for i in e.items] for e in shown]


def test_an_item_shown_twice_in_a_request_is_one_candidate() -> None:
    events = browsing(1)
    impression = next(e for e in events if isinstance(e, ImpressionEvent))
    again = impression.model_copy(update={"event_id": "again", "event_time": 1_500})
    (request,) = judged_requests([*events, again], "click", 0)
    assert request.now == impression.event_time
    assert len(request.items) == len(set(request.items)) == len(request.outcomes)
