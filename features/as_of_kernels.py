"""The formulas of as-of reads: pure functions of stored integers and `now`.

Floats first appear here. Sums run from the oldest bucket or entry to the newest and skip what is
empty, so every reader of the same state gets the same bits.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from features.layout import ACTION, TIME, Arrays, Ints, Layout

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

COUNT, RATE, DECAYED, TREND, FIRST, LAST = range(6)
AFFINITY, SINCE = range(2)
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
    prior_of: Floats
    prior_per: Floats
    weights: Floats
    """[feature, age in buckets]: of decayed counts, which add up the buckets of `of` themselves."""


class ListProgram(NamedTuple):
    """Features of one user's sequences against candidates, one place per feature."""

    op: Ints
    sequence: Ints
    actions: NDArray[np.bool_]
    """[feature, action]"""
    key: Ints
    """Arena column that must equal the candidate's."""
    half_life_ms: Floats


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
                out[i, f] = (sums[of] + program.prior_of[f]) / (sums[per] + program.prior_per[f])
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
def read_lists(
    arrays: Arrays,
    program: ListProgram,
    user: int,
    now: int,
    keys: Ints,
    out: Floats,
) -> None:
    """out[candidate, feature] of affinities; `keys` are the candidates' arena columns."""
    for f in range(len(program.op)):
        s, column = program.sequence[f], program.key[f]
        since = program.op[f] == SINCE
        out[:, f] = np.nan if since else 0.0
        if user < 0:
            continue
        for e in range(arrays.start[user, s], arrays.start[user, s] + arrays.length[user, s]):
            time, code = arrays.arena[e, TIME], arrays.arena[e, column]
            if time > now or code < 0 or not program.actions[f, arrays.arena[e, ACTION]]:
                continue
            seconds = (now - time) / 1000.0
            weight = 0.0 if since else 2.0 ** (-(now - time) / program.half_life_ms[f])
            for i in range(len(keys)):
                if keys[i, column] == code:
                    if since:
                        out[i, f] = seconds
                    else:
                        out[i, f] += weight


@kernel
def read_similarity(recent: Vectors, candidates: Vectors, use_max: bool, out: Floats) -> None:
    """out[candidate]: the max or mean of its dot products with recent vectors.

    `candidates` is [dimension, candidate], so that the inner loop runs over candidates and each
    product is summed in one fixed order whatever their number. No recent vector gives NaN.
    """
    count = candidates.shape[1]
    product = np.empty(count, np.float32)
    out[:] = np.nan
    for j in range(len(recent)):
        product[:] = np.float32(0.0)
        for d in range(candidates.shape[0]):
            weight = recent[j, d]
            for i in range(count):
                product[i] += candidates[d, i] * weight
        for i in range(count):
            if j == 0:
                out[i] = product[i]
            elif not use_max:
                out[i] += product[i]
            elif product[i] > out[i]:
                out[i] = product[i]
    if not use_max and len(recent) > 0:
        for i in range(count):
            out[i] /= len(recent)


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
