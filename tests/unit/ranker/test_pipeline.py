"""The pipeline from a request to a feed, over rows in memory."""

import asyncio
import itertools
import math
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import pytest

from features.errors import BadInput, Unavailable
from features.events import EngagementEvent, Event, ItemEvent
from ranker.pipeline import Pipeline
from ranker.request import RankRequest, RankResponse
from ranker.scoring.value import ValueWeights
from ranker.stages.roles import Query
from ranker.stages.serving_log import drawn
from ranker.training.rows import TrainingRows
from tests.browsing import browsing, engagement
from tests.serving import UNHURRIED_MS, Serving, folded, marker_text, trained

ITEMS = [f"i{number}" for number in range(60)]


def ids(feed: RankResponse) -> list[str]:
    return [item.item_id for item in feed.items]


def test_a_feed_is_ordered_by_score_and_numbered_from_zero(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", candidates=ITEMS, limit=60)
    scores = [item.score for item in feed.items]
    assert sorted(ids(feed)) == sorted(ITEMS)
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 5
    assert [item.position for item in feed.items] == list(range(60))
    assert feed.degraded == []
    assert (feed.items[0].categories, feed.items[0].known) == (["c3"], True)


def test_the_score_is_the_weighted_sum_of_the_heads(
    rows: TrainingRows, browsed: list[Event], tmp_path: Path
) -> None:
    folder = trained(tmp_path / "two", rows, "click", "skip", trees=5)
    weights = {"click": 2.0, "skip": -1.0}
    serving = Serving(folded(browsed), folder, ValueWeights(default=weights))
    for item in serving.ask(user_id="u1", candidates=ITEMS).items:
        assert item.score == 2.0 * item.heads["click"] - item.heads["skip"]


def test_no_candidates_at_all_ask_the_sources(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", limit=7)
    assert len(feed.items) == 7
    assert all(item.known for item in feed.items)


def test_an_empty_list_of_candidates_is_an_empty_feed(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", candidates=[], explain=True, features=True)
    assert (feed.items, feed.degraded) == ([], [])


def test_duplicate_candidates_count_once(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", candidates=["i1", "i2", "i1", "i1", "i2"])
    assert sorted(ids(feed)) == ["i1", "i2"]


def test_ten_thousand_candidates_are_ranked(serving: Serving) -> None:
    many = ITEMS + [f"new{number}" for number in range(10_000 - len(ITEMS))]
    feed = serving.ask(user_id="u3", candidates=many, limit=500)
    assert len(set(ids(feed))) == 500


def test_an_unknown_user_and_unknown_items_get_a_feed(serving: Serving) -> None:
    feed = serving.ask(user_id="nobody", candidates=["i1", "ghost"])
    assert {item.item_id: item.known for item in feed.items} == {"i1": True, "ghost": False}
    ghost = next(item for item in feed.items if item.item_id == "ghost")
    assert (ghost.author_id, ghost.categories) == (None, [])
    assert math.isfinite(ghost.score)
    assert (feed.freshness.user_updated_at, feed.freshness.user_age_ms) == (None, None)
    assert feed.degraded == []


def test_a_clock_that_leaps_under_way_is_read_once_and_makes_nothing_late(
    serving: Serving,
) -> None:
    leaps = itertools.cycle((10_000, 10_000 + 31_536_000_000, 10_000 - 9_000))
    read: list[int] = []

    def leaping() -> int:
        read.append(next(leaps))
        return read[-1]

    serving.pipeline.stages = replace(serving.pipeline.stages, clock_ms=leaping)
    for number in range(1, 7):
        feed = serving.ask(user_id="u3", candidates=ITEMS, limit=60)
        assert (feed.degraded, len(read)) == ([], number)
        assert (feed.now, len(feed.items)) == (read[-1], 60)
        assert (
            feed.items == serving.ask(user_id="u3", candidates=ITEMS, limit=60, now=feed.now).items
        )
        assert 0 <= feed.took_ms < UNHURRIED_MS


def test_equal_scores_keep_the_order_of_the_candidates(serving: Serving) -> None:
    strangers = [f"ghost{number}" for number in range(50, 0, -1)]
    feed = serving.ask(user_id="u3", candidates=strangers, limit=50)
    assert len({item.score for item in feed.items}) == 1
    assert ids(feed) == strangers


def test_without_a_model_popularity_ranks_and_says_so(browsed: list[Event]) -> None:
    clicks = [engagement(f"more{n}", 4_590, 1, 44, "click") for n in range(50)]
    serving = Serving(folded([*browsed, *clicks]))
    serving.now = 4_600
    feed = serving.ask(user_id="u3", candidates=ITEMS, explain=True)
    assert feed.model == "popularity"
    assert feed.degraded == ["model: no model is loaded; ranked by popularity"]
    assert ids(feed)[0] == "i44"
    assert feed.items[0].score >= 50
    assert (feed.items[0].heads, feed.items[0].reasons) == ({}, None)


@pytest.mark.parametrize("error", [Unavailable("no answer in 50 ms"), BadInput("not ours")])
def test_a_user_row_that_cannot_be_read_degrades_and_is_named(
    serving: Serving, error: Exception
) -> None:
    stranger = serving.ask(user_id="nobody", candidates=ITEMS)
    serving.users.fault = error  # type: ignore[assignment]
    feed = serving.ask(user_id="u3", candidates=ITEMS)
    assert feed.degraded == [f"user_row: {error}; ranked as an unknown user"]
    assert ids(feed) == ids(stranger)
    assert feed.freshness.user_updated_at is None


def test_tables_that_are_behind_are_named(serving: Serving) -> None:
    serving.live.degraded, serving.live.behind_ms = "live rows are 900 ms old", 900.0
    feed = serving.ask(user_id="u3", candidates=ITEMS)
    assert feed.degraded == ["item_table: live rows are 900 ms old"]
    assert feed.freshness.item_staleness_ms == 900.0
    assert len(feed.items) == 20


def test_a_programmers_error_costs_its_stage_and_stands_in_the_log_whole(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    serving.users.fault = ZeroDivisionError("mine")  # type: ignore[assignment]
    feed = serving.ask(user_id="u3", candidates=ITEMS)
    assert len(feed.items) == 20
    (told,) = feed.degraded
    assert told.startswith("user_row: failed (ZeroDivisionError, ")
    assert "mine" not in told
    assert "mine" in caplog.text
    assert "Traceback" in caplog.text


def test_ended_items_are_dropped_from_candidates_and_sources(
    browsed: list[Event], model: Path
) -> None:
    ended = [
        ItemEvent(event_id=f"end{n}", event_time=4_500, item_id=f"i{n}", ended=True) for n in (3, 8)
    ]
    serving = Serving(folded([*browsed, *ended]), model)
    assert ids(serving.ask(user_id="u3", candidates=["i3", "i4", "i8"])) == ["i4"]
    assert {"i3", "i8"}.isdisjoint(ids(serving.ask(user_id="u3", limit=500)))


def test_a_request_id_is_echoed_or_made_up(serving: Serving) -> None:
    assert serving.ask(user_id="u3", request_id="mine").request_id == "mine"
    made = {serving.ask(user_id="u3", limit=1).request_id for _ in range(10)}
    assert len(made) == 10


def test_now_is_the_clocks_unless_the_request_says_otherwise(serving: Serving) -> None:
    feed = serving.ask(user_id="u3")
    newest = max(
        event.event_time
        for event in browsing(500)
        if isinstance(event, EngagementEvent) and event.user_id == "u3"
    )
    assert feed.now == 4_600
    assert feed.freshness.user_updated_at is not None
    assert feed.freshness.user_updated_at >= newest
    assert feed.freshness.user_age_ms == 4_600 - feed.freshness.user_updated_at
    assert serving.ask(user_id="u3", now=0).now == 0


def test_the_time_of_each_stage_is_told_when_asked_for(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", explain_time=True)
    assert feed.timings_ms is not None
    assert {"user_row", "candidates", "features", "heads"} <= set(feed.timings_ms)
    assert all(taken > 0 for taken in feed.timings_ms.values())
    assert sum(feed.timings_ms.values()) <= feed.took_ms
    assert serving.ask(user_id="u3").timings_ms is None


def test_every_feature_is_returned_by_name_when_asked_for(serving: Serving) -> None:
    with_them = serving.ask(user_id="u3", candidates=["i3", "ghost"], features=True)
    columns = serving.reading.reader.columns
    for item in with_them.items:
        assert item.features is not None
        assert tuple(item.features) == columns
    found = {item.item_id: item.features for item in with_them.items}
    assert found["i3"] is not None
    assert found["ghost"] is not None
    assert found["i3"]["item_facts__age_s"] == (4_600 - 1_000) / 1000
    assert found["ghost"]["item_facts__age_s"] is None
    assert serving.ask(user_id="u3", candidates=["i3"]).items[0].features is None


def test_reasons_name_their_groups_strongest_first_and_the_base_last(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", candidates=ITEMS, limit=60, explain=True)
    for item in feed.items:
        assert item.reasons is not None
        assert sum(r.contribution for r in item.reasons) == pytest.approx(item.score, abs=1e-9)
        strength = [abs(reason.contribution) for reason in item.reasons[:-1]]
        assert strength == sorted(strength, reverse=True)
        assert item.reasons[-1].group == "base"
    groups = {reason.group for reason in feed.items[0].reasons or []}
    named = {"item_rates", "user_rates", "user_item", "item_facts", "request_facts", "base"}
    assert groups == named


def test_the_serving_log_holds_what_was_scored(serving: Serving) -> None:
    feed = serving.ask(
        user_id="u3", candidates=ITEMS, limit=5, request_id="r", features=True, surface="home"
    )
    record = serving.log.newest()
    assert serving.log.records[-1][0] == b"u3"
    assert record["items"] == ids(feed)
    assert record["columns"] == list(serving.reading.reader.columns)
    served = [list((item.features or {}).values()) for item in feed.items]
    assert record["vectors"] == served
    assert record["score"] == [item.score for item in feed.items]
    assert record["heads"] == {"click": [item.heads["click"] for item in feed.items]}
    named = {key: record[key] for key in ("request_id", "user_id", "surface", "now", "model")}
    assert named == {
        "request_id": "r",
        "user_id": "u3",
        "surface": "home",
        "now": 4_600,
        "model": feed.model,
    }
    assert record["user_marker"] == marker_text()
    assert record["plan"] == serving.world.plan.version


def test_the_serving_log_keeps_all_candidates_of_a_share_of_the_requests(serving: Serving) -> None:
    feed = serving.ask(user_id="u3", candidates=ITEMS, limit=5)
    record = serving.log.newest()
    assert record["limit"] == 5
    assert record["among"]["items"] == ITEMS
    assert record["among"]["source"] == ["request"] * len(ITEMS)
    assert record["among"]["propensity"] == [None] * len(ITEMS)
    assert record["among"]["shown"] == []
    assert record["rows"]["item_id"].keys() >= set(ITEMS)
    serving.ask(user_id="u3", candidates=ITEMS, limit=5, cursor=feed.next_cursor)
    before = [ITEMS[place] for place in serving.log.newest()["among"]["shown"]]
    assert sorted(before) == sorted(ids(feed))
    some = [number for number in range(1_000) if drawn(f"r{number}", 0.2)]
    assert 120 < len(some) < 280
    assert not any(drawn(f"r{number}", 0.0) for number in range(1_000))
    assert all(drawn(f"r{number}", 1.0) for number in range(1_000))


def test_the_log_of_an_unknown_user_and_an_empty_feed(serving: Serving) -> None:
    serving.ask(user_id="nobody", candidates=[])
    record = serving.log.newest()
    assert (record["user_marker"], record["items"], record["vectors"]) == (None, [], [])


def test_a_click_moves_what_is_like_it_up(browsed: list[Event], model: Path) -> None:
    def places(events: list[Event]) -> list[int]:
        serving = Serving(folded(events), model)
        order = ids(serving.ask(user_id="newcomer", candidates=ITEMS, limit=60, now=4_600))
        return [order.index(f"i{number}") for number in range(2, 60, 5)]

    clicks: list[Event] = [
        engagement(f"c{n}", 4_590, 0, n, "click").model_copy(update={"user_id": "newcomer"})
        for n in (2, 7)
    ]
    assert sum(places([*browsed, *clicks])) < sum(places(browsed)) - 60


def test_an_observer_is_told_before_the_answer_and_where_it_was_asked_from(
    serving: Serving,
) -> None:
    caller, told = ContextVar("caller", default=""), list[tuple[str, dict[str, float]]]()

    def observe(query: Query) -> None:
        told.append((caller.get(), dict(query.timings_ms)))

    pipeline = Pipeline(replace(serving.pipeline.stages, observe=observe))

    async def ask() -> None:
        caller.set("here")
        await pipeline.rank(RankRequest(user_id="u3", limit=7))
        ((where, stages),) = told
        assert where == "here"
        assert {"user_row", "features", "heads", "page"} <= stages.keys()

    asyncio.run(ask())
    pipeline.close()
