"""People who ask a ranker for feeds at a steady rate."""

import random
import threading
from collections.abc import Callable

from ranker.client import Client, Retries

PEOPLE = 2


class SteadyCallers:
    """Threads that call `ask` so many times a second in all, while the `with` lasts."""

    def __init__(
        self,
        address: str,
        ask: Callable[[Client, random.Random], None],
        *,
        per_s: float,
        patience_s: float,
        retries: Retries,
    ) -> None:
        self._address, self._ask = address, ask
        self._pause_s = PEOPLE / per_s
        self._patience_s, self._retries = patience_s, retries
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(PEOPLE)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng = random.Random(number)
        with Client(self._address, timeout_s=self._patience_s, retries=self._retries) as client:
            while not self._stopping.wait(rng.uniform(0, 2 * self._pause_s)):
                self._ask(client, rng)
