"""Threads that compute requests; the one that did so last is the first to be asked again."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Task = tuple[Future[Any], Callable[[], Any]]


class Workers(Executor):
    """At most so many threads, begun as they are needed.

    A `ThreadPoolExecutor` lets its threads take turns. They wake up on different cores, and each
    finds there what it used some requests ago: a tenth of the time of a request goes to that.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Task | None]] = []
        """Where those that have nothing to do wait for it; the last one was busy last."""
        self._all: list[SimpleQueue[Task | None]] = []
        self._waiting: deque[Task] = deque()
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have it computed on a thread; raises RuntimeError after `shutdown`."""
        future: Future[T] = Future()
        task = future, lambda: fn(*args, **kwargs)
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

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once they have done what they have; `wait` is for nothing: they hold
        nothing that anybody waits for."""
        del wait
        with self._lock:
            self._closed = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            for inbox in self._all:
                inbox.put(None)
        for future, _ in dropped:
            future.cancel()

    def _begin(self) -> SimpleQueue[Task | None]:
        inbox: SimpleQueue[Task | None] = SimpleQueue()
        self._all.append(inbox)
        name = f"{self._name}_{len(self._all)}"
        threading.Thread(target=self._run, args=(inbox,), name=name, daemon=True).start()
        return inbox

    def _run(self, inbox: SimpleQueue[Task | None]) -> None:
        while (task := inbox.get()) is not None:
            while task is not None:
                task = self._do(task, inbox)

    def _do(self, task: Task, inbox: SimpleQueue[Task | None]) -> Task | None:
        """Compute a task; the next one that waits."""
        future, compute = task
        if not future.set_running_or_notify_cancel():
            return self._next(inbox)
        found, failed = None, None
        try:
            found = compute()
        except BaseException as error:  # noqa: BLE001 - who waits for it is told
            failed = error
        # Free first, then done: who asks again at once shall find this very thread.
        following = self._next(inbox)
        if failed is None:
            future.set_result(found)
        else:
            future.set_exception(failed)
        return following

    def _next(self, inbox: SimpleQueue[Task | None]) -> Task | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(inbox)
            return None
