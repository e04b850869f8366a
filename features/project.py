"""Events into updates: which rows of which views an event changes, by the plan alone."""

import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final, NamedTuple

from features.codec import STRING_TYPE, FeatureValue, encode_value, entity_key
from features.events import (
    BadEvent,
    EngagementEvent,
    Event,
    ImpressionEvent,
    ItemEvent,
    UserEvent,
    parse_events,
)
from features.spec import (
    IMPRESSION,
    ActivityView,
    EntitySpec,
    LatestView,
    Plan,
    RelationsView,
)
from features.strings import NONE
from features.updates import Columns, Payload, UpdateWriter, event_hash

USER, ITEM, AUTHOR, CATEGORY, SURFACE = range(5)

JOIN_KEYS: Final = {
    "user_id": USER,
    "item_id": ITEM,
    "author_id": AUTHOR,
    "category": CATEGORY,
    "surface": SURFACE,
}
"""The ids a fact carries, by the join key of the entity whose rows it can change."""

Ids = tuple[str | None, str | None, str | None, str | None, str | None]
"""The ids of a fact, in the order of JOIN_KEYS."""


CATEGORIES_MAX: Final = 8
"""Categories of one fact that count in rows of their own; further ones are left out."""

UNSAID: Final[dict[str, FeatureValue]] = {"categories": [], "ended": False}
"""What stands at a path of an item event that does not speak of it."""

_TARGETS: Final = {"author": AUTHOR, "item": ITEM, "category": CATEGORY}


class Fact(NamedTuple):
    """One thing that happened: an item was shown, or acted upon."""

    action: str
    event: int
    value: int
    ids: Ids
    """The category among them is the item's first, which is what lists keep."""
    categories: tuple[str, ...] = ()
    """The first CATEGORIES_MAX distinct categories: the fact changes the row of each."""

    def owners(self, place: int) -> tuple[str, ...]:
        """The ids of one kind whose rows this fact changes."""
        if place == CATEGORY:
            return self.categories
        owner = self.ids[place]
        return () if owner is None else (owner,)


class _Place(NamedTuple):
    """Where facts of an action go: a view's number, and the ids they need."""

    view: int
    owner: int
    target: int
    entity: EntitySpec


class Projection:
    """A plan, turned around: from what happened to what changes.

    Pure: the same events give the same updates. It looks nothing up, because a lookup would make
    state depend on the order of arrival.
    """

    copies = 2
    """How often an id stands in the updates of its event: in keys and in texts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        actions = {action: place for place, action in enumerate(plan.actions)}
        self._of_action: dict[str, tuple[int, list[_Place]]] = {
            action: (
                place,
                [
                    _place(number, view)
                    for number, view in enumerate(plan.views)
                    if isinstance(view, ActivityView | RelationsView) and action in view.actions
                ],
            )
            for action, place in actions.items()
        }
        self._numeric = [entity for entity in plan.entities if entity.value_type != STRING_TYPE]
        self._of_type: dict[str, list[tuple[int, LatestView]]] = {
            kind: [
                (number, view)
                for number, view in enumerate(plan.views)
                if isinstance(view, LatestView) and view.event == kind
            ]
            for kind in ("item", "user")
        }
        self._embeddings = {"item": plan.embeddings, "user": plan.user_embeddings}

    @cached_property
    def _rows_per_fact_max(self) -> int:
        """How many rows one fact may change."""
        owners = [JOIN_KEYS[view.entity.join_key] for view in self.plan.views]
        return sum(CATEGORIES_MAX if owner == CATEGORY else 1 for owner in owners)

    def parse(self, values: Sequence[bytes | None]) -> list[Event | BadEvent]:
        """One event per record, or what is wrong with it."""
        return parse_events(values)

    def identity(self, event: Event) -> int:
        """What repeats of an event share."""
        return event_hash(event.event_id)

    def update_count(self, event: Event) -> int:
        """At most how many updates an event makes."""
        facts = len(event.items) if isinstance(event, ImpressionEvent) else 1
        return facts * self._rows_per_fact_max

    def refusal(self, event: Event) -> str | None:
        """Why an event cannot be taken: an id that is not of its entity's declared type, or an
        embedding of another length than declared."""
        for entity in self._numeric:
            for entity_id in _ids_of(event, entity.join_key):
                try:
                    entity_key(entity.join_key, entity.value_type, entity_id, self.plan.project)
                except (ValueError, OverflowError, struct.error):
                    return f"{entity.join_key}: {entity_id!r} is not a number its entity can hold"
        if isinstance(event, ItemEvent | UserEvent):
            for view, field in self._embeddings[event.type].items():
                given = value_at(event, field.path)
                if isinstance(given, list) and field.dimension not in (None, len(given)):
                    return f"{field.path}: {len(given)} numbers, view {view} has {field.dimension}"
        return None

    def updates(self, events: Iterable[tuple[int, Event]]) -> Columns:
        """The updates of (source offset, event) pairs, in their order."""
        writer = _Writer(self.plan.project)
        for offset, event in events:
            if isinstance(event, ItemEvent | UserEvent):
                for number, view in self._of_type[event.type]:
                    self._newest(writer, offset, event, number, view)
            else:
                for fact in facts_of(event):
                    self._count(writer, offset, event.event_time, fact)
        return writer.columns()

    def _count(self, writer: "_Writer", offset: int, time: int, fact: Fact) -> None:
        found = self._of_action.get(fact.action)
        if found is None:
            return
        action, places = found
        change = NONE
        for view, owner, target, entity in places:
            if fact.ids[target] is None:
                continue
            for entity_id in fact.owners(owner):
                if change == NONE:
                    change = writer.fact(offset, time, action, fact)
                writer.add(view, writer.key(entity, entity_id), change)

    def _newest(
        self,
        writer: "_Writer",
        offset: int,
        event: ItemEvent | UserEvent,
        number: int,
        view: LatestView,
    ) -> None:
        values = [value_at(event, field.path) for field in view.fields]
        payload: Payload = tuple(
            encode_value(value, field.dtype)
            for value, field in zip(values, view.fields, strict=True)
        )
        says = any(
            value is not None and value != UNSAID.get(field.path)
            for value, field in zip(values, view.fields, strict=True)
        )
        # An embedding that comes by itself, from a file for example, leaves the rest as it was, and
        # is itself left by what does not speak of it. Of users alone, the newest event may empty a
        # row: a consent is taken back.
        alone = bool(event.embedding or event.embeddings)
        emptied = isinstance(event, UserEvent) and view.name not in self.plan.user_embeddings
        if (alone and not says) or not (emptied or any(payload)):
            return
        entity_id = event.item_id if isinstance(event, ItemEvent) else event.user_id
        key = writer.key(view.entity, entity_id)
        change = writer.share(offset, event.event_time, event_hash(event.event_id))
        writer.add_payload(number, key, change, payload)


def facts_of(event: Event) -> Sequence[Fact]:
    """The facts inside an event: each shown item of an impression, or one engagement."""
    if isinstance(event, EngagementEvent):
        found = _distinct(event.categories)
        category = found[0] if found else None
        ids = (event.user_id, event.item_id, event.author_id, category, event.surface)
        return [Fact(event.action, event_hash(event.event_id), event.value or 0, ids, found)]
    if isinstance(event, ImpressionEvent):
        facts = []
        for place, shown in enumerate(event.items):
            found = _distinct(shown.categories)
            category = found[0] if found else None
            ids = (event.user_id, shown.item_id, shown.author_id, category, event.surface)
            number = event_hash(f"{event.event_id}#{place}")
            facts.append(Fact(IMPRESSION, number, 0, ids, found))
        return facts
    return []


def _distinct(categories: Sequence[str]) -> tuple[str, ...]:
    if len(categories) <= 1:
        return tuple(categories)
    return tuple(dict.fromkeys(categories))[:CATEGORIES_MAX]


def _place(number: int, view: ActivityView | RelationsView) -> _Place:
    owner = JOIN_KEYS[view.entity.join_key]
    target = _TARGETS[view.target] if isinstance(view, RelationsView) else owner
    return _Place(number, owner, target, view.entity)


def _ids_of(event: Event, join_key: str) -> list[str]:
    """The ids of one kind that an event names."""
    if isinstance(event, ItemEvent | UserEvent):
        entity_id = event.item_id if isinstance(event, ItemEvent) else event.user_id
        own = "item_id" if isinstance(event, ItemEvent) else "user_id"
        return [entity_id] if join_key == own else []
    place = JOIN_KEYS[join_key]
    return [found for fact in facts_of(event) for found in fact.owners(place)]


def value_at(event: ItemEvent | UserEvent, path: str) -> FeatureValue:
    """The value at a path of an event: a field's name, `attributes.<name>` or
    `embeddings.<version>`."""
    name, _, attribute = path.partition(".")
    if name == "embeddings":
        return event.embeddings.get(attribute)
    if attribute:
        return event.attributes.get(attribute) if name == "attributes" else None
    value: FeatureValue = getattr(event, name, None)
    return value


class _Writer(UpdateWriter):
    """A writer that knows the rows of entities."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project
        self._places: dict[str, dict[str, int]] = defaultdict(dict)

    def key(self, entity: EntitySpec, entity_id: str) -> int:
        """The place of an entity's key."""
        places = self._places[entity.join_key]
        found = places.get(entity_id)
        if found is None:
            found = places[entity_id] = len(self.keys)
            self.keys.append(
                entity_key(entity.join_key, entity.value_type, entity_id, self._project)
            )
        return found

    def fact(self, offset: int, time: int, action: int, fact: Fact) -> int:
        """The place of what a fact says."""
        ids, text = fact.ids, self.text
        item, author, category = text(ids[ITEM]), text(ids[AUTHOR]), text(ids[CATEGORY])
        return self.share(offset, time, fact.event, action, item, author, category, fact.value)
