"""Factors night by night: what the job learns at each midnight, and sends as events."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np

from features.errors import BadInput
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, UserEvent
from features.updates import event_hash
from ranker.training.factors.learning import Factors, Rates, learn
from ranker.training.factors.sightings import Lesson, Sightings, Vectors
from streaming.dedup import Dedup
from streaming.embedding_events import embedding_event

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
VERSION: Final = "factors"
"""The version of embeddings that factors are sent as."""


@dataclass(frozen=True, slots=True)
class Nights:
    """When factors are learnt, of what, and what of them is sent."""

    lesson: Lesson = field(default_factory=Lesson)
    rates: Rates = field(default_factory=Rates)
    version: str = VERSION
    utc_offset_hours: float = 0.0
    """Of the clock whose midnights count."""
    from_ms: int = 0
    """No midnight before it."""
    least: float = 0.02
    """A vector is sent again when some number of it has moved further."""
    horizon: int = 100_000
    """Events within which a repeated id is known."""


class Told(NamedTuple):
    """What is to be sent of one kind of owner."""

    whose: Literal["item", "user"]
    ids: list[str]
    vectors: Vectors


class InForce:
    """The vectors that were sent last, by owner."""

    def __init__(self) -> None:
        self._vectors: dict[str, dict[str, bytes]] = {"item": {}, "user": {}}

    def take(self, told: Told) -> None:
        """They were sent."""
        rows = (vector.tobytes() for vector in told.vectors)
        self._vectors[told.whose].update(zip(told.ids, rows, strict=True))

    def of(self, whose: Literal["item", "user"]) -> Told:
        """All vectors that are in force."""
        known = self._vectors[whose]
        flat = np.frombuffer(b"".join(known.values()), np.float32)
        return Told(whose, list(known), flat.reshape(len(known), -1))

    def news(self, factors: Factors, least: float) -> list[Told]:
        """What differs from what was sent by more than `least` in some number of it."""
        sides = (
            Told("item", factors.items, factors.item_vectors),
            Told("user", factors.users, factors.user_vectors),
        )
        return [self._changed(side, least) for side in sides]

    def _changed(self, side: Told, least: float) -> Told:
        known = self._vectors[side.whose]
        chosen = [
            place
            for place, (owner, vector) in enumerate(zip(side.ids, side.vectors, strict=True))
            if _moved(known.get(owner), vector, least)
        ]
        return Told(side.whose, [side.ids[place] for place in chosen], side.vectors[chosen])


def _moved(before: bytes | None, now: Vectors, least: float) -> bool:
    if before is None or len(before) != now.nbytes:
        return True
    return bool(np.abs(now - np.frombuffer(before, np.float32)).max(initial=0.0) > least)


def with_factors(events: Iterable[Event], nights: Nights) -> Iterator[Event]:
    """The events, and at each midnight those that the job would have sent, of that time.

    At a midnight only what came before it is known; one before which nothing was seen, or nothing
    happened since the last, sends nothing. BadInput when the events are not in order of
    time: what is learnt at a midnight would have to be unsaid.
    """
    seen, dedup, force = Sightings(nights.lesson), Dedup(nights.horizon), InForce()
    first, newest, untaught = next_midnight(nights.from_ms - 1, nights), -1, 0
    midnight = first
    for offset, event in enumerate(events):
        if event.event_time < newest:
            raise BadInput(
                f"event {event.event_id!r} is older than the one before it: factors are learnt "
                "night by night, so the events are needed in order of event_time"
            )
        if untaught and event.event_time >= midnight and len(seen):
            yield from told(seen, nights, force, midnight)
            untaught = 0
        newest = event.event_time
        midnight = max(first, next_midnight(newest, nights))
        if not dedup.repeated(event_hash(event.event_id), offset):
            seen.add(event)
            untaught += 1
        yield event


def told(
    seen: Sightings, nights: Nights, force: InForce, at_ms: int
) -> Iterator[ItemEvent | UserEvent]:
    """What is sent of what was seen so far, as of an instant; it is in force from then on."""
    for news in force.news(learn(seen.sighted(), nights.rates), nights.least):
        yield from events_of(news, nights.version, at_ms)
        force.take(news)


def events_of(news: Told, version: str, at_ms: int) -> Iterator[ItemEvent | UserEvent]:
    """The events that send vectors as of an instant."""
    for owner, vector in zip(news.ids, news.vectors, strict=True):
        yield embedding_event(news.whose, owner, vector, version, at_ms)


def before(events: Iterable[Event], from_ms: int, until_ms: int) -> Iterator[Event]:
    """What happened before an instant; of what was seen and done, only since another."""
    for event in events:
        early = isinstance(event, ImpressionEvent | EngagementEvent) and event.event_time < from_ms
        if event.event_time < until_ms and not early:
            yield event


def last_midnight(at_ms: int, nights: Nights) -> int:
    """The newest midnight that is not after an instant."""
    shift = round(nights.utc_offset_hours * HOUR_MS)
    return (at_ms + shift) // DAY_MS * DAY_MS - shift


def next_midnight(at_ms: int, nights: Nights) -> int:
    """The first midnight after an instant."""
    return last_midnight(at_ms, nights) + DAY_MS
