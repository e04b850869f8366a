"""A thread that does one thing over and over until it is told to stop."""

import threading
from collections.abc import Callable


class Repeating:
    """Calls `turn`, which says how many seconds to rest before the next."""

    def __init__(self, name: str, turn: Callable[[], float]) -> None:
        self._turn = turn
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether a long turn should end."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Take the first turn, then go on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, also one that was never started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._turn())
