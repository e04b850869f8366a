"""Times of several ways to do one thing, in turns, so that the machine treats them alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IN_A_ROW, SETTLING = 30, 10
"""Of a ranker that is to be warm: requests that count, after some that do not."""


@dataclass(frozen=True)
class Took:
    """What a way took by a clock of its own: of a coroutine, without the start and the stop of the
    event loop around it, which a server does not do for a request."""

    ms: float


def paired_ms(
    ways: Mapping[str, Callable[[], object]],
    runs: int,
    warm_up: int = 5,
    in_a_row: int = 1,
    settling: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds [runs] of each way, garbage collection off.

    The ways take turns, each so many times `in_a_row` after some for `settling` that are not
    counted. Whatever else ran for a tenth of a second leaves its own code and rows in the caches,
    and a way that takes a few milliseconds would be measured on those.
    """
    for _ in range(warm_up):
        for way in ways.values():
            way()
    taken_ms = {name: np.zeros(runs) for name in ways}
    gc.collect()
    gc.disable()
    try:
        for first in range(0, runs, in_a_row):
            for name, way in ways.items():
                for _ in range(settling):
                    way()
                for run in range(first, min(first + in_a_row, runs)):
                    taken_ms[name][run] = _took_ms(way)
    finally:
        gc.enable()
    return taken_ms


def _took_ms(way: Callable[[], object]) -> float:
    begin = time.perf_counter()
    found = way()
    return found.ms if isinstance(found, Took) else (time.perf_counter() - begin) * 1000
