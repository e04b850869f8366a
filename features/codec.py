"""Feast 0.67's bytes in Redis: entity keys, hash fields and values.

The layout is Feast's own (entity key serialization version 3, `feast.types.Value` protobufs);
`tests/contract/test_feast_layout.py` holds the golden bytes and compares with the stock SDK.
Only what Headrace writes itself is encoded by hand here, because building protobuf objects is
what makes the stock write path slow.
"""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import mmh3

STRING_TYPE: Final = 2
INT32_TYPE: Final = 3
INT64_TYPE: Final = 4
MARKER_FIELD: Final = b"_m"
_TYPE_AND_SIZE: Final = struct.Struct("<II")

Scalar = str | int | float | bool | bytes
FeatureValue = Scalar | Sequence[str] | Sequence[int] | Sequence[float] | None


def entity_key(join_key: str, value_type: int, entity_id: str, project: str) -> bytes:
    """The Redis key of one entity's row: serialized entity key, then the project as a suffix."""
    if value_type == STRING_TYPE:
        value = entity_id.encode()
    elif value_type == INT64_TYPE:
        value = struct.pack("<q", int(entity_id))
    elif value_type == INT32_TYPE:
        value = struct.pack("<i", int(entity_id))
    else:
        raise ValueError(
            f"{join_key}: entity value type {value_type} is not STRING, INT32 or INT64"
        )
    return entity_prefix(join_key) + _sized(value_type, value) + project.encode()


@lru_cache(maxsize=256)
def entity_prefix(join_key: str) -> bytes:
    """What the keys of all entities with this join key begin with, whatever their project."""
    return struct.pack("<I", 1) + _sized(STRING_TYPE, join_key.encode())


def entity_id(join_key: str, key: bytes, project: str) -> str | None:
    """The id inside a row's key, or None when the key is another entity's or project's."""
    prefix = entity_prefix(join_key)
    start = len(prefix) + 8
    if not key.startswith(prefix) or len(key) < start:
        return None
    value_type, size = _TYPE_AND_SIZE.unpack_from(key, start - 8)
    if key[start + size :] != project.encode():
        return None
    value = key[start : start + size]
    if value_type == STRING_TYPE:
        return value.decode()
    return str(int.from_bytes(value, "little", signed=True))


@lru_cache(maxsize=4096)
def field_name(view: str, feature: str) -> bytes:
    """The hash field of one feature: murmur3 of `view:feature`, little endian."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def updated_at_field(view: str) -> bytes:
    """The hash field that holds the newest event time folded into a view's row."""
    return b"_ts:" + view.encode()


def encode_time(milliseconds: int) -> bytes:
    """A protobuf Timestamp, as Feast stores a row's event time."""
    seconds, rest = divmod(milliseconds, 1000)
    out = b"" if seconds == 0 else b"\x08" + varint(seconds)
    return out if rest == 0 else out + b"\x10" + varint(rest * 1_000_000)


def decode_time(value: bytes) -> int:
    """Milliseconds of a protobuf Timestamp with non-negative parts."""
    seconds = nanos = at = 0
    while at < len(value):
        tag = value[at]
        number, at = _read_varint(value, at + 1)
        if tag == 0x08:
            seconds = number
        elif tag == 0x10:
            nanos = number
    return seconds * 1000 + nanos // 1_000_000


def varint(number: int) -> bytes:
    """A protobuf varint of a 64-bit integer (negative ones in ten bytes, as protobuf does)."""
    if 0 <= number < 128:
        return bytes((number,))
    if 1 << 28 <= number < 1 << 35:
        # Seconds and nanoseconds of the time in every row that is written.
        return bytes(
            (
                number & 0x7F | 0x80,
                number >> 7 & 0x7F | 0x80,
                number >> 14 & 0x7F | 0x80,
                number >> 21 & 0x7F | 0x80,
                number >> 28,
            )
        )
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_int64(number: int) -> bytes:
    """A Feast Int64 value."""
    return b"\x20" + varint(number)


def decode_int64(value: bytes) -> int:
    """The number of a non-negative Feast Int64 value."""
    return _read_varint(value, 1)[0]


def encode_value(value: FeatureValue, dtype: str) -> bytes:
    """One feature as a Feast value of a type such as `Int64` or `Array(String)`.

    None, NaN and what does not fit the type are null (empty bytes): a wrong type inside one
    attribute must not lose the rest of its event.
    """
    encode = _ENCODERS.get(dtype)
    if encode is None:
        raise ValueError(f"feature type {dtype} is not one of {', '.join(_ENCODERS)}")
    if value is None or value != value:
        return b""
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
        return b""


def decode_value(value: bytes | None) -> FeatureValue:
    """A Feast value as plain Python; null is None."""
    if not value:
        return None
    tag, at = _read_varint(value, 0)
    if tag in _FIXED:
        return cast(float, struct.unpack_from(_FIXED[tag], value, at)[0])
    if tag not in (_BYTES, _STRING, _STRING_LIST, _INT64_LIST, _FLOAT32_LIST, _FLOAT64_LIST):
        number, _ = _read_varint(value, at)
        if tag == _BOOL:
            return bool(number)
        return number - (1 << 64) if number >> 63 else number
    size, at = _read_varint(value, at)
    content = value[at : at + size]
    if tag == _BYTES:
        return content
    return content.decode() if tag == _STRING else _decode_list(tag, content)


def packed_floats(value: bytes) -> bytes:
    """The numbers of a list-of-floats value as they lie in memory, little endian.

    Raises ValueError and IndexError when it is no such value.
    """
    _, at = _read_varint(value, 0)
    size, at = _read_varint(value, at)
    if size != len(value) - at:
        raise ValueError("a list of floats is cut short")
    if size == 0:
        return b""
    size, start = _read_varint(value, at + 1)
    if value[at] != 0x0A or size != len(value) - start:
        raise ValueError("not a list of floats")
    return value[start:]


def string_piece(text: str) -> bytes:
    """One member of an Array(String) value."""
    raw = text.encode()
    return b"\x0a" + varint(len(raw)) + raw


_BYTES, _STRING, _INT32, _INT64, _BOOL = 0x0A, 0x12, 0x18, 0x20, 0x38
_FLOAT64, _FLOAT32 = 0x29, 0x35
_STRING_LIST, _INT64_LIST, _FLOAT64_LIST, _FLOAT32_LIST = 0x62, 0x72, 0x7A, 0x82
_FIXED: Final = {_FLOAT64: "<d", _FLOAT32: "<f"}


def _decode_list(tag: int, content: bytes) -> FeatureValue:
    strings: list[str] = []
    numbers: list[int] = []
    at = 0
    while at < len(content):
        size, at = _read_varint(content, at + 1)
        piece, at = content[at : at + size], at + size
        if tag == _STRING_LIST:
            strings.append(piece.decode())
        elif tag == _INT64_LIST:
            numbers.extend(_read_packed(piece))
        else:
            width, code = (4, "f") if tag == _FLOAT32_LIST else (8, "d")
            return list(struct.unpack(f"<{size // width}{code}", piece))
    return strings if tag == _STRING_LIST else numbers


def _read_packed(piece: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(piece):
        number, at = _read_varint(piece, at)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    return numbers


def _tagged(tag: int, content: bytes) -> bytes:
    return varint(tag) + varint(len(content)) + content


def _packed(tag: int, numbers: bytes) -> bytes:
    return _tagged(tag, _tagged(0x0A, numbers) if numbers else b"")


def _many(value: FeatureValue) -> Sequence[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value
    raise TypeError("not a list")


def _one(value: FeatureValue) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        raise TypeError("not a single value")
    return value


def _integer(value: Any, bits: int) -> int:
    number = int(value)
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise OverflowError(f"not an integer of {bits} bits")
    return number


def _raw(value: FeatureValue) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError("not bytes")


_ENCODERS: Final[dict[str, Callable[[FeatureValue], bytes]]] = {
    "Bytes": lambda v: _tagged(_BYTES, _raw(v)),
    "String": lambda v: _tagged(_STRING, str(_one(v)).encode()),
    "Int32": lambda v: b"\x18" + varint(_integer(_one(v), 32)),
    "Int64": lambda v: b"\x20" + varint(_integer(_one(v), 64)),
    "Float32": lambda v: b"\x35" + struct.pack("<f", float(_one(v))),
    "Float64": lambda v: b"\x29" + struct.pack("<d", float(_one(v))),
    "Bool": lambda v: b"\x38" + bytes([bool(_one(v))]),
    "Array(String)": lambda v: _tagged(_STRING_LIST, b"".join(map(string_piece, _many(v)))),
    "Array(Int64)": lambda v: _packed(
        _INT64_LIST, b"".join(varint(_integer(n, 64)) for n in _many(v))
    ),
    "Array(Float32)": lambda v: _packed(
        _FLOAT32_LIST, struct.pack(f"<{len(_many(v))}f", *_many(v))
    ),
    "Array(Float64)": lambda v: _packed(
        _FLOAT64_LIST, struct.pack(f"<{len(_many(v))}d", *_many(v))
    ),
}
VALUE_TYPES: Final = tuple(_ENCODERS)


def _sized(value_type: int, value: bytes) -> bytes:
    if value_type == STRING_TYPE and not value:
        raise ValueError("an entity id is empty")
    return _TYPE_AND_SIZE.pack(value_type, len(value)) + value


def _read_varint(value: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
