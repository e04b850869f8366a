"""A worker's link to its store: one connection at a time, and a new one when that is lost."""

from collections.abc import Callable
from typing import Final, NamedTuple

from features.errors import Unavailable
from features.row_store import RowStore

BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class Opened(NamedTuple):
    """A store on a fresh connection, and the life of the worker's topic, as it numbers them."""

    store: RowStore
    generation: int


class StoreLink:
    """What a worker goes through to reach its store.

    A connection that failed once is never used again: the server may have lost what was written
    over it, or may still be working on it (rule 5). Until it is time to try again the link says
    that there is none; the worker keeps its place in the group meanwhile and reads nothing.
    """

    def __init__(self, connect: Callable[[], Opened], clock: Callable[[], float]) -> None:
        self._connect, self._clock = connect, clock
        self._opened: Opened | None = None
        self._failures = 0
        self._retry_at = clock()

    def reach(self) -> Opened | None:
        """The open store; None while it is not time to try again. Raises Unavailable."""
        if self._opened is None:
            if self._clock() < self._retry_at:
                return None
            self._opened = self._connect()
        return self._opened

    def worked(self) -> None:
        """Note that the store does its part: the next pause is a short one."""
        self._failures = 0

    def lose(self) -> float:
        """Give the connection up; returns the seconds until the next is tried."""
        self.close()
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._retry_at = self._clock() + pause
        return pause

    def close(self) -> None:
        """Close what is open."""
        if self._opened is not None:
            self._opened.store.close()
            self._opened = None


def secure(store: RowStore, what: str) -> None:
    """Return once everything written so far is safe; Unavailable when the store denies it."""
    if not store.seal().settled():
        raise Unavailable(
            f"Redis did not confirm that {what} is durable: check its append-only file or its "
            "replicas, as HEADRACE_DURABILITY says"
        )
