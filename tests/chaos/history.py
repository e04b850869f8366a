"""What is sent in a simulation, and the plain recount that its rows must equal."""

import random
from typing import Final

from features.entities import Hash
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem
from features.row_store import MemoryRows
from tests.pipeline import unmarked
from tests.plans import ITEM_ACTIVITY, ITEM_PROFILE, USER_ACTIVITY, World, plan
from tests.stored import writes_of

PLAN: Final = plan(
    activity=(ITEM_ACTIVITY, USER_ACTIVITY), latest=(ITEM_PROFILE,), as_of=(), services={}
)
HORIZON: Final = 12
MAX_AHEAD_MS: Final = 1_000
EVENTS: Final = (4, 24)
"""Fewest and most records of one `events` partition."""
APPEND_TIME: Final = 10_000
"""Of every event, milliseconds."""
NOISE: Final = b"no event"
History = list[Event | None]
"""The records of a partition in order; None is one that is no event."""


def recount(histories: list[History]) -> tuple[dict[bytes, Hash], set[tuple[int, int]]]:
    """The rows of the events that count, and the places of the records that do not.

    An event counts unless its id occurred within the last H offsets of its partition. Folded here
    without route, blocks or aggregate.
    """
    accepted: list[Event] = []
    dead: set[tuple[int, int]] = set()
    for partition, history in enumerate(histories):
        seen: dict[str, int] = {}
        for offset, event in enumerate(history):
            if event is None:
                dead.add((partition, offset))
                continue
            last = seen.get(event.event_id)
            seen[event.event_id] = offset
            if last is not None and offset - last <= HORIZON:
                continue
            if event.event_time > APPEND_TIME + MAX_AHEAD_MS:
                dead.add((partition, offset))
            else:
                accepted.append(event)
    store = MemoryRows()
    store.write(writes_of(World(PLAN).fold(accepted), offset=1))
    return unmarked(store.rows), dead


def history_of(rng: random.Random, partition: int) -> History:
    """What is sent to one partition: few ids, so that rows meet; repeats near and far."""
    history: History = []
    for number in range(rng.randint(*EVENTS)):
        kind = rng.random()
        if history and kind < 0.2:
            history.append(rng.choice(history))
        elif kind < 0.24:
            history.append(None)
        else:
            history.append(_event(rng, f"{partition}-{number}"))
    return history


def _event(rng: random.Random, event_id: str) -> Event:
    event_time = rng.choice((rng.randrange(200), rng.randrange(APPEND_TIME), APPEND_TIME + 999_999))
    if rng.random() < 0.8:
        event_time = min(event_time, APPEND_TIME)
    item, author = f"i{rng.randrange(4)}", rng.choice((None, "1", "22"))
    kind = rng.random()
    if kind < 0.7:
        return EngagementEvent(
            event_id=event_id,
            event_time=event_time,
            user_id=f"u{rng.randrange(3)}",
            item_id=item,
            action=rng.choice(("click", "click", "like", "hide")),
            value=rng.choice((None, 7, 2**40)),
            author_id=author,
        )
    if kind < 0.85:
        shown = [ShownItem(item_id=f"i{rng.randrange(4)}", author_id=author) for _ in range(2)]
        return ImpressionEvent(
            event_id=event_id,
            event_time=event_time,
            request_id="r",
            user_id=f"u{rng.randrange(3)}",
            surface="home",
            items=shown,
        )
    return ItemEvent(
        event_id=event_id,
        event_time=event_time,
        item_id=item,
        author_id=author,
        attributes={"duration_ms": rng.random()},
    )
