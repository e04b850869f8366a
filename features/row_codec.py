"""Kernels between activity state and the Feast values of a row's stored fields.

A ring is an Array(Int64): the oldest counted bucket's absolute index and its count, then for each
newer counted bucket the gap to it and its count. Every value written here is what the stock
protobuf encoder would write; only non-negative numbers occur.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from features.layout import ACTION, FIRST, LAST, NUMBERS, RING, TOTAL, Arrays, Ints, Layout
from features.strings import Pieces

Bytes = NDArray[np.uint8]

_INT64, _STRING_LIST, _INT64_LIST, _MEMBER = 0x20, 0x62, 0x72, 0x0A


@kernel
def encode_rows(
    layout: Layout, arrays: Arrays, pieces: Pieces, rows: Ints, first: int, out: Bytes, ends: Ints
) -> int:
    """Encode rows from `first` on into `out`; `ends` gets the end of every field of every row.

    Absent fields are empty. Returns the number of rows done; the caller gives more space for the
    rest.
    """
    fields = len(layout.field_kind)
    numbers = np.empty(2 * (1 + max_length(layout)), np.int64)
    at = 0
    for i in range(first, len(rows)):
        row = rows[i]
        for f in range(fields):
            kind, a, b = layout.field_kind[f], layout.field_a[f], layout.field_b[f]
            if kind == RING:
                count = ring_numbers(layout, arrays, row, a, b, numbers)
                at = _put_list(out, at, numbers, count)
            elif kind == TOTAL:
                block = arrays.block[row, a]
                if block >= 0 and arrays.total[block] > 0:
                    at = _put_single(out, at, arrays.total[block])
            elif kind in (FIRST, LAST):
                time = arrays.first[row] if kind == FIRST else arrays.newest[row]
                if time >= 0:
                    at = _put_single(out, at, time)
            elif kind == NUMBERS:
                count = arrays.length[row, a]
                for j in range(count):
                    numbers[j] = arrays.arena[arrays.start[row, a] + j, b]
                at = _put_list(out, at, numbers, count)
            else:
                at = _put_texts(out, at, layout, arrays, pieces, row, a, b)
            if at < 0:
                return i
            ends[i * fields + f] = at
    return len(rows)


@kernel
def ring_numbers(
    layout: Layout, arrays: Arrays, row: int, metric: int, ring: int, numbers: Ints
) -> int:
    """The stored numbers of one ring, oldest bucket first; returns how many."""
    block = arrays.block[row, metric]
    if block < 0:
        return 0
    width, buckets, start = (
        layout.ring_width[ring],
        layout.ring_buckets[ring],
        layout.ring_start[ring],
    )
    newest = arrays.newest[row] // width
    count, previous = 0, 0
    for bucket in range(max(newest - buckets + 1, 0), newest + 1):
        amount = arrays.slots[block, start + bucket % buckets]
        if amount != 0:
            numbers[count] = bucket - previous
            numbers[count + 1] = amount
            count, previous = count + 2, bucket
    return count


@kernel
def max_length(layout: Layout) -> int:
    """The longest ring or sequence of a layout."""
    longest = 1
    for buckets in layout.ring_buckets:
        longest = max(longest, buckets)
    for length in layout.sequence_length:
        longest = max(longest, length)
    return int(longest)


@kernel
def decode_numbers(content: Bytes, at: int, end: int, numbers: Ints) -> int:
    """Read an Array(Int64) value of non-negative numbers; −1 when it is not one of ours."""
    if at == end:
        return 0
    if content[at] != _INT64_LIST:
        return -1
    _, at = _get_varint(content, at + 1, end)
    if at == end:
        return 0
    if content[at] != _MEMBER:
        return -1
    size, at = _get_varint(content, at + 1, end)
    if at + size != end:
        return -1
    count = 0
    while at < end:
        if count == len(numbers):
            return -1
        numbers[count], at = _get_varint(content, at, end)
        count += 1
    return count


@kernel
def load_ring(
    layout: Layout, arrays: Arrays, row: int, metric: int, ring: int, numbers: Ints, count: int
) -> None:
    """Put the stored numbers of one ring into the row's slots."""
    block = block_of(arrays, row, metric)
    buckets, start = layout.ring_buckets[ring], layout.ring_start[ring]
    oldest_kept = arrays.newest[row] // layout.ring_width[ring] - buckets
    bucket = 0
    for j in range(0, count - 1, 2):
        bucket += numbers[j]
        if bucket > oldest_kept:
            arrays.slots[block, start + bucket % buckets] = numbers[j + 1]


@kernel
def block_of(arrays: Arrays, row: int, metric: int) -> int:
    """The block of a metric of a row, new when it has none."""
    block = arrays.block[row, metric]
    if block < 0:
        block = arrays.used[0]
        arrays.used[0] += 1
        arrays.block[row, metric] = block
    return int(block)


@kernel
def clear_row(arrays: Arrays, row: int) -> None:
    """Empty a row; its blocks and runs stay its own."""
    arrays.newest[row] = arrays.first[row] = -1
    arrays.length[row, :] = 0
    for m in range(arrays.block.shape[1]):
        block = arrays.block[row, m]
        if block >= 0:
            arrays.slots[block, :] = 0
            arrays.total[block] = 0


@kernel
def load_rows(
    layout: Layout, arrays: Arrays, rows: Ints, first: int, content: Bytes, ends: Ints
) -> int:
    """Load rings, totals and first seen of rows from `first` on; `newest` is set already.

    Returns where it stopped for want of blocks. A value that is not one of ours ends with
    −1 − (row's place).
    """
    fields = len(layout.field_kind)
    longest = 0  # a ring may have been declared longer when it was stored
    for place in range(1, len(ends)):
        longest = max(longest, ends[place] - ends[place - 1])
    numbers = np.empty(max(longest, ends[0] if len(ends) else 0), np.int64)
    for i in range(first, len(rows)):
        row = rows[i]
        if arrays.used[0] + arrays.block.shape[1] > len(arrays.total):
            return i
        for f in range(fields):
            place = i * fields + f
            at = ends[place - 1] if place > 0 else 0
            if at == ends[place]:
                continue
            kind = layout.field_kind[f]
            if kind == RING:
                count = decode_numbers(content, at, ends[place], numbers)
                if count < 0:
                    return -1 - i
                load_ring(layout, arrays, row, layout.field_a[f], layout.field_b[f], numbers, count)
            elif kind in (TOTAL, FIRST):
                if content[at] != _INT64:
                    return -1 - i
                number, _ = _get_varint(content, at + 1, ends[place])
                if kind == FIRST:
                    arrays.first[row] = number
                else:
                    arrays.total[block_of(arrays, row, layout.field_a[f])] = number
    return len(rows)


@kernel
def _get_varint(content: Bytes, at: int, end: int) -> tuple[int, int]:
    number, shift = 0, 0
    while at < end:
        byte = int(content[at])
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return number, at


@kernel
def _size(number: int) -> int:
    size = 1
    while number > 0x7F:
        number >>= 7
        size += 1
    return size


@kernel
def _put_varint(out: Bytes, at: int, number: int) -> int:
    while number > 0x7F:
        out[at] = number & 0x7F | 0x80
        number >>= 7
        at += 1
    out[at] = number
    return at + 1


@kernel
def _put_single(out: Bytes, at: int, number: int) -> int:
    if at < 0 or at + 11 > len(out):
        return -1
    out[at] = _INT64
    return _put_varint(out, at + 1, number)


@kernel
def _put_list(out: Bytes, at: int, numbers: Ints, count: int) -> int:
    if count == 0 or at < 0:
        return at
    size = 0
    for j in range(count):
        size += _size(numbers[j])
    if at + size + 22 > len(out):
        return -1
    out[at] = _INT64_LIST
    at = _put_varint(out, at + 1, size + 1 + _size(size))
    out[at] = _MEMBER
    at = _put_varint(out, at + 1, size)
    for j in range(count):
        at = _put_varint(out, at, numbers[j])
    return at


@kernel
def _put_texts(
    out: Bytes,
    at: int,
    layout: Layout,
    arrays: Arrays,
    pieces: Pieces,
    row: int,
    s: int,
    column: int,
) -> int:
    count, start = arrays.length[row, s], arrays.start[row, s]
    if count == 0 or at < 0:
        return at
    size = 0
    for j in range(count):
        code = _text_code(layout, arrays, start + j, column)
        size += 2 if code < 0 else pieces.ends[code + 1] - pieces.ends[code]
    if at + size + 11 > len(out):
        return -1
    out[at] = _STRING_LIST
    at = _put_varint(out, at + 1, size)
    for j in range(count):
        code = _text_code(layout, arrays, start + j, column)
        if code < 0:
            out[at], out[at + 1] = _MEMBER, 0
            at += 2
        else:
            for k in range(pieces.ends[code], pieces.ends[code + 1]):
                out[at] = pieces.content[k]
                at += 1
    return at


@kernel
def _text_code(layout: Layout, arrays: Arrays, entry: int, column: int) -> int:
    code = arrays.arena[entry, column]
    return int(layout.action_text[code]) if column == ACTION else int(code)
