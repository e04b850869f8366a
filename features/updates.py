"""Updates: what facts change which rows, as columns. The form that crosses `updates`."""

from dataclasses import dataclass, field

import mmh3
import numpy as np

from features.layout import Ints
from features.strings import Strings

Payload = tuple[bytes, ...]
"""One Feast value per field of a newest-value view; empty bytes are null."""


def event_hash(event_id: str) -> int:
    """63 bits that stand for an event id in dedup and in the order of facts."""
    return mmh3.hash64(event_id, signed=False)[0] >> 1


def partition_of(key: bytes, partitions: int) -> int:
    """The `updates` partition of an entity key: the same in every process and version."""
    return mmh3.hash(key, signed=False) % partitions


@dataclass(slots=True)
class Updates:
    """Columns of updates in source order; text columns and keys are places in small lists.

    `view` and `action` are places in the plan's tuples. A newest-value update has no action (−1)
    and carries its payload in `payloads`, by its own place.
    """

    keys: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    view: list[int] = field(default_factory=list)
    key: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    time: list[int] = field(default_factory=list)
    event: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    item: list[int] = field(default_factory=list)
    author: list[int] = field(default_factory=list)
    category: list[int] = field(default_factory=list)
    value: list[int] = field(default_factory=list)
    payloads: dict[int, Payload] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.view)


class Facts:
    """Columns of facts for the fold; actions are places in the plan's list of actions."""

    __slots__ = ("actions", "authors", "categories", "events", "items", "rows", "times", "values")

    def __init__(
        self,
        rows: Ints,
        times: Ints,
        events: Ints,
        actions: Ints,
        items: Ints,
        authors: Ints,
        categories: Ints,
        values: Ints,
    ) -> None:
        self.rows, self.times, self.events, self.actions = rows, times, events, actions
        self.items, self.authors, self.categories, self.values = items, authors, categories, values


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
    """Updates as arrays, ready to fold: decoded from a block or straight from `Updates`."""

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

    @classmethod
    def of(cls, updates: Updates) -> "Columns":
        """The same updates as arrays."""
        return cls(
            keys=updates.keys,
            texts=updates.texts,
            payloads=updates.payloads,
            **{name: np.array(getattr(updates, name), np.int64) for name in COLUMNS},
        )

    def facts(self, chosen: Ints, rows: Ints, strings: Strings) -> Facts:
        """The chosen activity updates as facts on rows, their texts as this process's codes."""
        codes = np.append(strings.codes(self.texts), -1)
        return Facts(
            rows=rows,
            times=self.time[chosen],
            events=self.event[chosen],
            actions=self.action[chosen],
            items=codes[self.item[chosen]],
            authors=codes[self.author[chosen]],
            categories=codes[self.category[chosen]],
            values=self.value[chosen],
        )
