"""Which project is read: the repository's own, or one that was filled beside it and took over.

The project that gives way keeps a numbered list in Redis of those that took over from it; the last
one counts. An entry holds the whole plan of the project it leads to, so that a reader needs no
second registry, and an empty one leads back. Adding an entry is one atomic step, and each ranker
goes over at once, tables and users together, when it has loaded the rows of the other project.
"""

import logging
from collections.abc import Callable
from typing import Final, Protocol

from features.errors import Unavailable
from features.redis_rows import RedisRows
from features.row_store import RowStore
from features.spec import Plan

log = logging.getLogger("headrace.ranker")

TAKEN_OVER: Final = "taken-over"
"""Facts: number → the plan that took over."""


class Plans(Protocol):
    """Where definitions come from: the registry."""

    def read(self) -> Plan:
        """The plan as it is declared now."""


def taken_over(store: RowStore) -> Plan | None:
    """The plan that took over from a project, None while it is read itself."""
    entries = store.remembered(TAKEN_OVER)
    newest = entries[max(entries, key=int)] if entries else ""
    return Plan.model_validate_json(newest) if newest else None


def take_over(store: RowStore, plan: Plan | None) -> None:
    """Let readers of a project go over to a plan, or back to the project's own."""
    entry = "" if plan is None else plan.model_dump_json()
    while taken_over(store) != plan:
        # Somebody else may be first with this number; then ours follows theirs.
        store.remember(TAKEN_OVER, str(len(store.remembered(TAKEN_OVER))), entry)


class FollowedPlans:
    """The registry's plan, or the one that took over from its project."""

    def __init__(self, plans: Plans, open_store: Callable[[str], RedisRows]) -> None:
        self._plans, self._open_store = plans, open_store
        self._store: RedisRows | None = None
        self._other: Plan | None = None

    def read(self) -> Plan:
        """The plan to serve by; while Redis is away, the last one that was known."""
        declared = self._plans.read()
        try:
            if self._store is None:
                self._store = self._open_store(declared.project)
            self._other = taken_over(self._store)
        except Unavailable as error:
            log.warning("whether another project took over cannot be told: %s", error)
            self.close()
        return declared if self._other is None else self._other

    def close(self) -> None:
        """Give the connection back."""
        if self._store is not None:
            self._store.close()
            self._store = None
