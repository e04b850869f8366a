"""One feature's column of a Feast response, put together from stored bytes.

A `GetOnlineFeaturesResponse.FeatureVector` is its values (field 1, messages), its statuses (field
2, packed enums) and its event times (field 3, messages). Stored values are such messages already,
so that a column is a concatenation, and protobuf parses it at once.
"""

from collections.abc import Sequence
from typing import Final

from features.codec import varint

_PRESENT: Final = b"\x01"
_VALUE, _STATUSES, _TIME = b"\x0a", b"\x12", b"\x1a"
_SHORT: Final = {tag: [tag + bytes([size]) for size in range(128)] for tag in (_VALUE, _TIME)}


def values(stored: Sequence[bytes | None], places: Sequence[int]) -> bytes:
    """The values of a column: of each row, the stored value at its place; none is null."""
    return _column(_VALUE, stored, places)


def event_times(stored: Sequence[bytes], places: Sequence[int]) -> bytes:
    """The event times of a column: of each row, the protobuf Timestamp at its place."""
    return _column(_TIME, stored, places)


def statuses(rows: int) -> bytes:
    """The statuses of a column: Feast's Redis store calls every value present, null or not."""
    return _STATUSES + varint(rows) + _PRESENT * rows if rows else b""


def _column(tag: bytes, stored: Sequence[bytes | None], places: Sequence[int]) -> bytes:
    short = _SHORT[tag]
    pieces = [
        short[0]
        if not value
        else short[len(value)] + value
        if len(value) < 128
        else tag + varint(len(value)) + value
        for value in stored
    ]
    return b"".join([pieces[place] for place in places])
