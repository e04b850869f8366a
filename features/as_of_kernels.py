"""The formulas of as-of reads: pure functions of stored integers and `now`.

Floats first appear here. Sums run from the oldest bucket or entry to the newest and skip what is
empty, so every reader of the same state gets the same bits.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from features.layout import Arrays, Ints, Layout

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

COUNT, RATE, DECAYED, TREND, FIRST, LAST = range(6)
ALL: Final = -1
"""Ring number that means the all-time total."""


class CountProgram(NamedTuple):
    """Features of one activity view: the sums they need, each once, and what is made of them."""

    sum_metric: Ints
    sum_ring: Ints
    sum_buckets: Ints
    """[sum]: Σ of a metric over the newest buckets of a ring."""
    op: Ints
    of: Ints
    per: Ints
    """[feature]: the place of its sum; of the second sum of a rate or a trend."""
    more_of: Ints
    more_per: Ints
    """[feature, k]: places of the sums that a rate adds to either; −1 padded."""
    prior_of: Floats
    prior_per: Floats
    weights: Floats
    """[feature, age in buckets]: of decayed counts, which add up the buckets of `of` themselves."""


@kernel
def window_sum(
    layout: Layout, arrays: Arrays, row: int, metric: int, ring: int, buckets: int, now: int
) -> int:
    """Σ of a metric over buckets b with ⌊now/w⌋ − buckets < b ≤ ⌊now/w⌋; the total for ALL."""
    block = arrays.block[row, metric]
    if block < 0:
        return 0
    if ring == ALL:
        return int(arrays.total[block])
    width, kept, start = layout.ring_width[ring], layout.ring_buckets[ring], layout.ring_start[ring]
    newest, current = arrays.newest[row] // width, now // width
    total = 0
    first = max(current - buckets + 1, newest - kept + 1, 0)
    slot = first % kept
    for _ in range(first, min(current, newest) + 1):
        total += arrays.slots[block, start + slot]
        slot = slot + 1 if slot + 1 < kept else 0
    return total


@kernel
def _decayed(
    layout: Layout,
    arrays: Arrays,
    row: int,
    metric: int,
    ring: int,
    buckets: int,
    now: int,
    weights: Floats,
) -> float:
    block = arrays.block[row, metric]
    if block < 0:
        return 0.0
    width, kept, start = layout.ring_width[ring], layout.ring_buckets[ring], layout.ring_start[ring]
    newest, current = arrays.newest[row] // width, now // width
    total = 0.0
    first = max(current - buckets + 1, newest - kept + 1, 0)
    slot = first % kept
    for bucket in range(first, min(current, newest) + 1):
        amount = arrays.slots[block, start + slot]
        if amount != 0:
            total += amount * weights[current - bucket]
        slot = slot + 1 if slot + 1 < kept else 0
    return total


@kernel
def rate_of(program: CountProgram, f: int, sums: Ints) -> float:
    """The value of one rate, of the sums of its row."""
    of, per = sums[program.of[f]], sums[program.per[f]]
    for s in program.more_of[f]:
        if s >= 0:
            of += sums[s]
    for s in program.more_per[f]:
        if s >= 0:
            per += sums[s]
    return float((of + program.prior_of[f]) / (per + program.prior_per[f]))


@kernel
def read_counts(
    layout: Layout, arrays: Arrays, program: CountProgram, rows: Ints, now: int, out: Floats
) -> None:
    """out[row, feature] of activity features; row −1 is an entity nobody ever saw."""
    sums = np.zeros(len(program.sum_metric), np.int64)
    for i in range(len(rows)):
        row = rows[i]
        for s in range(len(sums)):
            sums[s] = 0
            if row >= 0:
                metric, ring = program.sum_metric[s], program.sum_ring[s]
                sums[s] = window_sum(layout, arrays, row, metric, ring, program.sum_buckets[s], now)
        for f in range(len(program.op)):
            op, of, per = program.op[f], program.of[f], program.per[f]
            if op == COUNT:
                out[i, f] = sums[of]
            elif op == RATE:
                out[i, f] = rate_of(program, f, sums)
            elif op == DECAYED:
                out[i, f] = 0.0
                if row >= 0:
                    out[i, f] = _decayed(
                        layout,
                        arrays,
                        row,
                        program.sum_metric[of],
                        program.sum_ring[of],
                        program.sum_buckets[of],
                        now,
                        program.weights[f],
                    )
            elif op == TREND:
                out[i, f] = (sums[of] + 1.0) / (sums[per] * program.prior_per[f] + 1.0)
            else:
                out[i, f] = np.nan
                if row >= 0:
                    time = arrays.first[row] if op == FIRST else arrays.newest[row]
                    if time >= 0:
                        out[i, f] = (now - time) / 1000.0


@kernel
def window_sums(
    layout: Layout,
    arrays: Arrays,
    rows: Ints,
    metric: int,
    ring: int,
    buckets: int,
    now: int,
) -> Floats:
    """[row]: Σ of one metric over a window; 0 for row −1."""
    out = np.zeros(len(rows))
    for i in range(len(rows)):
        if rows[i] >= 0:
            out[i] = window_sum(layout, arrays, rows[i], metric, ring, buckets, now)
    return out
