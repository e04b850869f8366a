"""Who goes first: requests and the threads that work beside them."""

import threading
from types import TracebackType
from typing import Final

GIVE_WAY_S: Final = 0.01
"""Work in the background waits for requests at most so long at a time: it has its own bounds."""


class TurnLock:
    """A mutex that is fair between a thread that takes it over and over and any other.

    With a plain lock, the refresher that lets go and takes it again at once would keep a waiting
    request out for as long as it has work: the waiter needs the interpreter first to wake up.
    Here who waits holds the way in. Its holder may enter again.
    """

    def __init__(self) -> None:
        self._way_in = threading.Lock()
        self._held = threading.Lock()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner != me:
            with self._way_in:
                self._held.acquire()
            self._owner = me
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._held.release()


class Precedence:
    """Counts the requests on their way, so that work in the background can stand back for them.

    One thread runs Python at a time. Whenever a request waits or computes in a kernel, a thread
    that works in the background takes the interpreter and keeps it for 5 ms, if it has work for so
    long: several times in the course of a request that takes four by itself.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests = 0

    def __enter__(self) -> None:
        with self._changed:
            self._requests += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._requests -= 1
            if not self._requests:
                self._changed.notify_all()

    def give_way(self, at_most_s: float = GIVE_WAY_S) -> None:
        """Wait until no request is on its way, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._requests, at_most_s)
