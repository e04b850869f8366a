"""Pages of one session: together they are the one long page, and nothing comes twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.events import Event
from ranker.cursor import SESSION_ITEMS_MAX
from ranker.request import RankResponse
from ranker.rules import Diversity, Rules, Seen, Spread, SurfaceRules
from tests.browsing import browsing
from tests.relating import act, show
from tests.serving import Serving, folded

VARIED = Diversity(
    strategy="mmr",
    strength=0.4,
    spread=(Spread(by="author", places=3), Spread(by="category", most=2, places=4)),
    places=50,
)
each_order = pytest.mark.parametrize("diversity", [Diversity(), VARIED], ids=["score", "varied"])


def pages(serving: Serving, limits: list[int], **request: Any) -> Iterator[RankResponse]:
    """Page after page, until there is no next one or no limit left."""
    cursor = None
    for limit in limits:
        page = serving.ask(**{"user_id": "u3", "limit": limit, "cursor": cursor} | request)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return


def ids(*shown: RankResponse) -> list[str]:
    return [item.item_id for page in shown for item in page.items]


@each_order
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(limits=st.lists(st.integers(1, 40), min_size=1, max_size=12), sourced=st.booleans())
def test_pages_are_the_one_long_page_cut_into_pieces(
    serving: Serving, diversity: Diversity, limits: list[int], sourced: bool
) -> None:
    serving.rules = Rules(default=SurfaceRules(diversity=diversity))
    candidates = None if sourced else [f"i{number}" for number in range(0, 70, 2)]
    cut = ids(*pages(serving, limits, candidates=candidates))
    whole = ids(serving.ask(user_id="u3", limit=500, candidates=candidates))
    assert cut == whole[: sum(limits)]
    assert len(set(cut)) == len(cut)


@each_order
def test_nothing_comes_twice_however_the_world_changes(
    browsed: list[Event], model: Path, diversity: Diversity
) -> None:
    cursor, shown = None, []
    events = list(browsed)
    for number in range(6):
        serving = Serving(folded(events), model)
        serving.now = 4_600 + 100 * number
        serving.rules = Rules(default=SurfaceRules(seen=Seen(window=50_000), diversity=diversity))
        page = serving.ask(user_id="u3", limit=9, cursor=cursor)
        assert page.degraded == []
        shown += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
        places = [int(item.item_id[1:]) for item in page.items]
        events += [show("u3", places, serving.now + 1), act("u3", places[-1], "click", 5_000)]
        events += browsing(20, seed=number + 2, start_ms=serving.now)
    assert len(shown) > 30
    assert len(set(shown)) == len(shown)


def test_a_page_is_as_of_the_first_one_unless_the_request_says_otherwise(
    serving: Serving,
) -> None:
    first = serving.ask(user_id="u3", limit=5)
    serving.now += 1_000
    assert serving.ask(user_id="u3", limit=5, cursor=first.next_cursor).now == first.now
    later = serving.ask(user_id="u3", limit=5, cursor=first.next_cursor, now=serving.now)
    assert later.now == serving.now
    assert set(ids(later)).isdisjoint(ids(first))


def test_the_last_page_has_no_next_one(serving: Serving) -> None:
    first, last = pages(serving, [3, 3, 3], candidates=["i1", "i2", "i3", "i4"])
    assert (len(first.items), len(last.items), last.next_cursor) == (3, 1, None)
    assert serving.ask(user_id="u3", candidates=["i1"]).next_cursor is None
    assert serving.ask(user_id="u3", candidates=[]).next_cursor is None


def test_a_session_ends_after_a_thousand_items(serving: Serving) -> None:
    many = [f"new{number}" for number in range(SESSION_ITEMS_MAX + 500)]
    found = list(pages(serving, [400] * 5, candidates=many))
    assert [len(page.items) for page in found] == [400, 400, 200]
    assert ids(*found) == many[:SESSION_ITEMS_MAX]


def test_positions_begin_anew_on_each_page(serving: Serving) -> None:
    for page in pages(serving, [5, 5]):
        assert [item.position for item in page.items] == [0, 1, 2, 3, 4]


def test_the_log_says_how_far_the_session_was(serving: Serving) -> None:
    list(pages(serving, [5, 4, 3]))
    assert [record["page"] for record in serving.log.all()] == [0, 5, 9]
