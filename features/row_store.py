"""Where rows live: the protocol, its in-memory twin, and what both promise.

`tests/contract/test_row_store.py` runs one suite over every implementation.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from features.codec import MARKER_FIELD, entity_prefix
from features.entities import ANY, Hash, RowWrite
from features.marker import Marker


class Checkpoint(BaseModel):
    """How far an `updates` partition is folded into rows that are safe.

    `offset` is the next one to read; `high_water` is the last source offset folded, by
    `generation/partition` of the `events` topic. `sequences` is the number of the last block, by
    source and then by incarnation of `route` (the newest few of each source); `whole` says that
    they were kept from the first block on. Checkpoints of older versions have neither.
    """

    model_config = ConfigDict(frozen=True)

    generation: int
    offset: int
    high_water: dict[str, int]
    sequences: dict[str, dict[str, int]] = Field(default_factory=dict)
    whole: bool = False

    def after(self, other: "Checkpoint | None") -> bool:
        """Whether this is ahead of another; checkpoints only move forward."""
        if other is None:
            return True
        return (self.generation, self.offset) > (other.generation, other.offset)


class Seal(Protocol):
    """A promise that all rows written before it are safe; ask until it says so."""

    def safe(self) -> bool | None:
        """True: they are. False: the store said no. None: not known yet."""

    def settled(self) -> bool:
        """The same answer, waited for."""


class RowStore(Protocol):
    """Rows, checkpoints and small durable facts of one project.

    Called by one thread. Calls raise `Unavailable` when the store is away; then nothing is known
    of what was written, and the caller drops what it cached and resumes from its checkpoint.
    """

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        """The whole hash of each key, empty where there is none."""

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        """Set each row, atomically by itself, where the version it changes stands (rule 3).

        False: another version stands there, the writer was fenced: what it would set and delete
        is right only on top of its base. A marker equal to the new one counts as done; a base of
        ANY takes any older marker. A row that is new is added to the index of its entity.
        """

    def seal(self) -> Seal:
        """Ask that everything written so far be made as durable as the setting says."""

    def keys(self, join_key: str) -> list[bytes]:
        """The keys of all rows of an indexed entity."""

    def checkpoint(self, partition: int) -> Checkpoint | None:
        """The saved checkpoint of an `updates` partition."""

    def save_checkpoint(self, partition: int, checkpoint: Checkpoint) -> None:
        """Save a checkpoint unless a later one stands there."""

    def remember(self, name: str, field: str, value: str) -> str:
        """Fix a fact once: the value that stands under (name, field), the first one given."""

    def remembered(self, name: str) -> dict[str, str]:
        """All facts under a name."""

    def raise_to(self, name: str, numbers: Mapping[str, int]) -> dict[str, int]:
        """Raise numbers that only grow, all or none; returns those that stand. They begin at −1."""

    def generation(self, topic: str, topic_id: str) -> int:
        """The number of a topic's life: 1, 2, … in the order its ids were first seen."""

    def close(self) -> None:
        """Give the connections back; no call follows."""


class _Safe:
    def safe(self) -> bool | None:
        return True

    def settled(self) -> bool:
        return True


def refused(row: Hash, write: RowWrite) -> bool | None:
    """The answer to a write that does not change the row as it stands; None if it does."""
    stored = Marker.decode(row.get(MARKER_FIELD))
    if stored is not None and stored.covers(write.marker.generation, write.marker.offset):
        return stored == write.marker
    return None if write.base == ANY or stored == write.base else False


def change(row: Hash, write: RowWrite) -> None:
    """Do to a row what a write says."""
    row.update(zip(write.fields[::2], write.fields[1::2], strict=True))
    for field in write.gone:
        row.pop(field, None)
    row[MARKER_FIELD] = write.marker.encode()


class MemoryRows:
    """Rows in a dict, for tests and replay."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Hash] = {}
        self._checkpoints: dict[int, Checkpoint] = {}
        self._facts: dict[str, dict[str, str]] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        return [dict(self.rows.get(key, {})) for key in keys]

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        return [self._write(write) for write in writes]

    def _write(self, write: RowWrite) -> bool:
        row = self.rows.get(write.key, {})
        answer = refused(row, write)
        if answer is not None:
            return answer
        change(row, write)
        self.rows[write.key] = row
        return True

    def seal(self) -> Seal:
        return _Safe()

    def keys(self, join_key: str) -> list[bytes]:
        return [key for key in self.rows if key.startswith(entity_prefix(join_key))]

    def every(self, join_key: str, most: int) -> Iterator[list[bytes]]:
        """The keys of all rows of an entity, indexed or not, `most` at a time."""
        keys = self.keys(join_key)
        for start in range(0, len(keys), most):
            yield keys[start : start + most]

    def checkpoint(self, partition: int) -> Checkpoint | None:
        return self._checkpoints.get(partition)

    def save_checkpoint(self, partition: int, checkpoint: Checkpoint) -> None:
        if checkpoint.after(self._checkpoints.get(partition)):
            self._checkpoints[partition] = checkpoint

    def remember(self, name: str, field: str, value: str) -> str:
        return self._facts.setdefault(name, {}).setdefault(field, value)

    def remembered(self, name: str) -> dict[str, str]:
        return dict(self._facts.get(name, {}))

    def raise_to(self, name: str, numbers: Mapping[str, int]) -> dict[str, int]:
        for field, number in numbers.items():
            self._numbers[name, field] = max(number, self._numbers.get((name, field), -1))
        return {field: self._numbers[name, field] for field in numbers}

    def generation(self, topic: str, topic_id: str) -> int:
        known = self._facts.setdefault(f"generations:{topic}", {})
        return int(known.setdefault(topic_id, str(len(known) + 1)))

    def close(self) -> None:
        """Nothing to give back."""
