"""Threads that compute requests; the one that did so last is the first to be asked again."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be computed, and who waits for it."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    compute: Callable[[], Any]

    def tell(self, settle: Callable[..., object], *how: object) -> None:
        """Have the loop tell who waits, if anybody still does."""
        try:
            self.loop.call_soon_threadsafe(settle, *how)
        except RuntimeError:
            if not self.loop.is_closed():  # then nobody waits
                raise

    def settle(self, found: Any, failed: BaseException | None) -> None:
        """On the loop: what was computed, or what was raised."""
        if self.future.done():
            return
        if failed is None:
            self.future.set_result(found)
        else:
            self.future.set_exception(failed)


class Workers:
    """At most so many threads, begun as they are needed; asked by coroutines alone.

    A `ThreadPoolExecutor` lets its threads take turns. They wake up on different cores, and each
    finds there what it used some requests ago: a tenth of the time of a request goes to that. And
    what its threads found passes through a future of threads into one of the loop.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Task | None]] = []
        """Where those that have nothing to do wait for it; the last one was busy last."""
        self._all: list[SimpleQueue[_Task | None]] = []
        self._waiting: deque[_Task] = deque()
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Have it computed on a thread, for the loop that runs.

        Cancelled before a thread began with it, it is left out. Raises RuntimeError after
        `shutdown`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        task = _Task(loop, future, lambda: fn(*args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("the threads were told to end")
            if self._idle:
                self._idle.pop().put(task)
            elif len(self._all) < self._most:
                self._begin().put(task)
            else:
                self._waiting.append(task)
        return future

    def shutdown(self) -> None:
        """End the threads once they have done what they do; what waits for one is cancelled."""
        with self._lock:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
            for inbox in self._all:
                inbox.put(None)
        for task in dropped:
            task.tell(task.future.cancel)

    def _begin(self) -> SimpleQueue[_Task | None]:
        inbox: SimpleQueue[_Task | None] = SimpleQueue()
        self._all.append(inbox)
        name = f"{self._name}_{len(self._all)}"
        threading.Thread(target=self._run, args=(inbox,), name=name, daemon=True).start()
        return inbox

    def _run(self, inbox: SimpleQueue[_Task | None]) -> None:
        while (task := inbox.get()) is not None:
            while task is not None:
                task = self._do(task, inbox)

    def _do(self, task: _Task, inbox: SimpleQueue[_Task | None]) -> _Task | None:
        """Compute a task; the next one that waits."""
        if task.future.cancelled():
            return self._next(inbox)
        found, failed = None, None
        try:
            found = task.compute()
        except BaseException as error:  # noqa: BLE001 - who waits for it is told
            failed = error
        # Free first, then done: who asks again at once shall find this very thread.
        following = self._next(inbox)
        task.tell(task.settle, found, failed)
        return following

    def _next(self, inbox: SimpleQueue[_Task | None]) -> _Task | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(inbox)
            return None
