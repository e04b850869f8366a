"""A session with a cluster: its client, the workers that train, and the watch over both."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from typing import Any, Final, TypeVar

from distributed import Client
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoValidWorkerError
from lightgbm.basic import LightGBMError

from features.errors import Unavailable

T = TypeVar("T")

LOOK_EVERY_S = 1.0
LOOK_TIMEOUT_S = 5.0
# A worker's death is heard by its peers at once, and by the scheduler when its nanny says so.
DEATH_NOTICE_S = 5.0
AWAY = (CancelledError, CommClosedError, KilledWorker, NoValidWorkerError, OSError)
"""What a call raises when scheduler or worker went away under it. TimeoutError is an OSError."""


class SteadyClient(Client):
    """A client that names workers in a steady order. `lightgbm.dask` numbers its machines by it, so
    that the same rows and seed make the same model."""

    order: tuple[str, ...] = ()

    def who_has(self, futures: Any = None, **kwargs: Any) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = super().who_has(futures, **kwargs)  # type: ignore[no-untyped-call]
        place = {worker: number for number, worker in enumerate(self.order)}
        return dict(sorted(found.items(), key=lambda one: [place.get(w, -1) for w in one[1]]))


class Session:
    """The workers that train, by address in a steady order, and the client that asks them."""

    def __init__(
        self,
        client: SteadyClient,
        workers: tuple[str, ...],
        topic: str,
        silence_s: float,
        clock: Callable[[], float] = time.monotonic,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.client: Final[Client] = client
        client.order = workers
        self.workers: Final = workers
        self.topic: Final = topic
        self._silence_s, self._clock = silence_s, clock
        self._look_every_s = look_every_s
        self._heard_at = clock()
        self._hear: Callable[[dict[str, int]], None] = lambda said: None

    def hear(self, event: tuple[float, dict[str, int]]) -> None:
        """Something that a worker told the topic."""
        self.sign()
        self._hear(event[1])

    def sign(self) -> None:
        """The cluster is alive."""
        self._heard_at = self._clock()

    def watched(
        self,
        what: str,
        call: Callable[[], T],
        hear: Callable[[dict[str, int]], None] = lambda said: None,
    ) -> T:
        """What a call that waits for the cluster returns; `hear` is given what workers tell.

        Raises Unavailable when a worker is lost, the scheduler goes away, or nothing is heard for
        as long as may be: a call of Dask itself would wait for ever.
        """
        self.sign()
        self._hear = hear
        done = _in_a_thread(self._as_current(call))
        while True:
            wait([done], self._look_every_s)
            if done.done():
                return self._result(done, what)
            lost = self._lost()
            if lost:
                raise _dead(lost, what)
            if self.client.status in ("closing", "closed"):
                raise _gone(what, "the scheduler has closed the connection")
            if self._clock() - self._heard_at > self._silence_s:
                raise Unavailable(
                    f"the Dask cluster gave no sign for {self._silence_s:.0f} s while {what}: a "
                    "worker may hang, or be paused for want of memory (its log tells); restart "
                    "the workers, or let them take longer (--dask-timeout)"
                )

    def _as_current(self, call: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            with self.client.as_current():  # `lightgbm.dask` waits for whatever client is current
                return call()

        return run

    def _result(self, done: "Future[T]", what: str) -> T:
        error = done.exception()
        if error is None:
            return done.result()
        away = isinstance(error, AWAY) or (
            isinstance(error, LightGBMError) and "ocket" in str(error)
        )
        if not away:
            raise error
        deadline = self._clock() + DEATH_NOTICE_S
        while not (lost := self._lost()) and self._clock() < deadline:
            time.sleep(self._look_every_s / 4)
        if lost:
            raise _dead(lost, what) from error
        raise _gone(what, f"{type(error).__name__}: {error}") from error

    def _lost(self) -> list[str]:
        """The workers that are no more; none where nobody can tell."""
        scheduler = self.client.scheduler
        if scheduler is None:  # the client has closed
            return []
        try:
            there: dict[str, Any] = self.client.sync(
                scheduler.ncores, callback_timeout=LOOK_TIMEOUT_S
            )
        except AWAY:
            return []
        return [worker for worker in self.workers if worker not in there]


def _in_a_thread(call: Callable[[], T]) -> "Future[T]":
    """A call in a thread that nobody waits for when the process ends."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001  (it is raised again where it is waited for)
            done.set_exception(error)

    threading.Thread(target=run, name="dask-call", daemon=True).start()
    return done


def _dead(lost: list[str], what: str) -> Unavailable:
    return Unavailable(
        f"{len(lost)} of the Dask workers died while {what}: {', '.join(lost)}. Its log tells why; "
        "killed for want of memory, it needs more of it, or more workers beside it, or fewer rows "
        "(--negatives). Start the command again: nothing was written"
    )


def _gone(what: str, why: str) -> Unavailable:
    return Unavailable(
        f"the Dask cluster was lost while {what} ({why}): see the log of the scheduler and of the "
        "workers, and start the command again: nothing was written"
    )
