"""Bringing tables up to date: fetch what changed, put it into the rows. No server is met here."""

import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Final

from features.candidates import USER_KEY
from features.codec import entity_id, entity_prefix
from features.entities import Hash
from features.errors import BadInput
from features.latest import Column
from features.spec import Plan
from features.strings import Strings
from ranker.tables.live_table import LiveTable
from ranker.tables.pending import Pending

log = logging.getLogger("headrace")

ROWS_PER_READ: Final = 500
ROWS_PER_PART: Final = 50
"""Rows asked for at a time while requests are served."""
ROWS_PER_TURN: Final = 32
"""Rows put into the tables at a time; a request waits for that many at most."""
ROWS_MAX: Final = 2_000_000

Read = Callable[[Sequence[bytes]], list[Hash]]


class LiveRows:
    """The rows of every entity of a plan but the user, with strings of their own."""

    def __init__(self, plan: Plan, rows_max: int = ROWS_MAX) -> None:
        self.plan = plan
        self.strings = Strings()
        self.tables = {
            entity.join_key: LiveTable(plan, entity, self.strings, rows_max)
            for entity in plan.entities
            if entity.join_key != USER_KEY
        }
        self.refused = 0
        """Rows that could not be read as what the plan says, and are empty here."""

    @property
    def join_keys(self) -> list[str]:
        """The join keys of the entities, in order."""
        return list(self.tables)

    @property
    def evicted(self) -> int:
        """Rows that made way for others."""
        return sum(table.evicted for table in self.tables.values())

    def own(self, keys: Sequence[bytes]) -> list[bytes]:
        """The keys among these that are rows of this plan's project."""
        return [key for key in keys if self._is_own(key)]

    def make_room(self, keys: Sequence[bytes]) -> None:
        """Choose who will make way for these rows: what can be done without the lock."""
        for table in self.tables.values():
            table.tick += 1
            table.make_room(len(keys))

    def put(self, keys: Sequence[bytes], hashes: Sequence[Hash], *, evict: bool = True) -> None:
        """Replace own rows by their hashes, add new ones, take away those that vanished."""
        for table in self.tables.values():
            prefix = entity_prefix(table.entity.join_key)
            found = {
                key: content
                for key, content in zip(keys, hashes, strict=True)
                if key.startswith(prefix)
            }
            if found:
                self._put(table, found, evict)

    def recoded(self) -> tuple[Strings, dict[str, dict[str, list[Column]]]]:
        """Strings of what the rows name and no more, and the columns by their codes; for `adopt`,
        with no row put between the two."""
        strings = Strings()
        return strings, {key: table.recoded(strings) for key, table in self.tables.items()}

    def adopt(self, strings: Strings, columns: dict[str, dict[str, list[Column]]]) -> None:
        """Go over to other strings."""
        self.strings = strings
        for key, table in self.tables.items():
            table.adopt(strings, columns[key])

    def _put(self, table: LiveTable, found: dict[bytes, Hash], evict: bool) -> None:
        try:
            table.put(list(found), list(found.values()), evict=evict)
        except UNREADABLE:
            for key, content in found.items():
                try:
                    table.put([key], [content], evict=evict)
                except UNREADABLE as error:
                    table.put([key], [{}])
                    self.refused += 1
                    log.warning("live rows: %r is left out: %s", key, error)

    def _is_own(self, key: bytes) -> bool:
        for join_key in self.tables:
            if key.startswith(entity_prefix(join_key)):
                try:
                    return entity_id(join_key, key, self.plan.project) is not None
                except ValueError:  # an id that is no text
                    return False
        return False


UNREADABLE: Final = (BadInput, ValueError, LookupError, OverflowError, TypeError, struct.error)
"""What bytes that are not ours can raise in a decoder."""


def refresh(
    pending: Pending,
    read: Read,
    targets: Sequence[LiveRows],
    turn: AbstractContextManager[None],
    give_way: Callable[[], None] = lambda: None,
) -> dict[bytes, Hash]:
    """Fetch the oldest pending rows and put them into every target, in turns; what was fetched.

    Way is given before each part is read and put: both take the interpreter.
    """
    keys = pending.take(ROWS_PER_READ)
    if not keys:
        return {}
    hashes: list[Hash] = []
    for part in parts(len(keys), ROWS_PER_PART):
        give_way()
        hashes += read(keys[part])
    put(keys, hashes, targets, turn, give_way=give_way)
    pending.applied()
    return dict(zip(keys, hashes, strict=True))


def put(
    keys: Sequence[bytes],
    hashes: Sequence[Hash],
    targets: Sequence[LiveRows],
    turn: AbstractContextManager[None],
    *,
    evict: bool = True,
    at_a_time: int = ROWS_PER_TURN,
    give_way: Callable[[], None] = lambda: None,
) -> None:
    """Put rows into every target, a few at a time, so that a request never waits for many."""
    for target in targets:
        target.make_room(keys if evict else ())
    for part in parts(len(keys), at_a_time):
        give_way()
        with turn:
            for target in targets:
                target.put(keys[part], hashes[part], evict=evict)


def parts(count: int, size: int) -> Iterator[slice]:
    """`range(count)` in slices of at most `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def batched(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Keys, so many at a time."""
    several = iter(keys)
    while batch := list(islice(several, size)):
        yield batch
