"""Who may be ranked now: a few at once, some who wait their turn, and nobody who would wait long.

A request that is turned away costs next to nothing, so what can be answered is answered in time,
however much more is asked for.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

MEMORY: Final = 0.1
"""Weight of the newest request in the mean time of one."""
FIRST_GUESS_S: Final = 0.005

Turn = asyncio.Future[None]
Gone = Callable[[], Coroutine[Any, Any, object]]
"""Returns when the caller has gone away."""


class Overloaded(Exception):
    """There is no room for a request now."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(f"try again in {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class Left(Exception):
    """The caller went away before its turn came."""


class Admission:
    """At most `running_max` requests run; those behind them wait in turn, `wait_ms_max` at most.

    Belongs to one event loop. How long a newcomer would wait is foreseen from how long requests
    take, so that it is turned away when it comes, not after it has waited.
    """

    def __init__(
        self, running_max: int, wait_ms_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._running_max = running_max
        self._wait_s_max = wait_ms_max / 1000
        self._clock = clock
        self._took_s = FIRST_GUESS_S
        self._queue: deque[Turn] = deque()
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def expected_wait_s(self) -> float:
        """How long a request that comes now would wait."""
        if self.running < self._running_max:
            return 0.0
        return (len(self._queue) + 1) * self._took_s / self._running_max

    def check(self, wait_s_max: float = math.inf) -> None:
        """Raise `Overloaded` when a request that comes now would wait too long."""
        if self.expected_wait_s() > min(wait_s_max, self._wait_s_max):
            raise self._overloaded()

    @asynccontextmanager
    async def turn(
        self, wait_s_max: float = math.inf, gone: Gone | None = None
    ) -> AsyncIterator[None]:
        """Inside, it is the request's turn. Raises `Overloaded` or `Left` when it does not come."""
        self.check(wait_s_max)
        if self.running < self._running_max:
            self.running += 1
        else:
            await self._wait(min(wait_s_max, self._wait_s_max), gone)
        began = self._clock()
        try:
            yield
        finally:
            self._took_s += MEMORY * (self._clock() - began - self._took_s)
            self._release()

    async def _wait(self, wait_s_max: float, gone: Gone | None) -> None:
        turn: Turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        late = asyncio.get_running_loop().call_later(
            wait_s_max, self._give_up, turn, self._overloaded()
        )
        watch = None if gone is None else asyncio.create_task(gone())
        if watch is not None:
            watch.add_done_callback(lambda _: self._give_up(turn, Left()))
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._queue:
                self._queue.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                self._release()  # it was cancelled just as its turn had come
            raise
        finally:
            late.cancel()
            if watch is not None:
                watch.cancel()

    def _give_up(self, turn: Turn, why: Exception) -> None:
        if not turn.done():
            self._queue.remove(turn)
            turn.set_exception(why)

    def _release(self) -> None:
        """A request is done: the next one's turn comes."""
        self.running -= 1
        while self._queue and self.running < self._running_max:
            turn = self._queue.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _overloaded(self) -> Overloaded:
        return Overloaded(max(1, round(1000 * self.expected_wait_s())))
