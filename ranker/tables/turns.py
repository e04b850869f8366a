"""A lock whose holder cannot take it again before those who wait for it."""

import threading
from types import TracebackType


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
