"""The load of a recorded day: how often people looked and acted, minute by minute, made smooth."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow.parquet as pq

from tests.data import real_data

MINUTE_S = 60
SMOOTH_MINUTES = 21
UTC_OFFSET_MINUTES = 480


@cache
def shape() -> Callable[[float], float]:
    """Load at a second of the day, 1 at the peak: KuaiRand's impressions of all its days."""
    folder = real_data("kuairand")
    table = pq.read_table(folder / "impressions.parquet", columns=["time_ms"])
    times = np.asarray(table["time_ms"].to_numpy(), np.int64)
    local = (times // 60_000 + UTC_OFFSET_MINUTES) % 1440
    minutes = np.bincount(local, minlength=1440).astype(float)
    window = np.ones(SMOOTH_MINUTES) / SMOOTH_MINUTES
    around = np.concatenate((minutes[-SMOOTH_MINUTES:], minutes, minutes[:SMOOTH_MINUTES]))
    smooth = np.convolve(around, window, "same")[SMOOTH_MINUTES:-SMOOTH_MINUTES]
    curve = smooth / smooth.max()

    def at(second: float) -> float:
        return float(curve[int(second // MINUTE_S) % 1440])

    return at
