"""One user's row, read from the store for one request."""

import asyncio
import struct
from typing import NamedTuple

import redis

from features.candidates import USER_KEY
from features.codec import entity_key
from features.entities import EntityTable, Hash
from features.errors import BadInput, Unavailable
from features.layout import NEVER
from features.marker import Marker
from features.spec import EntitySpec, Plan
from features.strings import Strings
from ranker.tables.live_tables import LiveTables
from ranker.tables.redis_client import Rows
from ranker.tables.refresh import UNREADABLE


class UserRow(NamedTuple):
    """A user's row in a table of its own."""

    table: EntityTable
    row: int
    """0, or −1 when nothing is known of the user."""
    marker: Marker | None
    newest: int | None
    """Event time of the newest fact in the row, ms."""
    user_id: str
    content: Hash
    """The row as it was stored."""


class UserRows:
    """Reads the rows of users, each in one round trip with a deadline."""

    def __init__(self, stored: Rows, live: LiveTables, deadline_ms: int) -> None:
        self._stored = stored
        self._live = live
        self._deadline_ms = deadline_ms

    async def read(self, user_id: str) -> UserRow:
        """A user's row, ready for a request beside the live tables.

        Raises Unavailable past the deadline, BadInput when the row is not in Headrace's layout.
        """
        return self.load(user_id, await self.fetch(user_id))

    def load(self, user_id: str, content: Hash) -> UserRow:
        """A fetched row, ready for a request beside the live tables that stand now.

        Raises BadInput when it is not in Headrace's layout.
        """
        with self._live.lock:
            return load_user(self._live.plan, self._live.strings, user_id, content)

    def alone(self, user_id: str, content: Hash) -> UserRow:
        """A fetched row that shares no codes with the live tables; takes no lock."""
        return load_user(self._live.plan, Strings(), user_id, content)

    def nobody(self, user_id: str = "") -> UserRow:
        """A user of whom nothing is known."""
        with self._live.lock:
            return load_user(self._live.plan, self._live.strings, user_id, {})

    def current(self, user: UserRow) -> UserRow:
        """The same row for the live tables that stand now: they may have been replaced since.

        Hold their lock, from here to the end of what is computed.
        """
        if user.table.strings is self._live.strings:
            return user
        return load_user(self._live.plan, self._live.strings, user.user_id, user.content)

    async def fetch(self, user_id: str) -> Hash:
        """A user's row as it is stored, empty when there is none; takes no lock.

        Raises Unavailable past the deadline.
        """
        plan = self._live.plan
        entity = user_entity(plan)
        try:
            key = entity_key(entity.join_key, entity.value_type, user_id, plan.project)
        except (ValueError, OverflowError, struct.error):
            return {}  # no number the entity can hold, so nobody was ever stored under it
        try:
            async with asyncio.timeout(self._deadline_ms / 1000):
                return await self._stored.hgetall(key)
        except TimeoutError as error:
            raise Unavailable(
                f"the user's row did not come within {self._deadline_ms} ms"
            ) from error
        except (redis.RedisError, OSError) as error:
            raise Unavailable(f"the user's row cannot be read: {error}") from error


def load_user(plan: Plan, strings: Strings, user_id: str, content: Hash) -> UserRow:
    """A stored row as a table that shares its codes with others; hold their lock.

    Raises BadInput when the row is not in Headrace's layout.
    """
    table = EntityTable(plan, user_entity(plan), strings, rows=1)
    if not content:
        return UserRow(table, -1, None, None, user_id, content)
    row = table.row_of_id(user_id)
    try:
        table.load([row], [content])
    except UNREADABLE as error:
        raise BadInput(f"a user's stored row is not in Headrace's layout: {error}") from error
    newest = max(int(view.newest[row]) for view in table.tables.values())
    known = newest != NEVER
    marker = table.markers[row]
    return UserRow(table, row if known else -1, marker, newest if known else None, user_id, content)


def user_entity(plan: Plan) -> EntitySpec:
    """The entity whose rows are users; a plan without one keeps nothing of them."""
    for entity in plan.entities:
        if entity.join_key == USER_KEY:
            return entity
    raise BadInput(f"project {plan.project!r} declares no view of users (join key {USER_KEY})")
