"""Served items joined with what followed: the same as a recount, event by event."""

import random
from collections.abc import Sequence

import pytest

from features.events import EngagementEvent, Event, ImpressionEvent, ShownItem
from streaming.logs.outcomes import outcomes
from tests.browsing import engagement
from tests.recordings import listed

ITEMS, REQUESTS = 12, 20


def impression(number: int, at: int, request: str, items: Sequence[int]) -> ImpressionEvent:
    return ImpressionEvent(
        event_id=f"seen-{number}",
        event_time=at,
        request_id=request,
        user_id="u1",
        surface="home",
        items=[ShownItem(item_id=f"i{item}") for item in items],
    )


def happened(seed: int) -> list[Event]:
    """Impressions, some of them again, and engagements before, after and long after them."""
    rng = random.Random(seed)
    events: list[Event] = []
    for number in range(200):
        request, at = f"r{rng.randrange(REQUESTS)}", rng.randrange(1_000, 9_000)
        if rng.random() < 0.4:
            some = rng.sample(range(ITEMS), 3)
            events.append(impression(number, at, request, some))
        else:
            action = rng.choice(["click", "like"])
            asked = request if rng.random() < 0.9 else None
            events.append(engagement(f"e{number}", at, 1, rng.randrange(ITEMS), action, asked))
    rng.shuffle(events)
    return [*events, *rng.sample(events, 5)]


def recounted(events: Sequence[Event], request: str, item: str, window_ms: int) -> set[str] | None:
    """None for what nobody saw."""
    seen = [
        event.event_time
        for event in events
        if isinstance(event, ImpressionEvent)
        and event.request_id == request
        and item in [shown.item_id for shown in event.items]
    ]
    if not seen:
        return None
    return {
        event.action
        for event in events
        if isinstance(event, EngagementEvent)
        and (event.request_id, event.item_id) == (request, item)
        and 0 <= event.event_time - min(seen) <= window_ms
    }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("window_ms", [1_000, 4_000])
def test_each_item_has_what_a_slow_recount_finds(seed: int, window_ms: int) -> None:
    events = happened(seed)
    requests = [f"r{number}" for number in range(REQUESTS - 1)]
    found = outcomes(listed(events, partitions=3), requests)
    assert found.newest_ms == max(event.event_time for event in events)
    unseen = followed = 0
    for request in requests:
        for item in (f"i{number}" for number in range(ITEMS)):
            expected = recounted(events, request, item, window_ms)
            one = found.of(request, item)
            assert (one.seen_ms is None) == (expected is None)
            assert one.within(window_ms) == (expected or set())
            unseen += expected is None
            followed += bool(expected)
    assert unseen
    assert followed
    assert not any(request == f"r{REQUESTS - 1}" for request, _ in found.known)
