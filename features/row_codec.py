"""Kernels between activity state and the Feast values of a row's stored fields.

Packs are Bytes values, first and last seen Int64 values: what the stock protobuf encoder would
write. Only non-negative numbers occur.
"""

from features.compiled import kernel
from features.counts_pack import counts_room, load_counts, put_counts
from features.layout import COUNTS, FIRST, LISTS, Arrays, Ints, Layout
from features.lists_pack import lists_room, load_lists, put_lists, scan_things
from features.strings import Pieces
from features.varints import Bytes, get_varint, put_varint, varint_size

_BYTES, _INT64 = 0x0A, 0x20
_HEAD = 10
"""Bytes kept free for the tag and the size of a value while its pack is being written."""


@kernel
def encode_rows(
    layout: Layout, arrays: Arrays, pieces: Pieces, rows: Ints, first: int, out: Bytes, ends: Ints
) -> int:
    """Encode rows from `first` on into `out`; `ends` gets the end of every field of every row.

    Absent fields are empty. Returns the number of rows done; the caller gives more space for the
    rest.
    """
    fields = len(layout.field_kind)
    most = counts_room(layout) + 4 * _HEAD + 32
    at = 0
    for i in range(first, len(rows)):
        row = rows[i]
        if at + most + lists_room(layout, arrays, pieces, row) > len(out):
            return i
        for f in range(fields):
            kind = layout.field_kind[f]
            if arrays.newest[row] < 0:
                pass
            elif kind == COUNTS:
                at = _put_head(out, at, put_counts(layout, arrays, row, out, at + _HEAD))
            elif kind == LISTS:
                at = _put_head(out, at, put_lists(layout, arrays, pieces, row, out, at + _HEAD))
            else:
                time = arrays.first[row] if kind == FIRST else arrays.newest[row]
                if time >= 0:
                    out[at] = _INT64
                    at = put_varint(out, at + 1, time)
            ends[i * fields + f] = at
    return len(rows)


@kernel
def _put_head(out: Bytes, at: int, end: int) -> int:
    """Make a value of the pack written `_HEAD` bytes further on; nothing of an empty one."""
    size = end - at - _HEAD
    if size == 0:
        return at
    back = _HEAD - 1 - varint_size(size)
    out[at] = _BYTES
    put_varint(out, at + 1, size)
    for k in range(at + _HEAD, end):
        out[k - back] = out[k]
    return end - back


@kernel
def _pack_of(content: Bytes, at: int, end: int) -> int:
    """Where the pack inside a Bytes value begins; −1 when it is no such value."""
    if content[at] != _BYTES:
        return -1
    size, at = get_varint(content, at + 1, end)
    return at if at >= 0 and size == end - at else -1


@kernel
def count_things(field_kind: Ints, content: Bytes, ends: Ints, counts: Ints) -> int:
    """How many things the sequences of each row name; returns −1, or a row that is damaged."""
    fields = len(field_kind)
    for i in range(len(counts)):
        for f in range(fields):
            at, end = _field(ends, i * fields + f)
            if field_kind[f] == LISTS and at < end:
                at = _pack_of(content, at, end)
                if at < 0 or at >= end:
                    return i
                counts[i], at = get_varint(content, at + 1, end)
                if at < 0 or counts[i] > end - at:
                    return i
    return -1


@kernel
def read_things(
    field_kind: Ints,
    content: Bytes,
    ends: Ints,
    counts: Ints,
    numbers: Ints,
    starts: Ints,
    stops: Ints,
    resume: Ints,
) -> int:
    """Read the things of all rows, end to end, as `scan_things` does; `resume` gets the place after
    them in each row. Returns −1, or a row that is damaged."""
    fields, base = len(field_kind), 0
    for i in range(len(counts)):
        for f in range(fields):
            at, end = _field(ends, i * fields + f)
            if field_kind[f] == LISTS and at < end:
                part = slice(base, base + 3 * counts[i])
                at = _pack_of(content, at, end)
                _, at = scan_things(content, at, end, numbers[part], starts[part], stops[part])
                if at < 0:
                    return i
                resume[i] = at
        base += 3 * counts[i]
    return -1


@kernel
def load_rows(
    layout: Layout,
    arrays: Arrays,
    hashes: Ints,
    rows: Ints,
    updated_at: Ints,
    first: int,
    counts: Ints,
    resume: Ints,
    things: Ints,
    content: Bytes,
    ends: Ints,
) -> int:
    """Replace rows from `first` on by their stored values; `things` are codes of what was read.

    Returns where it stopped for want of blocks or arena; −1 − i when row i is damaged.
    """
    fields, base, longest = len(layout.field_kind), 0, 0
    for i in range(first):
        base += 3 * counts[i]
    for length in layout.sequence_length:
        longest += length
    for i in range(first, len(rows)):
        row = rows[i]
        if arrays.used[0] + arrays.block.shape[1] > len(arrays.total):
            return i
        if arrays.used[1] + longest > len(arrays.arena):
            return i
        clear_row(arrays, row)
        arrays.newest[row] = updated_at[i]
        named = things[base : base + 3 * counts[i]]
        for f in range(fields):
            at, end = _field(ends, i * fields + f)
            if not _load_field(layout, arrays, hashes, row, f, named, resume[i], content, at, end):
                return -1 - i
        base += 3 * counts[i]
    return len(rows)


@kernel
def _load_field(
    layout: Layout,
    arrays: Arrays,
    hashes: Ints,
    row: int,
    field: int,
    things: Ints,
    resume: int,
    content: Bytes,
    at: int,
    end: int,
) -> bool:
    """Read one stored field of a row. False: damaged."""
    kind = layout.field_kind[field]
    if at == end:
        return bool(kind != COUNTS or arrays.newest[row] < 0)  # every row of ours has its counts
    if kind == COUNTS:
        at = _pack_of(content, at, end)
        return at >= 0 and load_counts(layout, arrays, row, content, at, end)
    if kind == LISTS:
        return load_lists(layout, arrays, hashes, row, things, content, resume, end)
    if kind == FIRST:
        arrays.first[row], after = get_varint(content, at + 1, end)
        return bool(content[at] == _INT64 and after == end)
    return True


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
def _field(ends: Ints, place: int) -> tuple[int, int]:
    """Where a field's value starts and ends."""
    return (ends[place - 1] if place > 0 else 0), ends[place]
