"""Side effects, off the hot path: one thread tells them of every answer after it was given."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from ranker.stages.roles import Query, Served, SideEffect

log = logging.getLogger("headrace.ranker")

WAITING_MAX: Final = 1_000
"""Answers whose side effects may wait; further ones have none, and are counted."""


class Effects:
    """The side effects of one pipeline."""

    def __init__(self, effects: Sequence[SideEffect]) -> None:
        self._effects = effects
        self._thread = ThreadPoolExecutor(1, "served")
        self._room = threading.BoundedSemaphore(WAITING_MAX)
        self._failing: dict[str, str] = {}
        self._closed = False
        self.dropped = 0
        """Answers that were not told of."""

    def put(self, query: Query, served: Served) -> None:
        """Have them told of an answer; at once."""
        if not self._effects:
            return
        if self._closed or not self._room.acquire(blocking=False):
            self.dropped += 1
            self._failing["side_effects"] = f"too many wait, {self.dropped} have been left out"
            return
        self._failing.pop("side_effects", None)
        self._thread.submit(self._tell, query, served)

    def trouble(self) -> list[str]:
        """What is wrong with them, as entries of `degraded`."""
        told = [(effect.name, effect.trouble()) for effect in self._effects]
        found = {name: why for name, why in told if why is not None} | self._failing
        return [f"{name}: {why}" for name, why in found.items()] if found else []

    def drain(self) -> None:
        """Wait until all answers so far have been told of."""
        self._thread.submit(lambda: None).result()

    def close(self, deadline_s: float = 5.0) -> None:
        """Tell of what waits, for at most so long, then end the thread."""
        self._closed = True
        last = self._thread.submit(lambda: None)
        self._thread.shutdown(wait=False)
        with suppress(TimeoutError):
            last.result(deadline_s)

    def _tell(self, query: Query, served: Served) -> None:
        for effect in self._effects:
            try:
                effect.served(query, served)
            except Exception as error:
                log.exception("side effect %s failed", effect.name)
                self._failing[effect.name] = f"failed ({type(error).__name__})"
            else:
                self._failing.pop(effect.name, None)
        self._room.release()
