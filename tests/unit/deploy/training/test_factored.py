"""Factors night by night: no night knows what comes after it, and rows are read of what it sent."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deploy.training.factored import DAY_MS, HOUR_MS, Nights, last_midnight, with_factors
from features.errors import BadInput
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, UserEvent
from features.spec import AsOfView, DotProductFeature, LatestField, Plan
from ranker.training.rows import RowMaker
from streaming.replay import Timeline
from tests.browsing import browsing
from tests.plans import ITEM_EMBEDDING, USER_EMBEDDING, changed, plan

START_MS = 500 * DAY_MS
NIGHTS = Nights()


def days(requests: int = 60, seed: int = 1) -> list[Event]:
    """Some two requests an hour, from five hours before a midnight on."""
    return browsing(requests, seed=seed, start_ms=START_MS - 5 * HOUR_MS, step_ms=HOUR_MS // 2)


def sent(events: Sequence[Event], nights: Nights = NIGHTS) -> list[ItemEvent | UserEvent]:
    return [
        event
        for event in with_factors(events, nights)
        if isinstance(event, ItemEvent | UserEvent) and event.embeddings
    ]


def until(events: Sequence[Event], midnight: int) -> list[Event]:
    return [event for event in events if event.event_time < midnight]


def test_all_events_stay_and_those_of_a_midnight_come_before_what_follows_it() -> None:
    events = days()
    every = list(with_factors(events, NIGHTS))
    assert [event for event in every if event not in sent(events)] == events
    times = [event.event_time for event in every]
    assert times == sorted(times)
    assert {event.event_time for event in sent(events)} == {START_MS, START_MS + DAY_MS}


def test_what_is_planted_after_a_midnight_moves_nothing_of_it() -> None:
    events = days()
    planted = until(events, START_MS)
    for event in events[len(planted) :]:
        if isinstance(event, ImpressionEvent):
            planted.append(event)
            planted += [
                EngagementEvent(
                    event_id=f"{event.event_id}-{one.item_id}",
                    event_time=event.event_time,
                    user_id=event.user_id,
                    item_id=one.item_id,
                    action="click",
                    request_id=event.request_id,
                )
                for one in event.items
            ]
    of_first = [e for e in sent(events) if e.event_time == START_MS]
    assert [e for e in sent(planted) if e.event_time == START_MS] == of_first
    assert [e for e in sent(planted) if e not in of_first] != [
        e for e in sent(events) if e not in of_first
    ]


def test_an_answer_that_came_after_the_midnight_is_none_that_night() -> None:
    early = until(days(), START_MS)
    shown = next(e for e in early if isinstance(e, ImpressionEvent))
    late = EngagementEvent(
        event_id="late",
        event_time=START_MS,
        user_id=shown.user_id,
        item_id=shown.items[0].item_id,
        action="click",
        request_id=shown.request_id,
    )
    tomorrow = shown.model_copy(update={"event_id": "t", "event_time": START_MS + DAY_MS})
    alone = sent([*early, tomorrow])
    answered = sent([*early, late, tomorrow])
    assert {event.event_time for event in alone} == {START_MS}
    assert [event for event in answered if event.event_time == START_MS] == alone
    second = [event for event in answered if event.event_time == START_MS + DAY_MS]
    assert shown.user_id in {event.user_id for event in second if isinstance(event, UserEvent)}


def test_a_night_sends_what_moved_and_no_more() -> None:
    events = days(200)
    every = sent(events, replace(NIGHTS, least=0.0))
    few = sent(events, replace(NIGHTS, least=0.05))
    assert 0 < len(few) < len(every)
    assert len(sent(events, replace(NIGHTS, least=1e9))) == 80  # each once
    told: dict[str, list[float]] = {}
    for event in few:
        owner = event.item_id if isinstance(event, ItemEvent) else event.user_id
        vector = event.embeddings["factors"]
        if owner in told:
            assert np.abs(np.subtract(vector, told[owner])).max() > 0.05
        told[owner] = vector


def test_repeats_teach_once() -> None:
    events = days()
    twice = [again for event in events for again in (event, event)]
    assert sent(twice) == sent(events)


def test_midnights_are_those_of_a_clock() -> None:
    east = replace(NIGHTS, utc_offset_hours=8)
    assert last_midnight(START_MS, east) == START_MS - 8 * HOUR_MS
    assert last_midnight(START_MS + 16 * HOUR_MS, east) == START_MS + 16 * HOUR_MS
    # The one eight hours before has seen nothing.
    assert {e.event_time for e in sent(days(), east)} == {START_MS + 16 * HOUR_MS}
    assert {e.event_time for e in sent(days(), replace(NIGHTS, from_ms=START_MS + 1))} == {
        START_MS + DAY_MS
    }


def test_events_that_go_back_in_time_are_refused() -> None:
    with pytest.raises(BadInput, match=r"older than the one before it: .*in order of event_time"):
        list(with_factors(reversed(days()), NIGHTS))


def factored(**precision: Any) -> Plan:
    vector = LatestField(
        name="embedding", path="embeddings.factors", dtype="Array(Float32)", **precision
    )
    users = changed(USER_EMBEDDING, name="user_factors", fields=(vector,))
    items = changed(ITEM_EMBEDDING, name="item_factors", fields=(vector,))
    product = DotProductFeature(name="log_odds", view="user_factors", embedding="item_factors")
    return plan(
        latest=(items, users),
        as_of=(AsOfView(name="factors", features=(product,)),),
        services={"feed": ("factors",)},
    )


def test_rows_are_read_of_what_the_last_midnight_before_a_request_sent() -> None:
    of, events = factored(), days()
    timeline = Timeline(of, with_factors(events, NIGHTS))
    maker = RowMaker(of, "feed", timeline.tables, ["click"])
    told = sent(events)
    seen = {"before": 0, "after": 0}
    for request in timeline.requests:
        timeline.fold_until(request.now)
        found = maker.add(
            request.now, request.user_id, request.surface, request.items, request.outcomes
        )
        known = {
            e.item_id if isinstance(e, ItemEvent) else e.user_id: e.embeddings["factors"]
            for e in told
            if e.event_time < request.now
        }
        if request.now <= START_MS:
            seen["before"] += 1
            assert np.isnan(found).all()
            continue
        seen["after"] += 1
        user = np.array(known[request.user_id], np.float32)
        items = np.array([known[item] for item in request.items], np.float32)
        np.testing.assert_allclose(found[:, 0], items @ user, rtol=1e-5, atol=1e-6)
    assert all(count > 5 for count in seen.values())
