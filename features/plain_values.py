"""Values of somebody's own JSON records as Feast values, and their times as microseconds.

A value that does not fit the declared type is null, as it would be to a SQL engine: it must not
lose the rest of its record. Tests compare the bytes with those of the stock SDK.
"""

import base64
import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from features.codec import encode_time, varint
from features.events import TIME_MS_MAX

TIME_US_MAX: Final = TIME_MS_MAX * 1000 + 999
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_STEPS: Final = ((10**11, "s"), (10**14, "ms"), (10**17, "us"))


def microseconds(value: object, unit: str = "auto") -> int:
    """A moment as microseconds since 1970 in UTC; ValueError says what is wrong with it.

    A text is ISO 8601, in UTC where it names no zone. A number counts units since 1970; `auto`
    takes seconds, milliseconds, microseconds or nanoseconds by its size alone: the steps are at
    10¹¹, 10¹⁴ and 10¹⁷, so that every moment after March 1973 is read in the unit it was meant in.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value[:40]!r} is not an ISO 8601 time") from None
        delta = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        found = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = _from_number(value, unit)
    else:
        raise ValueError("not an ISO 8601 text nor a number")  # noqa: TRY004 - of one kind for all
    if not 0 <= found <= TIME_US_MAX:
        raise ValueError("not between 1970 and 2262")
    return found


def _from_number(value: float, unit: str) -> int:
    if not abs(value) < 1e30:  # NaN and infinities too: beyond every moment in every unit
        raise ValueError("not between 1970 and 2262")
    if unit == "auto":
        size = abs(value)
        unit = next((name for limit, name in _STEPS if size < limit), "ns")
    per_second = _PER_SECOND[unit]
    if isinstance(value, float):
        return round(value * (1_000_000 / per_second))
    return value * 1_000_000 // per_second


def encode_time_us(time_us: int) -> bytes:
    """A protobuf Timestamp of microseconds, as Feast stores a row's event time."""
    milliseconds, rest = divmod(time_us, 1000)
    if not rest:
        return encode_time(milliseconds)
    seconds, rest = divmod(time_us, 1_000_000)
    return (b"\x08" + varint(seconds) if seconds else b"") + b"\x10" + varint(rest * 1000)


def encode_json(value: object, dtype: str) -> bytes:
    """A JSON value as a Feast value of a type; null where it does not fit."""
    if value is None:
        return b""
    try:
        return ENCODERS[dtype](value)
    except (TypeError, ValueError, OverflowError, struct.error):
        return b""


def _tagged(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _whole(value: Any, bits: int) -> int:
    """The integer a JSON number is; `3.0` is one, `"3"` and `true` are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"not an integer of {bits} bits")
    return value


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise TypeError("not a number")
    return float(value)


def _defined(value: Any) -> float:
    """A number that is one: NaN is null to Feast."""
    number = _number(value)
    if math.isnan(number):
        raise ValueError("not a number")
    return number


def _truth(value: Any) -> int:
    if type(value) is not bool:
        raise TypeError("not true or false")
    return int(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("not base64")
    return base64.b64decode(value, validate=True)


def _seconds(value: Any) -> int:
    """Feast's UnixTimestamp values count whole seconds."""
    return microseconds(value) // 1_000_000


def _members(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _list_of(tag: bytes, member: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        return _tagged(tag, b"".join(_tagged(b"\x0a", member(m)) for m in _members(value)))

    return encode


def _packed(tag: bytes, member: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        content = b"".join(map(member, _members(value)))
        return _tagged(tag, _tagged(b"\x0a", content) if content else b"")

    return encode


_FLOAT, _DOUBLE = struct.Struct("<f").pack, struct.Struct("<d").pack

ENCODERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "String": lambda v: _tagged(b"\x12", _text(v)),
    "Bytes": lambda v: _tagged(b"\x0a", _bytes(v)),
    "Int32": lambda v: b"\x18" + varint(_whole(v, 32)),
    "Int64": lambda v: b"\x20" + varint(_whole(v, 64)),
    "Float32": lambda v: b"\x35" + _FLOAT(_defined(v)),
    "Float64": lambda v: b"\x29" + _DOUBLE(_defined(v)),
    "Bool": lambda v: b"\x38" + varint(_truth(v)),
    "UnixTimestamp": lambda v: b"\x40" + varint(_seconds(v)),
    "Array(String)": _list_of(b"\x62", _text),
    "Array(Bytes)": _list_of(b"\x5a", _bytes),
    "Array(Int32)": _packed(b"\x6a", lambda v: varint(_whole(v, 32))),
    "Array(Int64)": _packed(b"\x72", lambda v: varint(_whole(v, 64))),
    "Array(Float32)": _packed(b"\x82\x01", lambda v: _FLOAT(_number(v))),
    "Array(Float64)": _packed(b"\x7a", lambda v: _DOUBLE(_number(v))),
    "Array(Bool)": _packed(b"\x8a\x01", lambda v: varint(_truth(v))),
    "Array(UnixTimestamp)": _packed(b"\x92\x01", lambda v: varint(_seconds(v))),
}
"""Feast type → what makes its value of a JSON value; raises where it does not fit."""
