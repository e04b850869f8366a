"""Numbers whose sums do not depend on the order in which they are added.

A double is an integer times a power of two, so a sum of doubles is one too: it is kept as
`total · 2^−scale` with a Python integer of any size, and rounded once, when it is read.
"""

import math
import struct
from typing import Final

from features.codec import varint

_INT64: Final = struct.Struct("<q")
_FLOAT64: Final = struct.Struct("<d")
_ABOVE_INT64: Final = 2.0**63


def canonical(value: object) -> int | float | None:
    """The one form of a JSON number: an int where it is whole and of 64 bits, else a float.

    None for what is no finite number.
    """
    if type(value) is int:
        if -(2**63) <= value < 2**63:
            return value
        try:
            value = float(value)
        except OverflowError:
            return None
    if type(value) is not float or not math.isfinite(value):
        return None
    whole = value.is_integer() and -_ABOVE_INT64 <= value < _ABOVE_INT64
    return int(value) if whole else value


def pack_number(number: float) -> bytes:
    """A canonical number in nine bytes."""
    return b"i" + _INT64.pack(number) if type(number) is int else b"f" + _FLOAT64.pack(number)


def unpack_number(content: bytes, at: int = 0) -> int | float:
    """The canonical number in nine bytes."""
    kind = _INT64 if content[at] == 0x69 else _FLOAT64
    number: int | float = kind.unpack_from(content, at + 1)[0]
    return number


def scaled(number: float) -> tuple[int, int]:
    """(total, scale) of a canonical number: it is total · 2^−scale, exactly."""
    if type(number) is int:
        return number, 0
    total, divisor = number.as_integer_ratio()
    return total, divisor.bit_length() - 1


def add(total: int, scale: int, more: int, more_scale: int) -> tuple[int, int]:
    """The exact sum of two scaled numbers."""
    if scale == more_scale:
        return total + more, scale
    if scale > more_scale:
        return total + (more << scale - more_scale), scale
    return (total << more_scale - scale) + more, more_scale


def pack_sum(total: int, scale: int) -> bytes:
    """The shortest form of a scaled number, which is the same for equal ones."""
    spare = min(scale, (total & -total).bit_length() - 1) if total else scale
    total, scale = total >> spare, scale - spare
    content = total.to_bytes(total.bit_length() // 8 + 1, "little", signed=True)
    return varint(scale) + varint(len(content)) + content


def quotient(total: int, scale: int, count: int = 1) -> int | float | None:
    """total · 2^−scale / count: as it is when that is whole, else the nearest double.

    None where no double is that large.
    """
    divisor = count << scale
    whole, rest = divmod(total, divisor)
    if not rest:
        return whole
    try:
        return total / divisor
    except OverflowError:
        return None
