"""Kernels for the numbers inside packs: varints and runs of bits, every read held to its bounds.

A varint is seven bits a byte, lowest first, of a number below 2**63. A run of bits fills bytes
from their lowest bit and begins at a whole byte.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel

Bytes = NDArray[np.uint8]


@kernel
def get_varint(content: Bytes, at: int, end: int) -> tuple[int, int]:
    """A number and the place after it; place −1 when there is none, or `at` was −1 already."""
    number, shift = 0, 0
    while 0 <= at < end and shift < 63:
        byte = int(content[at])
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    return 0, -1


@kernel
def varint_size(number: int) -> int:
    """Bytes of a varint."""
    size = 1
    while number > 0x7F:
        number >>= 7
        size += 1
    return size


@kernel
def put_varint(out: Bytes, at: int, number: int) -> int:
    """Write a varint; returns the place after it."""
    while number > 0x7F:
        out[at] = number & 0x7F | 0x80
        number >>= 7
        at += 1
    out[at] = number
    return at + 1


@kernel
def get_id(content: Bytes, at: int, end: int) -> tuple[int, int]:
    """A stable id (three bytes, lowest first) and the place after it; −1 like `get_varint`."""
    if at < 0 or at + 3 > end:
        return 0, -1
    number = int(content[at]) | int(content[at + 1]) << 8 | int(content[at + 2]) << 16
    return number, at + 3


@kernel
def put_id(out: Bytes, at: int, number: int) -> int:
    """Write a stable id; returns the place after it."""
    for k in range(3):
        out[at + k] = number >> 8 * k & 0xFF
    return at + 3


@kernel
def bits_for(number: int) -> int:
    """How many bits hold every number from 0 to this one."""
    bits = 0
    while number > 0:
        number >>= 1
        bits += 1
    return bits


@kernel
def run_end(at: int, end: int, count: int, width: int) -> int:
    """The place after a run of `count` numbers of `width` bits; −1 when that is past `end`."""
    stop = at + (count * width + 7) // 8
    return stop if at >= 0 and stop <= end else -1


@kernel
def get_bits(content: Bytes, bit: int, width: int) -> int:
    """`width` bits (62 at most) from a place in bits. The caller has checked the run's end."""
    number, have = 0, 0
    while have < width:
        inside = bit & 7
        take = min(8 - inside, width - have)
        part = int(content[bit >> 3]) >> inside & (1 << take) - 1
        number |= part << have
        bit, have = bit + take, have + take
    return number


@kernel
def put_bits(out: Bytes, bit: int, number: int, width: int) -> int:
    """Write `width` bits over zeros; returns the place after them, in bits."""
    while width > 0:
        inside = bit & 7
        take = min(8 - inside, width)
        out[bit >> 3] |= (number & (1 << take) - 1) << inside
        number >>= take
        bit, width = bit + take, width - take
    return bit


@kernel
def open_run(out: Bytes, at: int, bits: int) -> int:
    """Zero the bytes of a run of so many bits; returns the place after it."""
    stop = at + (bits + 7) // 8
    for k in range(at, stop):
        out[k] = 0
    return stop
