"""Bringing tables up to date: fetch what changed, put it into the rows. No server is met here."""

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np

from features.as_of import Tables
from features.candidates import USER_KEY
from features.codec import entity_id, entity_prefix
from features.entities import EntityTable, Hash
from features.errors import BadInput
from features.latest import LatestTable
from features.spec import Plan
from features.strings import Strings
from ranker.pending import Pending

log = logging.getLogger("headrace")

ROWS_PER_READ: Final = 500
ROWS_PER_TURN: Final = 32
"""Rows put into the tables at a time; a request waits for that many at most."""
_NO_KEYS: Final = np.zeros(0, np.int64)

Read = Callable[[Sequence[bytes]], list[Hash]]


class LiveRows:
    """The rows of every entity of a plan but the user, with strings of their own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.strings = Strings()
        self.tables: Tables = {
            entity.join_key: EntityTable(plan, entity, self.strings)
            for entity in plan.entities
            if entity.join_key != USER_KEY
        }
        self.refused = 0
        """Rows that could not be read as what the plan says, and are empty here."""

    @property
    def join_keys(self) -> list[str]:
        """The join keys of the entities, in order."""
        return list(self.tables)

    def own(self, keys: Sequence[bytes]) -> list[bytes]:
        """The keys among these that are rows of this plan's project."""
        return [key for key in keys if self._is_own(key)]

    def put(self, keys: Sequence[bytes], hashes: Sequence[Hash]) -> None:
        """Replace own rows by their hashes, add new ones, empty those that vanished."""
        for table in self.tables.values():
            prefix = entity_prefix(table.entity.join_key)
            found = [
                (key, content)
                for key, content in zip(keys, hashes, strict=True)
                if key.startswith(prefix) and (content or table.find(key) is not None)
            ]
            if found:
                self._put(table, found)

    def _put(self, table: EntityTable, found: Sequence[tuple[bytes, Hash]]) -> None:
        rows = [table.row(key) for key, _ in found]
        try:
            _load(table, rows, [content for _, content in found])
        except UNREADABLE:
            for row, (key, content) in zip(rows, found, strict=True):
                try:
                    _load(table, [row], [content])
                except UNREADABLE as error:
                    _load(table, [row], [{}])
                    self.refused += 1
                    log.warning("live rows: %r is left empty: %s", key, error)

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
    pending: Pending, read: Read, targets: Sequence[LiveRows], turn: AbstractContextManager[None]
) -> int:
    """Fetch the oldest pending rows and put them into every target, in turns; returns how many."""
    keys = pending.take(ROWS_PER_READ)
    if not keys:
        return 0
    hashes = read(keys)
    for part in parts(len(keys), ROWS_PER_TURN):
        with turn:
            for target in targets:
                target.put(keys[part], hashes[part])
    pending.applied()
    return len(keys)


def parts(count: int, size: int) -> Iterator[slice]:
    """`range(count)` in slices of at most `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _load(table: EntityTable, rows: Sequence[int], hashes: Sequence[Hash]) -> None:
    """Load rows and decode them now, so that no request has to."""
    table.load(rows, hashes)
    table.rows_of_codes(_NO_KEYS)
    for view in table.tables.values():
        if isinstance(view, LatestTable):
            view.column(view.fields[0])
