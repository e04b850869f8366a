"""A worker that runs only when it is told to, and stops where the simulator wants it to.

Workers are plain code, so each has a thread of its own; a baton passes between it and the
simulator, and so only one of them ever runs. The threads bring no chance of their own.
"""

import threading
from collections.abc import Callable


class Crash(BaseException):
    """The end of a process, at any of its calls; nothing in it may catch this."""


class Actor:
    """One process of the simulation."""

    def __init__(self, name: str, main: Callable[["Actor"], None]) -> None:
        self.name = name
        self.ended = False
        self.fault: BaseException | None = None
        """A programmer's error that ended it."""
        self._main = main
        self._dying = False
        self._turn, self._back = threading.Lock(), threading.Lock()
        self._turn.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._live, daemon=True, name=name)
        self._thread.start()

    def resume(self) -> None:
        """Let it run until it pauses or ends."""
        if not self.ended:
            self._turn.release()
            self._back.acquire()

    def kill(self) -> None:
        """End it where it stands."""
        self._dying = True
        self.resume()
        self._thread.join()

    def pause(self) -> None:
        """From inside: give the baton back. Here the process may die."""
        self._back.release()
        self._turn.acquire()
        if self._dying:
            raise Crash

    def _live(self) -> None:
        self._turn.acquire()
        try:
            if not self._dying:
                self._main(self)
        except Crash:
            pass
        except BaseException as error:  # noqa: BLE001 - told to the simulator, which fails by it
            self.fault = error
        self.ended = True
        self._back.release()
