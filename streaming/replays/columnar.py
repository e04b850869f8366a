"""`features.project.Projection` over whole columns: the same updates, without an object an event.

Facts (items shown or acted upon) are projected by numpy. What says something about an item or a
user is rare and rich, so it goes through the parser and the projection that `route` runs.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.codec import STRING_TYPE, entity_key
from features.events import BadEvent, Event, parse_events
from features.layout import Ints
from features.project import (
    AUTHOR,
    CATEGORIES_MAX,
    CATEGORY,
    ITEM,
    JOIN_KEYS,
    SURFACE,
    USER,
    Projection,
)
from features.spec import IMPRESSION, ActivityView, EntitySpec, Plan, RelationsView
from features.strings import NONE
from features.updates import Columns, event_hash
from streaming.replays.chunk import Chunk

_TARGETS: Final = {"author": AUTHOR, "item": ITEM, "category": CATEGORY}
_NOBODY: Final = np.zeros(0, np.int64)


class ViewUpdates(NamedTuple):
    """The updates that facts make in one view: fact and owner of each."""

    view: int
    fact: Ints
    owner: Ints
    """Code of the owner's id among the texts."""


@dataclass(frozen=True, slots=True)
class Projected:
    """What a chunk changes: `facts` are columns that updates of every view share."""

    texts: list[str]
    offset: Ints
    time: Ints
    event: Ints
    action: Ints
    item: Ints
    author: Ints
    category: Ints
    value: Ints
    views: list[ViewUpdates]
    latest: Columns
    """Newest-value updates."""

    def part(self, updates: ViewUpdates) -> Columns:
        """The updates of one view, ready to fold; their keys are left to whoever finds the rows."""
        facts = updates.fact
        return Columns(
            keys=[],
            texts=self.texts,
            view=np.full(len(facts), updates.view, np.int64),
            key=updates.owner,
            offset=self.offset[facts],
            time=self.time[facts],
            event=self.event[facts],
            action=self.action[facts],
            item=self.item[facts],
            author=self.author[facts],
            category=self.category[facts],
            value=self.value[facts],
            payloads={},
        )

    def __len__(self) -> int:
        return sum(len(view.fact) for view in self.views) + len(self.latest)


class ColumnarProjection:
    """A plan, turned around, for chunks. Plans of plain records have none."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows = Projection(plan)
        self._actions = {action: place for place, action in enumerate(plan.actions)}
        self._views = [
            (number, view)
            for number, view in enumerate(plan.views)
            if isinstance(view, ActivityView | RelationsView)
        ]
        self._wanted = {
            number: np.array([a in view.actions for a in plan.actions] + [False], np.bool_)
            for number, view in self._views
        }
        self._numeric = [e for e in plan.entities if e.value_type != STRING_TYPE]
        # Only relations order by the event: of what was shown, elsewhere, nobody asks which it was.
        self.names_shown = any(IMPRESSION in view.actions for view in plan.relations)

    def refused(self, chunk: Chunk) -> NDArray[np.bool_]:
        """[event]: facts with an id that is not of its entity's declared type (`refusal`).

        What is about an item or a user is looked at when it is parsed, in `updates`.
        """
        found = np.zeros(len(chunk), np.bool_)
        for entity in self._numeric:
            place = JOIN_KEYS.get(entity.join_key)
            if place is None:
                continue
            fact, owner = _owners(chunk, place, np.arange(len(chunk.fact_event)))
            codes = np.unique(owner)
            bad = [c for c in codes.tolist() if not self._fits(entity, chunk.texts[c])]
            if bad:
                found[chunk.fact_event[fact[np.isin(owner, bad)]]] = True
        return found

    def _fits(self, entity: EntitySpec, text: str) -> bool:
        try:
            entity_key(entity.join_key, entity.value_type, text, self.plan.project)
        except (ValueError, OverflowError, struct.error):
            return False
        return True

    def updates(self, chunk: Chunk, accepted: NDArray[np.bool_]) -> tuple[Projected, int]:
        """The updates of the accepted events, and how many of them were refused after all."""
        latest, refused = self._latest(chunk, accepted)
        event = chunk.fact_event
        text_actions = np.array(
            [*(self._actions.get(t, NONE) for t in chunk.texts), NONE], np.int64
        )
        shown = self._actions.get(IMPRESSION, NONE)
        said = np.where(chunk.action[event] >= 0, text_actions[chunk.action[event]], shown)
        action = np.where(accepted[event], said, NONE)
        first = np.concatenate([[0], chunk.category_ends[:-1]]) if len(event) else _NOBODY
        has = chunk.category_ends > first
        category = np.full(len(event), NONE, np.int64)
        category[has] = chunk.categories[first[has]]
        targets = {ITEM: chunk.item, AUTHOR: chunk.author, CATEGORY: category}
        views = []
        for number, view in self._views:
            chosen = self._wanted[number][action]
            owner = JOIN_KEYS[view.entity.join_key]
            if isinstance(view, RelationsView):
                chosen &= targets[_TARGETS[view.target]] >= 0
            facts = np.flatnonzero(chosen)
            views.append(ViewUpdates(number, *_owners(chunk, owner, facts)))
        projected = Projected(
            texts=chunk.texts,
            offset=chunk.offset[event],
            time=chunk.time[event],
            event=self._events(chunk),
            action=action,
            item=chunk.item,
            author=chunk.author,
            category=category,
            value=chunk.amount[event],
            views=[view for view in views if len(view.fact)],
            latest=latest,
        )
        return projected, refused

    def _events(self, chunk: Chunk) -> Ints:
        """[fact]: what orders facts of one time in relations."""
        found = chunk.identity[chunk.fact_event]
        if self.names_shown:
            shown = np.flatnonzero(chunk.action[chunk.fact_event] < 0)
            names = chunk.event_id.take(chunk.fact_event[shown]).to_pylist()
            places = chunk.fact_place[shown].tolist()
            pairs = zip(names, places, strict=True)
            found[shown] = [event_hash(f"{name}#{place}") for name, place in pairs]
        return found

    def _latest(self, chunk: Chunk, accepted: NDArray[np.bool_]) -> tuple[Columns, int]:
        """The updates of what says something about items and users."""
        told = np.asarray(pc.is_valid(chunk.about)) & accepted
        places = np.flatnonzero(told)
        parsed = parse_events(chunk.about.take(places).to_pylist())
        events: list[tuple[int, Event]] = []
        for place, event in zip(places.tolist(), parsed, strict=True):
            assert not isinstance(event, BadEvent), event
            if self.rows.refusal(event) is None:
                events.append((int(chunk.offset[place]), event))
        return self.rows.updates(events), len(places) - len(events)


def _owners(chunk: Chunk, place: int, facts: Ints) -> tuple[Ints, Ints]:
    """(fact, owner) of each row of one kind that facts change."""
    if place == CATEGORY:
        return _categories(chunk, facts)
    column = {
        USER: chunk.user[chunk.fact_event] if place == USER else _NOBODY,
        SURFACE: chunk.surface[chunk.fact_event] if place == SURFACE else _NOBODY,
        ITEM: chunk.item,
        AUTHOR: chunk.author,
    }[place]
    owner = column[facts]
    known = owner >= 0
    return (facts, owner) if known.all() else (facts[known], owner[known])


def _categories(chunk: Chunk, facts: Ints) -> tuple[Ints, Ints]:
    """(fact, category) for the first CATEGORIES_MAX distinct categories of each fact."""
    ends = chunk.category_ends[facts]
    starts = np.where(facts > 0, chunk.category_ends[facts - 1], 0) if len(facts) else facts
    counts = ends - starts
    fact = np.repeat(facts, counts)
    rank = np.arange(len(fact)) - np.repeat(np.cumsum(counts) - counts, counts)
    code = chunk.categories[np.repeat(starts, counts) + rank]
    if not len(counts) or counts.max() <= 1:
        return fact, code
    # The first of those alike in a fact stays; what is left keeps its order.
    _, first = np.unique(np.stack([fact, code]), axis=1, return_index=True)
    kept = np.sort(first)
    fact, code = fact[kept], code[kept]
    start = np.flatnonzero(np.diff(fact, prepend=-1))
    rank = np.arange(len(fact)) - np.repeat(start, np.diff(np.append(start, len(fact))))
    return fact[rank < CATEGORIES_MAX], code[rank < CATEGORIES_MAX]
