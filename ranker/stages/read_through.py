"""Items that a request asks for and the table does not hold: read on their way, within a budget."""

import asyncio
from typing import Any

from features.candidates import ITEM_KEY
from ranker.stages.roles import Query, User, UserHydrator
from ranker.tables.live_tables import LiveTables


class ReadThrough:
    """A `UserHydrator` that has missing candidates read while the user's row is fetched.

    Nothing is asked while the table holds all there is. Past the limit or the budget a request is
    ranked without the rest, and says so; what comes late is there for the next one.
    """

    def __init__(
        self, users: UserHydrator, live: LiveTables, items_max: int, budget_ms: float
    ) -> None:
        self._users, self._live = users, live
        self._items_max, self._budget_s = items_max, budget_ms / 1000

    async def fetch(self, query: Query) -> Any:
        """The user's row as it is stored; by then missing candidates are in the table."""
        if self._live.complete or not query.request.candidates:
            return await self._users.fetch(query)
        items = asyncio.create_task(self._items(query))
        try:
            return await self._users.fetch(query)
        finally:
            await items

    def hydrate(self, query: Query, stored: Any) -> User:
        """What was fetched, for the tables that stand now."""
        return self._users.hydrate(query, stored)

    def alone(self, query: Query, stored: Any) -> User:
        """The same without the lock."""
        return self._users.alone(query, stored)

    def nobody(self) -> User:
        """An unknown user."""
        return self._users.nobody()

    async def _items(self, query: Query) -> None:
        ids = list(dict.fromkeys(query.request.candidates or ()))
        # On another thread, because it takes the lock of the tables.
        asked = await asyncio.to_thread(self._live.read_through, ITEM_KEY, ids, self._items_max)
        if asked is None:
            return
        answer, missing = asked
        if missing > self._items_max:
            query.degraded.append(
                f"read_through: {missing - self._items_max} of {missing} missing items were not "
                "asked for; ranked as unknown"
            )
        try:
            await asyncio.wait_for(asyncio.wrap_future(answer), self._budget_s)
        except TimeoutError:
            query.degraded.append(
                f"read_through: {min(missing, self._items_max)} missing items did not come within "
                f"{1000 * self._budget_s:.0f} ms; ranked as unknown"
            )
