"""What people saw and how they answered, as columns: what factors are learnt from.

A sighting is an item shown in a request, or one that an engagement without a request tells of (a
view that a history lists). It was answered when an action of its own kind followed.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.errors import BadInput
from features.events import (
    EngagementEvent,
    Event,
    ForgetEvent,
    ImpressionEvent,
    ItemEvent,
    UserEvent,
)
from features.project import value_at
from features.spec import IMPRESSION
from features.updates import event_hash

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Vectors = NDArray[np.float32]

NOBODY: Final = -1
"""The code of an author, a category or a surface that nobody named."""
SURFACES_MAX: Final = 1000
ROOM: Final = 1024


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learnt from which events."""

    answers: Mapping[str, str] = field(
        default_factory=lambda: {IMPRESSION: "click", "view": "long_view"}
    )
    """How an item was seen → the action that answers it: `impression`, or an action without a
    request."""
    embedding: str = "embedding"
    """The path of the items' embedding in their events."""
    dimension: int | None = None
    """How many numbers it has; None: as many as the first."""
    sightings_max: int = 100_000_000
    owners_max: int = 5_000_000
    """Users, and items, that are held at most."""


class Sighted(NamedTuple):
    """All sightings in order of time, and what is known of their items."""

    user: Codes
    item: Codes
    surface: Codes
    """[sighting]: code of its surface; NOBODY for none."""
    kind: NDArray[np.int8]
    """[sighting]: its place among the ways to be seen."""
    answered: NDArray[np.int8]
    """[sighting]: 1 when its answer followed, else 0."""
    author: Codes
    """[item]: code of its author, NOBODY for none."""
    category: Codes
    """[item]: code of its first category, NOBODY for none."""
    vector: Vectors
    """[item, dimension]: its embedding brought to length 1, zeros for none."""
    known: NDArray[np.bool_]
    """[user]: whether anything is known of them, or all was forgotten."""
    users: list[str]
    items: list[str]
    """Ids by code."""


class Sightings:
    """Gathers events of any order; what it holds grows with sightings, users and items.

    Each event is given once: who reads a log drops its repeats. BadInput when there are more
    sightings, users or items than the lesson allows, and when embeddings differ in length.
    """

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson
        self._kinds = {kind: place for place, kind in enumerate(lesson.answers)}
        self._asked = {
            action: [place for place, of in enumerate(lesson.answers.values()) if of == action]
            for action in lesson.answers.values()
        }
        self._users, self._items, self._others = _Codes(), _Codes(), _Codes()
        self._surfaces: dict[str, int] = {}
        self._seen = _Facts()
        self._answers = _Facts()
        self._user, self._item = array("i"), array("i")
        self._mention = array("q")
        """User → the newest time at which anything was said of them."""
        self._forgotten: dict[int, int] = {}
        """User → when they asked to be erased."""
        self._surface, self._kind = array("i"), array("b")
        self._told: dict[int, tuple[int, int]] = {}
        """Item → (time, event) of the newest event about it."""
        self._placed: dict[int, tuple[int, int]] = {}
        """Item → (time, event) of its newest embedding."""
        self._author, self._category = array("i"), array("i")
        self._dimension = lesson.dimension
        self._vector: Vectors = np.zeros((0, lesson.dimension or 0), np.float32)

    def __len__(self) -> int:
        return len(self._item)

    def add(self, event: Event) -> None:
        """Take what an event says: of an item, of who saw one, of how it was answered."""
        if isinstance(event, ImpressionEvent):
            self._impression(event)
        elif isinstance(event, EngagementEvent):
            self._engagement(event)
        elif isinstance(event, ItemEvent):
            self._about(event)
        elif isinstance(event, UserEvent):
            self._mentioned(event.user_id, event.event_time)
        elif isinstance(event, ForgetEvent):
            user = self._mentioned(event.user_id, -1)
            self._forgotten[user] = max(event.event_time, self._forgotten.get(user, -1))

    def sighted(self) -> Sighted:
        """All that was gathered, in order of (event time, event id): no order of arrival shows."""
        time, user = self._seen.column("time"), np.array(self._user, np.int32)
        forgotten = np.full(len(self._users.texts), -1, np.int64)
        for erased, at in self._forgotten.items():
            forgotten[erased] = at
        order = np.lexsort((self._seen.column("number"), time))
        order = order[time[order] > forgotten[user[order]]]
        return Sighted(
            user[order],
            np.array(self._item, np.int32)[order],
            np.array(self._surface, np.int32)[order],
            np.array(self._kind, np.int8)[order],
            _followed(self._seen, self._answers)[order],
            np.array(self._author, np.int32),
            np.array(self._category, np.int32),
            self._units(),
            np.array(self._mention, np.int64) > forgotten,
            list(self._users.texts),
            list(self._items.texts),
        )

    def _units(self) -> Vectors:
        """[item, dimension]: embeddings of length 1."""
        rows = len(self._items.texts)
        vector = np.zeros((rows, self._dimension or 0), np.float32)
        have = self._vector[:rows]
        length = np.sqrt((have.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        vector[: len(have), : have.shape[1]] = have / np.maximum(length, np.finfo(np.float32).tiny)
        return vector

    def _impression(self, event: ImpressionEvent) -> None:
        kind = self._kinds.get(IMPRESSION)
        if kind is None:
            return
        for place, shown in enumerate(event.items):
            item = self._known(shown.item_id, shown.author_id, shown.categories)
            fact = event_hash(f"{event.event_id}#{place}")
            key = event_hash(f"{kind}\n{event.request_id}\n{shown.item_id}")
            self._saw(event.event_time, fact, key, kind, event.user_id, item, event.surface)

    def _engagement(self, event: EngagementEvent) -> None:
        kind = self._kinds.get(event.action) if event.request_id is None else None
        if kind is not None:
            item = self._known(event.item_id, event.author_id, event.categories)
            fact = event_hash(event.event_id)
            key = event_hash(f"{kind}\n{event.user_id}\n{event.item_id}")
            self._saw(event.event_time, fact, key, kind, event.user_id, item, event.surface)
        for asked in self._asked.get(event.action, ()):
            requested = asked == self._kinds.get(IMPRESSION)
            if requested != (event.request_id is not None):
                continue
            whose = event.request_id if requested else event.user_id
            key = event_hash(f"{asked}\n{whose}\n{event.item_id}")
            self._answers.add(event.event_time, 0, key)

    def _about(self, event: ItemEvent) -> None:
        item = self._known(event.item_id, None, [])
        stamp = event.event_time, event_hash(event.event_id)
        # An embedding that comes by itself says nothing of author and categories, as in a profile.
        says = event.author_id is not None or event.categories
        if says and stamp > self._told.get(item, (-1, 0)):
            self._told[item] = stamp
            self._describe(item, event.author_id, event.categories)
        vector = value_at(event, self._lesson.embedding)
        if isinstance(vector, list) and stamp > self._placed.get(item, (-1, 0)):
            self._placed[item] = stamp
            self._place(event.item_id, item, vector)

    def _place(self, item_id: str, item: int, vector: list[float]) -> None:  # type: ignore[type-arg, unused-ignore]
        if self._dimension is None:
            self._dimension = len(vector)
        if len(vector) != self._dimension:
            raise BadInput(
                f"item {item_id!r}: {self._lesson.embedding} has {len(vector)} numbers, and those "
                f"before it {self._dimension}: factors take embeddings of one length; give each "
                "model's embeddings a version and name one with --embedding"
            )
        if item >= len(self._vector):
            grown = np.zeros((max(ROOM, 2 * item), self._dimension), np.float32)
            grown[: len(self._vector), : self._vector.shape[1]] = self._vector
            self._vector = grown
        self._vector[item] = vector

    def _known(self, item_id: str, author: str | None, categories: list[str]) -> int:
        """The item's code; what a sighting says of it counts while no item event does."""
        item = self._owner(self._items, item_id, "items")
        if item == len(self._author):
            self._author.append(NOBODY)
            self._category.append(NOBODY)
        if item not in self._told and (author is not None or categories):
            self._describe(item, author, categories)
        return item

    def _describe(self, item: int, author: str | None, categories: list[str]) -> None:
        self._author[item] = NOBODY if author is None else self._others.code(f"a{author}")
        self._category[item] = self._others.code(f"c{categories[0]}") if categories else NOBODY

    def _owner(self, codes: "_Codes", text: str, whose: str) -> int:
        code = codes.code(text)
        if code >= self._lesson.owners_max:
            raise BadInput(
                f"more than {self._lesson.owners_max:,} {whose}: learn from fewer events, with "
                "--from-ms, or raise --owners-max where memory allows"
            )
        return code

    def _mentioned(self, user_id: str, time: int) -> int:
        user = self._owner(self._users, user_id, "users")
        if user == len(self._mention):
            self._mention.append(-1)
        self._mention[user] = max(time, self._mention[user])
        return user

    def _saw(
        self, time: int, fact: int, key: int, kind: int, user_id: str, item: int, on: str | None
    ) -> None:
        if len(self._item) >= self._lesson.sightings_max:
            raise BadInput(
                f"more than {self._lesson.sightings_max:,} sightings: learn from fewer events, "
                "with --from-ms, or raise --sightings-max where memory allows (50 bytes each)"
            )
        self._seen.add(time, fact, key)
        self._user.append(self._mentioned(user_id, time))
        self._item.append(item)
        self._surface.append(NOBODY if on is None else self._surface_code(on))
        self._kind.append(kind)

    def _surface_code(self, name: str) -> int:
        if name not in self._surfaces and len(self._surfaces) == SURFACES_MAX:
            return NOBODY
        return self._surfaces.setdefault(name, len(self._surfaces))


class _Codes:
    """Texts as numbers from 0, in the order in which they came."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.texts: list[str] = []

    def code(self, text: str) -> int:
        found = self._codes.get(text)
        if found is None:
            found = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return found


class _Facts:
    """When something happened, a number of its own, and a key that what belongs together shares."""

    def __init__(self) -> None:
        self._columns = {"time": array("q"), "number": array("q"), "key": array("q")}

    def add(self, time: int, number: int, key: int) -> None:
        self._columns["time"].append(time)
        self._columns["number"].append(number)
        self._columns["key"].append(key)

    def column(self, name: str) -> Ints:
        return np.array(self._columns[name], np.int64)


def _followed(seen: _Facts, answers: _Facts) -> NDArray[np.int8]:
    """[sighting]: whether an answer names it: the newest of its key that was not later."""
    count = len(seen.column("time"))
    time = np.concatenate([seen.column("time"), answers.column("time")])
    key = np.concatenate([seen.column("key"), answers.column("key")])
    number = np.concatenate([seen.column("number"), answers.column("number")])
    later = np.arange(len(time)) >= count  # of one time, what was seen comes before its answer
    order = np.lexsort((number, later, time, key))
    newest = np.maximum.accumulate(np.where(order < count, np.arange(len(order)), -1))
    asks = np.flatnonzero(order >= count)
    found = order[newest[asks]]
    same = (newest[asks] >= 0) & (key[found] == key[order[asks]])
    answered = np.zeros(count, np.int8)
    answered[found[same]] = 1
    return answered
