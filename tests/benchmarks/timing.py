"""Times of several ways to do one thing, in turns, so that the machine treats them alike."""

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray


def paired_ms(
    ways: Mapping[str, Callable[[], object]], runs: int, warm_up: int = 5
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds [runs] of each way; every run does each way once, garbage collection off."""
    for _ in range(warm_up):
        for way in ways.values():
            way()
    taken_ms = {name: np.zeros(runs) for name in ways}
    gc.collect()
    gc.disable()
    try:
        for run in range(runs):
            for name, way in ways.items():
                begin = time.perf_counter()
                way()
                taken_ms[name][run] = (time.perf_counter() - begin) * 1000
    finally:
        gc.enable()
    return taken_ms
