"""Updates: what facts change which rows, as columns. The form that crosses `updates`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import mmh3
import numpy as np

from features.layout import Ints
from features.strings import NONE, Strings

Payload = tuple[bytes, ...]
"""One Feast value per field of a newest-value view; empty bytes are null."""


def event_hash(event_id: str) -> int:
    """63 bits that stand for an event id, in dedup and between newest values of one time."""
    return mmh3.hash64(event_id, signed=False)[0] >> 1


def partition_of(key: bytes, partitions: int) -> int:
    """The `updates` partition of an entity key: the same in every process and version."""
    return mmh3.hash(key, signed=False) % partitions


class Facts:
    """Columns of facts for the fold; actions are places in the plan's list of actions."""

    __slots__ = ("actions", "authors", "categories", "items", "rows", "times", "values")

    def __init__(
        self,
        rows: Ints,
        times: Ints,
        actions: Ints,
        items: Ints,
        authors: Ints,
        categories: Ints,
        values: Ints,
    ) -> None:
        self.rows, self.times, self.actions = rows, times, actions
        self.items, self.authors, self.categories, self.values = items, authors, categories, values


_NO_INTS = np.zeros(0, np.int64)
COLUMNS = (
    "view",
    "key",
    "offset",
    "time",
    "event",
    "action",
    "item",
    "author",
    "category",
    "value",
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Updates in source order, ready to fold; text columns and keys are places in small lists.

    `view` and `action` are places in the plan's tuples. A newest-value update has no action (−1)
    and carries its payload in `payloads`, by its own place.
    """

    keys: list[bytes]
    texts: list[str]
    view: Ints
    key: Ints
    offset: Ints
    time: Ints
    event: Ints
    action: Ints
    item: Ints
    author: Ints
    category: Ints
    value: Ints
    payloads: dict[int, Payload]

    def __len__(self) -> int:
        return len(self.view)

    def facts(self, chosen: Ints, rows: Ints, strings: Strings) -> Facts:
        """The chosen activity updates as facts on rows, their texts as this process's codes."""
        codes = strings.codes_and_none(self.texts)
        return Facts(
            rows=rows,
            times=self.time[chosen],
            actions=self.action[chosen],
            items=codes[self.item[chosen]],
            authors=codes[self.author[chosen]],
            categories=codes[self.category[chosen]],
            values=self.value[chosen],
        )


def joined(parts: Sequence[Columns]) -> Columns:
    """Updates of several parts, end to end, with each key and each text in one place."""
    if len(parts) == 1:
        return parts[0]
    keys: dict[bytes, int] = {}
    texts: dict[str, int] = {}
    payloads: dict[int, Payload] = {}
    columns: dict[str, list[Ints]] = {name: [] for name in COLUMNS}
    start = 0
    for part in parts:
        key = np.array([keys.setdefault(k, len(keys)) for k in part.keys], np.int64)
        # The last place is what NONE, −1, stands for.
        text = np.array([*(texts.setdefault(t, len(texts)) for t in part.texts), NONE], np.int64)
        places = {"key": key, "item": text, "author": text, "category": text}
        for name, found in columns.items():
            column: Ints = getattr(part, name)
            found.append(places[name][column] if name in places else column)
        payloads |= {start + place: payload for place, payload in part.payloads.items()}
        start += len(part)
    return Columns(
        keys=list(keys),
        texts=list(texts),
        payloads=payloads,
        **{name: np.concatenate([_NO_INTS, *found]) for name, found in columns.items()},
    )


SHARED: Final = ("offset", "time", "event", "action", "item", "author", "category", "value")
"""What all updates of one fact share; texts are places in the list of texts."""


class UpdateWriter:
    """Gathers updates, giving each key and text its place once.

    A fact changes several rows, so what it says is kept once and spread over its updates at the
    end, by numpy.
    """

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.payloads: dict[int, Payload] = {}
        self._texts: dict[str, int] = {}
        self._shared: list[int] = []
        """What facts say, SHARED after SHARED."""
        self._view: list[int] = []
        self._key: list[int] = []
        self._of: list[int] = []

    def text(self, text: str | None) -> int:
        """The place of a text."""
        return NONE if text is None else self._texts.setdefault(text, len(self._texts))

    def share(
        self,
        offset: int,
        time: int,
        event: int,
        action: int = NONE,
        item: int = NONE,
        author: int = NONE,
        category: int = NONE,
        value: int = 0,
    ) -> int:
        """The place of a fact that the updates to come name."""
        self._shared += (offset, time, event, action, item, author, category, value)
        return len(self._shared) // len(SHARED) - 1

    def add(self, view: int, key: int, change: int) -> None:
        """An update of the row of a key in a view."""
        self._view.append(view)
        self._key.append(key)
        self._of.append(change)

    def add_payload(self, view: int, key: int, change: int, payload: Payload) -> None:
        """An update that carries a payload."""
        self.payloads[len(self._view)] = payload
        self.add(view, key, change)

    def columns(self) -> Columns:
        """All updates so far."""
        shared = np.array(self._shared, np.int64).reshape(-1, len(SHARED))
        spread = shared[np.array(self._of, np.int64)]
        return Columns(
            keys=self.keys,
            texts=list(self._texts),
            view=np.array(self._view, np.int64),
            key=np.array(self._key, np.int64),
            payloads=self.payloads,
            **{name: spread[:, place].copy() for place, name in enumerate(SHARED)},
        )
