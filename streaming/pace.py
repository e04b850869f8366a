"""The pace of a worker's turns."""

import time
from collections.abc import Callable
from typing import Final

TURN_S: Final = 0.015
"""A turn that took less is followed by a pause: a turn has costs of its own (a request for each
partition, a call to Redis, a block for each pair of partitions), and ten times the turns would
not make rows newer but keep both cores busy."""


def repeat(turn: Callable[[], None], stopping: Callable[[], bool], turn_s: float) -> None:
    """Take turns of at least so many seconds until told to stop."""
    while not stopping():
        began = time.monotonic()
        turn()
        rest = began + turn_s - time.monotonic()
        if rest > 0:
            time.sleep(rest)
