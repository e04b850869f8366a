"""Kernels of the pack of a row's counters: rings and totals of all metrics in one value.

    format, newest time, number of widths that hold anything, each width, number of metrics, then
    for each metric: its id, its total, and for each width: number of counted buckets, then from the
    newest one back 4 × the gap to the one before (first: to the row's newest bucket) +
    min(amount, 4) − 1, which is followed by amount − 4 where that is not negative

All are varints but the format (a byte) and ids (`layout.stable_id`). A metric that counted nothing
is left out, and so is a bucket. Ids and widths say what is what, so that a row is read by whatever
plan comes later: what it does not know is passed over, what it adds is empty.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from features.fold import SUM_MAX
from features.layout import UNITS_MS, Arrays, Ints, Layout
from features.varints import Bytes, get_id, get_varint, put_id, put_varint

FORMAT = 1
WIDTHS_MAX = 64


@kernel
def counts_room(layout: Layout) -> int:
    """Bytes that no pack of counters exceeds."""
    per_metric = 12
    for buckets in layout.ring_buckets:
        per_metric += 9 + 12 * buckets
    return int(32 + 9 * len(layout.stored_width) + per_metric * len(layout.metric_id))


@kernel
def put_counts(layout: Layout, arrays: Arrays, row: int, out: Bytes, at: int) -> int:
    """Write a row's counters; returns the place after them."""
    present = np.zeros(len(layout.metric_id), np.bool_)
    used = np.zeros(len(layout.stored_width), np.bool_)
    for metric in range(len(layout.metric_id)):
        block = arrays.block[row, metric]
        if block >= 0:
            rings, slots = layout.stored_ring[metric], arrays.slots[block]
            present[metric] = layout.keeps_total[metric] and arrays.total[block] > 0
            if _mark_used(rings, layout.ring_start, slots, used):
                present[metric] = True
    out[at] = FORMAT
    at = put_varint(out, at + 1, arrays.newest[row])
    at = put_varint(out, at, used.sum())
    for w in range(len(used)):
        if used[w]:
            at = put_varint(out, at, layout.stored_width[w])
    at = put_varint(out, at, present.sum())
    for metric in range(len(layout.metric_id)):
        if present[metric]:
            block = arrays.block[row, metric]
            at = put_id(out, at, layout.metric_id[metric])
            at = put_varint(out, at, arrays.total[block] if layout.keeps_total[metric] else 0)
            for w in range(len(used)):
                if not used[w]:
                    continue
                ring = layout.stored_ring[metric, w]
                if ring < 0:
                    at = put_varint(out, at, 0)
                else:
                    first, stop = layout.ring_start[ring], layout.ring_start[ring + 1]
                    newest = arrays.newest[row] // layout.ring_width[ring]
                    at = _put_ring(arrays.slots[block, first:stop], newest, out, at)
    return at


@kernel
def _mark_used(rings: Ints, ring_start: Ints, slots: Ints, used: NDArray[np.bool_]) -> bool:
    """Mark the widths at which a metric counted anything; whether there is any."""
    found = False
    for w in range(len(rings)):
        ring = rings[w]
        if ring >= 0:
            for slot in range(ring_start[ring], ring_start[ring + 1]):
                if slots[slot] > 0:
                    used[w] = found = True
                    break
    return found


@kernel
def _put_ring(slots: Ints, newest: int, out: Bytes, at: int) -> int:
    """Write one ring, newest bucket first."""
    left = 0
    for amount in slots:
        left += amount > 0
    at = put_varint(out, at, left)
    slot, gap = newest % len(slots), 0
    while left > 0:
        amount = slots[slot]
        if amount > 0:
            at = put_varint(out, at, 4 * gap + min(amount, 4) - 1)
            if amount >= 4:
                at = put_varint(out, at, amount - 4)
            left, gap = left - 1, 0
        slot, gap = slot - 1 if slot > 0 else len(slots) - 1, gap + 1
    return at


@kernel
def load_counts(
    layout: Layout, arrays: Arrays, row: int, content: Bytes, at: int, end: int
) -> bool:
    """Read a row's counters into its blocks; its `newest` is set already. False: damaged."""
    if at >= end or content[at] != FORMAT:
        return False
    newest, at = get_varint(content, at + 1, end)
    width_ms, stored = np.zeros(WIDTHS_MAX, np.int64), np.zeros(WIDTHS_MAX, np.int64)
    widths, at = get_widths(layout, content, at, end, width_ms, stored)
    if at < 0 or newest != arrays.newest[row]:
        return False
    metrics, at = get_varint(content, at, end)
    for _ in range(metrics):
        metric_id, at = get_id(content, at, end)
        total, at = get_varint(content, at, end)
        metric = metric_of(layout, metric_id)
        if at < 0:
            return False
        if metric >= 0 and layout.keeps_total[metric]:
            arrays.total[block_of(arrays, row, metric)] = min(total, SUM_MAX)
        for w in range(widths):
            ring = -1
            if metric >= 0 and stored[w] >= 0:
                ring = layout.stored_ring[metric, stored[w]]
            at = _load_ring(layout, arrays, row, metric, ring, width_ms[w], content, at, end)
        if at < 0:
            return False
    return bool(at == end)


@kernel
def get_widths(
    layout: Layout, content: Bytes, at: int, end: int, width_ms: Ints, stored: Ints
) -> tuple[int, int]:
    """Read the widths of a pack and the places they have in `stored_width`, −1 for none."""
    widths, at = get_varint(content, at, end)
    if at < 0 or widths > WIDTHS_MAX:
        return 0, -1
    for w in range(widths):
        code, at = get_varint(content, at, end)
        if at < 0 or code < 4 or code >= 1 << 40:
            return 0, -1
        width_ms[w], stored[w] = (code >> 2) * UNITS_MS[code & 3], -1
        for place in range(len(layout.stored_width)):
            if layout.stored_width[place] == code:
                stored[w] = place
    return widths, at


@kernel
def metric_of(layout: Layout, metric_id: int) -> int:
    """The place of a metric by its stable id, −1 when the layout has none of it."""
    metric = -1
    for m in range(len(layout.metric_id)):
        if layout.metric_id[m] == metric_id:
            metric = m
    return metric


@kernel
def _load_ring(
    layout: Layout,
    arrays: Arrays,
    row: int,
    metric: int,
    ring: int,
    width_ms: int,
    content: Bytes,
    at: int,
    end: int,
) -> int:
    """Read one ring of a metric, or pass over it (ring −1); −1 when it is damaged."""
    count, at = get_varint(content, at, end)
    bucket = arrays.newest[row] // width_ms
    for _ in range(count):
        code, at = get_varint(content, at, end)
        amount, bucket = (code & 3) + 1, bucket - (code >> 2)
        if amount == 4:
            more, at = get_varint(content, at, end)
            amount = min(more, SUM_MAX - 4) + 4
        if at < 0 or bucket < 0:
            return -1
        if ring >= 0:
            buckets = layout.ring_buckets[ring]
            if bucket > arrays.newest[row] // width_ms - buckets:
                slot = layout.ring_start[ring] + bucket % buckets
                arrays.slots[block_of(arrays, row, metric), slot] = amount
    return at


@kernel
def block_of(arrays: Arrays, row: int, metric: int) -> int:
    """The block of a metric of a row, new when it has none."""
    block = arrays.block[row, metric]
    if block < 0:
        block = arrays.used[0]
        arrays.used[0] += 1
        arrays.block[row, metric] = block
    return int(block)
