"""What is popular, as the last resort shows it, and feeds when hardly anything is there."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import Unavailable
from features.events import Event, ItemEvent
from ranker.rules import Rules, SurfaceRules
from ranker.stages.last_resort import About, Popular, look
from ranker.tables.popularity import ROWS_PER_TURN
from ranker.tables.turns import TurnLock
from tests.browsing import engagement
from tests.serving import Serving, folded


def test_a_look_finds_the_most_clicked_items_but_none_that_ended(serving: Serving) -> None:
    clicks = serving.reading.popularity
    rows = np.arange(60)
    found = look(serving.reading, TurnLock(), serving.now, 10)
    best = sorted(clicks.counts(rows, serving.now), reverse=True)[:10]
    assert [about.clicks for about in found.items.values()] == best
    about = found.items[next(iter(found.items))]
    assert about.author is not None
    assert about.category is not None


def test_a_look_at_many_rows_is_made_in_parts() -> None:
    count = ROWS_PER_TURN + 500
    events: list[Event] = [
        ItemEvent(event_id=f"e{n}", event_time=1_000, item_id=f"i{n}", ended=n in (5, count - 1))
        for n in range(count)
    ]
    events += [engagement(f"c{n}", 9_000, 1, n, "click") for n in (3, 5, count - 2, count - 1)]
    reading = Serving(folded(events)).reading
    assert list(look(reading, TurnLock(), 9_500, 3).items) == ["i3", f"i{count - 2}", "i0"]


def test_a_look_at_a_large_table_takes_what_its_last_renewal_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [engagement(f"c{n}", 9_000, 1, n % 7, "click") for n in range(50)]
    reading = Serving(folded(events)).reading
    monkeypatch.setattr("ranker.tables.popularity.INLINE_MAX", 5)
    now, years_later = 9_500, 999_999_999_999
    standing = reading.popularity.renew(now, TurnLock())
    assert list(look(reading, TurnLock(), years_later, 3).items) == standing.ids[:3]
    monkeypatch.undo()
    assert {one.clicks for one in look(reading, TurnLock(), years_later, 3).items.values()} == {0.0}


def test_a_look_keeps_the_numbers_that_surfaces_require(serving: Serving) -> None:
    found = look(serving.reading, TurnLock(), serving.now, 5, ["attributes.duration_ms"])
    assert all(1_000 <= a.numbers["attributes.duration_ms"] <= 1_001 for a in found.items.values())


POPULAR = Popular(
    {
        "i1": About(9.0, "ana", "music", {"licensed": 1.0}),
        "i2": About(5.0, "ben", "music", {"licensed": 0.0}),
        "i3": About(1.0, None, None, {"licensed": 1.0}),
    }
)


@pytest.mark.parametrize(
    ("given", "required", "blocked", "expected"),
    [
        (None, {}, set(), ["i1", "i2", "i3"]),
        (None, {"licensed": 1.0}, set(), ["i1", "i3"]),
        (None, {}, {"ana"}, ["i2", "i3"]),
        (["x", "i3", "i1", "x"], {}, set(), ["i1", "i3", "x"]),
        (["x", "i3", "i1"], {}, {"ben"}, ["i1", "i3"]),
        ([], {}, set(), []),
    ],
)
def test_a_popular_feed_keeps_the_promises(
    given: list[str] | None, required: dict[str, float], blocked: set[str], expected: list[str]
) -> None:
    rules = SurfaceRules(require=required)
    assert list(POPULAR.feed(given, rules, blocked)) == expected


def test_with_the_store_away_the_feed_is_what_the_model_makes_of_a_stranger(
    serving: Serving,
) -> None:
    serving.users.fault = Unavailable("Redis is away")
    serving.live.degraded = "live rows may be 3,000 ms old and are read again: Redis is away"
    feed = serving.ask(user_id="u3", limit=10)
    assert len(feed.items) == 10
    assert [told.partition(":")[0] for told in feed.degraded] == ["user_row", "item_table"]


def test_with_the_store_away_and_no_model_the_feed_is_popular(browsed: list[Event]) -> None:
    serving = Serving(folded(browsed))
    serving.now = 4_600
    serving.users.fault = Unavailable("Redis is away")
    feed = serving.ask(user_id="u3", limit=10)
    assert feed.model == "popularity"
    scores = [item.score for item in feed.items]
    assert scores[0] > 0
    assert scores == sorted(scores, reverse=True)


def test_over_empty_tables_candidates_keep_their_order_and_no_candidates_are_no_feed(
    model: Path,
) -> None:
    serving = Serving(folded([]), model)
    serving.live.degraded = "live rows are not loaded yet: nothing is read yet"
    feed = serving.ask(user_id="anybody", candidates=["b", "a", "c"])
    assert [item.item_id for item in feed.items] == ["b", "a", "c"]
    assert [told.partition(":")[0] for told in feed.degraded] == ["item_table"]
    assert serving.ask(user_id="anybody").items == []


def test_sources_that_bring_nothing_are_replaced_by_what_was_popular(model: Path) -> None:
    serving = Serving(folded([]), model)
    serving.popular = POPULAR
    feed = serving.ask(user_id="anybody")
    assert {item.item_id for item in feed.items} == {"i1", "i2", "i3"}
    assert serving.log.newest()["source"] == ["popular"] * 3


def test_rules_hold_for_a_new_users_feed(serving: Serving) -> None:
    serving.rules = Rules(default=SurfaceRules(require={"attributes.duration_ms": 7.0}))
    assert serving.ask(user_id="new").items == []
