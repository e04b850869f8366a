"""Filters by what they let pass, from events to the feed."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from features.events import Event, ItemEvent
from ranker.rules import Rules, Seen, SurfaceRules
from tests.relating import RELATED_PLAN, act, show
from tests.serving import Serving, folded

NOW = 10_000
ITEMS = [f"i{number}" for number in range(60)]


def about(item: int, **more: Any) -> ItemEvent:
    return ItemEvent(
        event_id=f"about-{item}-{more}",
        event_time=5_000,
        item_id=f"i{item}",
        author_id=str(item % 10),
        categories=[f"c{item % 5}"],
        **more,
    )


class Asking:
    """A feed engineer who asks what is left of candidates."""

    def __init__(self, browsed: list[Event], model: Path) -> None:
        self._browsed, self._model = browsed, model

    def left(
        self,
        events: Iterable[Event],
        rules: SurfaceRules | None = None,
        candidates: Sequence[str] | None = ITEMS,
        **request: Any,
    ) -> set[str]:
        serving = Serving(folded([*self._browsed, *events], RELATED_PLAN), self._model)
        serving.now = NOW
        serving.rules = Rules(default=rules or SurfaceRules())
        feed = serving.ask(**{"user_id": "mia", "limit": 500} | request, candidates=candidates)
        assert feed.degraded == []
        return {item.item_id for item in feed.items}


@pytest.fixture
def asking(browsed: list[Event], model: Path) -> Asking:
    return Asking(browsed, model)


def numbered(*numbers: int) -> set[str]:
    return {f"i{number}" for number in numbers}


def test_an_item_that_ended_is_dropped_until_it_is_back(asking: Asking) -> None:
    assert set(ITEMS) - asking.left([about(3, ended=True)]) == {"i3"}
    back = about(3).model_copy(update={"event_time": 5_001, "event_id": "back"})
    assert asking.left([about(3, ended=True), back]) == set(ITEMS)


@pytest.mark.parametrize("action", ["block", "mute"])
def test_everything_by_a_blocked_or_muted_author_is_dropped(asking: Asking, action: str) -> None:
    blocked = act("mia", 3, action, 9_000)
    assert set(ITEMS) - asking.left([blocked]) == numbered(3, 13, 23, 33, 43, 53)
    assert asking.left([blocked, act("mia", 3, f"un{action}", 9_001)]) == set(ITEMS)
    assert asking.left([blocked, act("mia", 3, f"un{action}", 8_999)]) != set(ITEMS)
    assert asking.left([act("ben", 3, action, 9_000)]) == set(ITEMS)


def test_everything_of_a_muted_category_is_dropped(asking: Asking) -> None:
    left = asking.left([act("mia", 2, "mute_category", 9_000)])
    assert set(ITEMS) - left == {f"i{number}" for number in range(2, 60, 5)}


def test_a_hidden_item_stays_hidden_however_much_follows(asking: Asking) -> None:
    # The list of recent actions holds six: the relation remembers what fell out of it.
    later = [act("mia", number, "click", 9_001 + number) for number in range(20, 30)]
    hidden = asking.left([act("mia", 7, "hide", 9_000), *later])
    assert set(ITEMS) - hidden == {"i7"}


def test_what_was_shown_within_the_window_is_dropped(asking: Asking) -> None:
    shown = [show("mia", [1, 2], 8_000), show("mia", [3], 9_500), show("ben", [4], 9_900)]
    everything = SurfaceRules(seen=Seen(window=1_000, candidates="all"))
    assert set(ITEMS) - asking.left(shown, everything) == {"i3"}
    longer = SurfaceRules(seen=Seen(window=10_000, candidates="all"))
    assert set(ITEMS) - asking.left(shown, longer) == numbered(1, 2, 3)
    assert asking.left(shown, SurfaceRules()) == set(ITEMS)


def test_candidates_of_the_caller_are_held_to_it_only_when_the_rules_say_so(
    asking: Asking,
) -> None:
    shown = [show("mia", [1, 2], 9_500)]
    rules = SurfaceRules(seen=Seen(window=1_000))
    assert asking.left(shown, rules) == set(ITEMS)
    sourced = asking.left(shown, rules, candidates=None)
    assert sourced
    assert sourced.isdisjoint(numbered(1, 2))
    assert asking.left([], rules, candidates=None) - sourced == numbered(1, 2)


def test_items_created_too_long_ago_are_dropped_and_those_without_a_time_pass(
    asking: Asking,
) -> None:
    made = [about(1, created_at=7_000), about(2, created_at=9_000), about(3)]
    left = asking.left(made, SurfaceRules(age_max=2_000), candidates=["i1", "i2", "i3", "ghost"])
    assert left == {"i2", "i3", "ghost"}


def test_known_items_need_the_number_that_the_surface_requires(asking: Asking) -> None:
    made = [about(1, attributes={"duration_ms": 30}), about(2, attributes={"duration_ms": 31})]
    rules = SurfaceRules(require={"attributes.duration_ms": 30.0})
    assert asking.left(made, rules, candidates=["i1", "i2", "ghost"]) == {"i1", "ghost"}


def test_rules_of_a_surface_replace_the_default_ones(browsed: list[Event], model: Path) -> None:
    serving = Serving(folded([*browsed, show("mia", [1], 9_500)], RELATED_PLAN), model)
    serving.now = NOW
    seen = SurfaceRules(seen=Seen(window=1_000, candidates="all"))
    serving.rules = Rules(default=seen, surfaces={"search": SurfaceRules()})
    for surface, expected in (("home", []), ("search", ["i1"])):
        feed = serving.ask(user_id="mia", candidates=["i1"], surface=surface)
        assert [item.item_id for item in feed.items] == expected
