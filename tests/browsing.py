"""People who browse, made from a seed: what they are shown, and clicks that follow their taste."""

import random
from collections.abc import Iterator

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent

CATEGORIES = 5
SHOWN = 6


def browsing(
    requests: int,
    *,
    seed: int = 1,
    start_ms: int = 1_000,
    step_ms: int = 7,
    users: int = 20,
    items: int = 60,
) -> list[Event]:
    """Items, then users, then requests a step apart: the impression, and a click or a skip for
    some of what was shown. User `u3` likes category `c3`, which is that of items `i3`, `i8`, ….
    """
    rng = random.Random(seed)
    events: list[Event] = [_item(rng, number, start_ms) for number in range(items)]
    events += [_user(number, start_ms) for number in range(users)]
    for number in range(requests):
        now = start_ms + step_ms * (number + 1)
        shown = rng.sample(range(items), SHOWN)
        events += _request(rng, f"r{seed}-{number}", now, rng.randrange(users), shown)
    return events


def _item(rng: random.Random, number: int, time: int) -> ItemEvent:
    taste = [float(number % CATEGORIES == axis) for axis in range(CATEGORIES)]
    return ItemEvent(
        event_id=f"item{number}",
        event_time=time,
        item_id=f"i{number}",
        author_id=str(number % 10),
        categories=[f"c{number % CATEGORIES}"],
        created_at=time - 1000 * number if time > 1000 * number else time,
        attributes={"duration_ms": 1000.0 + rng.random()},
        embedding=[axis + rng.uniform(-0.1, 0.1) for axis in taste],
    )


def _user(number: int, time: int) -> UserEvent:
    attributes: dict[str, str | int | float | bool] = {
        "register_days": number,
        "user_active_degree": "full",
        "degree": "high",
    }
    return UserEvent(
        event_id=f"user{number}",
        event_time=time,
        user_id=f"u{number}",
        attributes=attributes,
        embedding=[1.0 + number % 2, 0.25, -0.5, 0.75, 1.0 / (1 + number)],
    )


def _request(
    rng: random.Random, request_id: str, now: int, user: int, shown: list[int]
) -> Iterator[Event]:
    yield ImpressionEvent(
        event_id=f"{request_id}-shown",
        event_time=now,
        request_id=request_id,
        user_id=f"u{user}",
        surface="home",
        items=[
            ShownItem(item_id=f"i{i}", author_id=str(i % 10), categories=[f"c{i % CATEGORIES}"])
            for i in shown
        ],
    )
    for place, item in enumerate(shown):
        liked = (item - user) % CATEGORIES == 0
        if rng.random() < (0.8 if liked else 0.1):
            yield engagement(f"{request_id}-{place}", now + 1, user, item, "click", request_id)
        elif rng.random() < 0.3:
            yield engagement(f"{request_id}-{place}", now + 1, user, item, "skip", request_id)


def engagement(
    event_id: str, time: int, user: int, item: int, action: str, request_id: str | None = None
) -> EngagementEvent:
    """User `u<user>` acts on item `i<item>` on the home surface."""
    return EngagementEvent(
        event_id=event_id,
        event_time=time,
        user_id=f"u{user}",
        item_id=f"i{item}",
        action=action,
        request_id=request_id,
        surface="home",
        value=5_000,
        author_id=str(item % 10),
        categories=[f"c{item % CATEGORIES}"],
    )
