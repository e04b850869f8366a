"""Kernels from Redis replies to columns: no Python object is made for a value.

A stored value is a `feast.types.Value` protobuf: the tag of its type, then its content. Empty
bytes, an absent field and an explicit null are missing.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

MISSING: Final = -1
"""Length of a value that is not there."""
NULL_TAG: Final = 0x98

VARINT, FIXED32, FIXED64 = range(3)
"""How the content of a value is written: what `form` means below."""


@kernel
def scan_fields(buffer: Bytes, end: int, state: Ints, places: Ints, lengths: Ints) -> int:
    """Find the values in replies to HMGET, as far as they have come.

    `state` is [position, replies done] and moves forward by whole replies; `places` and `lengths`
    [keys, fields] get where each value is. Returns 0, or 1 at a reply that is no such array.
    """
    at, key = state[0], state[1]
    keys, fields = lengths.shape
    while key < keys:
        count, at = _header(buffer, at, end, 0x2A)
        if at < 0:
            return at + 2
        if count != fields:
            return 1
        for field in range(fields):
            length, at = _header(buffer, at, end, 0x24)
            if at < 0:
                return at + 2
            places[key, field] = at
            lengths[key, field] = length
            if length >= 0:
                at += length + 2
        if at > end:
            return 0
        key += 1
        state[0], state[1] = at, key
    return 0


@kernel
def scan_rows(
    buffer: Bytes,
    end: int,
    state: Ints,
    places: Ints,
    lengths: Ints,
    codes: Ints,
    columns: Ints,
    hints: Ints,
) -> int:
    """Find the values in replies to HGETALL, as far as they have come.

    As `scan_fields`; `codes` are the asked fields' names as numbers, in order, `columns` where
    each stands in `lengths`. `hints` remembers which field came at which place of the row before:
    rows that were written alike are laid out alike.
    """
    at, key = state[0], state[1]
    keys = len(lengths)
    while key < keys:
        count, at = _header(buffer, at, end, 0x2A)
        if at < 0:
            return at + 2
        lengths[key] = -1
        for pair in range(count // 2):
            size, at = _header(buffer, at, end, 0x24)
            if at < 0 or at + size + 2 > end:
                return 1 if at == -1 else 0
            found = -1
            if size == 4:
                code = (
                    int(np.int64(buffer[at]))
                    | int(np.int64(buffer[at + 1])) << 8
                    | int(np.int64(buffer[at + 2])) << 16
                    | int(np.int64(buffer[at + 3])) << 24
                )
                place = pair % len(hints)
                found = hints[place]
                if codes[found] != code:
                    found = int(np.searchsorted(codes, code))
                    if found < len(codes) and codes[found] == code:
                        hints[place] = found
                    else:
                        found = -1
            length, at = _header(buffer, at + size + 2, end, 0x24)
            if at < 0:
                return at + 2
            if found >= 0:
                places[key, columns[found]] = at
                lengths[key, columns[found]] = length
            at += length + 2
        if at > end:
            return 0
        key += 1
        state[0], state[1] = at, key
    return 0


@kernel
def decode_scalars(
    buffer: Bytes, places: Ints, lengths: Ints, tags: Ints, forms: Ints, out: Ints
) -> int:
    """The content of scalar values as 64 bits each, missing ones 0 and of length -1 from here on.

    `places` and `lengths` [keys, columns]; `out` [columns, keys]. Returns -1, or the place
    (key · columns + column) of a value of another type.
    """
    count = len(tags)
    for key in range(len(lengths)):
        for column in range(count):
            at, end = places[key, column], places[key, column] + lengths[key, column]
            out[column, key] = 0
            if lengths[key, column] <= 0:
                lengths[key, column] = -1
                continue
            tag, at = _varint(buffer, at, end)
            if tag == NULL_TAG:
                lengths[key, column] = -1
                continue
            if tag != tags[column] or at < 0:
                return key * count + column
            if forms[column] == VARINT:
                number, at = _varint(buffer, at, end)
            else:
                number, size = 0, 8 if forms[column] == FIXED64 else 4
                if at + size == end:
                    for i in range(size):
                        number |= int(np.int64(buffer[at + i])) << (8 * i)
                at += size
            if at != end:
                return key * count + column
            out[column, key] = number
    return -1


@kernel
def open_sized(buffer: Bytes, places: Ints, lengths: Ints, tag: int, packed: bool) -> int:
    """Narrow the values of a column of strings or lists to their content, in place.

    `places` and `lengths` [keys]. The content of a packed list is its numbers' bytes. Returns -1,
    or the place of a value of another type.
    """
    for key in range(len(lengths)):
        if lengths[key] <= 0:
            lengths[key] = -1
            continue
        end = places[key] + lengths[key]
        found, at = _varint(buffer, places[key], end)
        if found == NULL_TAG:
            lengths[key] = -1
            continue
        if found != tag or at < 0:
            return key
        size, at = _varint(buffer, at, end)
        if at < 0 or at + size != end:
            return key
        if packed and size > 0:
            if buffer[at] != 0x0A:
                return key
            size, at = _varint(buffer, at + 1, end)
            if at < 0 or at + size != end:
                return key
        places[key], lengths[key] = at, size
    return -1


@kernel
def count_varints(buffer: Bytes, places: Ints, lengths: Ints, out: Ints) -> None:
    """How many numbers each packed list of varints has."""
    for key in range(len(lengths)):
        out[key] = 0
        for at in range(places[key], places[key] + lengths[key]):
            out[key] += buffer[at] < 0x80


@kernel
def decode_fixed_lists(buffer: Bytes, places: Ints, lengths: Ints, out: Bytes) -> None:
    """Packed lists of numbers of a fixed size: their bytes, to the front of the rows of `out`."""
    for key in range(len(lengths)):
        if lengths[key] > 0:
            out[key, : lengths[key]] = buffer[places[key] : places[key] + lengths[key]]


@kernel
def decode_varint_lists(buffer: Bytes, places: Ints, lengths: Ints, out: Ints) -> int:
    """Packed lists of varints, to the front of the rows of `out`; -1, or the place of a bad one."""
    for key in range(len(lengths)):
        at, end, member = places[key], places[key] + lengths[key], 0
        while at < end:
            number, at = _varint(buffer, at, end)
            if at < 0:
                return key
            out[key, member] = number
            member += 1
    return -1


@kernel
def number_texts(buffer: Bytes, places: Ints, lengths: Ints, codes: Ints, firsts: Ints) -> int:
    """Number equal texts alike, from 0 in order of appearance; missing ones are -1.

    `firsts` gets, for each number, the first key that has the text. Returns how many there are.
    """
    room = 16
    while room < 2 * len(lengths):
        room *= 2
    table = np.full(room, -1, np.int64)
    count = 0
    for key in range(len(lengths)):
        codes[key] = -1
        if lengths[key] < 0:
            continue
        start, size = places[key], lengths[key]
        slot = np.uint64(14_695_981_039_346_656_037)
        for at in range(start, start + size):
            slot = (slot ^ np.uint64(buffer[at])) * np.uint64(1_099_511_628_211)
        place = int(np.int64(slot >> np.uint64(20))) & (room - 1)
        while table[place] >= 0:
            other = firsts[table[place]]
            if lengths[other] == size and np.array_equal(
                buffer[places[other] : places[other] + size], buffer[start : start + size]
            ):
                break
            place = (place + 1) & (room - 1)
        if table[place] < 0:
            table[place] = count
            firsts[count] = key
            count += 1
        codes[key] = table[place]
    return count


@kernel
def _header(buffer: Bytes, at: int, end: int, kind: int) -> tuple[int, int]:
    """The number after a reply's type, and where its content starts.

    The place is -2 when the reply has not come whole, -1 when it is of another type.
    """
    if at >= end:
        return 0, -2
    if buffer[at] != kind:
        return 0, -1
    number, sign, i = 0, 1, at + 1
    while i < end and buffer[i] != 0x0D:
        if buffer[i] == 0x2D:
            sign = -1
        else:
            number = number * 10 + int(np.int64(buffer[i])) - 0x30
        i += 1
    if i + 1 >= end:
        return 0, -2
    return sign * number, i + 2


@kernel
def _varint(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """A varint and where it ends, which is -1 when it does not end before `end`."""
    number, shift = 0, 0
    while at < end and shift < 70:
        byte = int(np.int64(buffer[at]))
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    return number, -1
