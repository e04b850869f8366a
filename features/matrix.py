"""The matrix reader: stored features of many entities as numpy columns, in one round trip.

    with MatrixReader("redis://localhost:6379/0", "proj", columns) as reader:
        found = reader.read({"user_id": ["u7"] * 500, "item_id": items})
        found["price"]  # float64[500], NaN where nothing is stored

It reads what any Feast client wrote: the rows of all views over an entity are one Redis hash, read
by one command an entity and decoded by kernels over the bytes that came. A Feast repository's
`columns` are made by `features.online_store.matrix_columns`.
"""

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from features.codec import INT32_TYPE, INT64_TYPE, STRING_TYPE, field_name
from features.errors import BadInput, Refused
from features.matrix_column import Column, JoinKey
from features.redis_wire import Fetch, Wire
from features.row_keys import prefix_of
from features.value_kernels import (
    FIXED32,
    FIXED64,
    VARINT,
    Bytes,
    Ints,
    count_varints,
    decode_fixed_lists,
    decode_scalars,
    decode_varint_lists,
    number_texts,
    open_sized,
)

Bools = NDArray[np.bool_]
Ids = Sequence[str] | Sequence[int] | NDArray[Any]

_INTEGERS: Final = {INT32_TYPE: struct.Struct("<i"), INT64_TYPE: struct.Struct("<q")}


class _Type(NamedTuple):
    """How a type is stored: its tag, the form of its content (lists: of their members)."""

    tag: int
    form: int
    numpy: Any
    missing: Any


_SCALARS: Final = {
    "Int32": _Type(0x18, VARINT, np.int32, 0),
    "Int64": _Type(0x20, VARINT, np.int64, 0),
    "Float64": _Type(0x29, FIXED64, np.float64, np.nan),
    "Float32": _Type(0x35, FIXED32, np.float32, np.nan),
    "Bool": _Type(0x38, VARINT, np.bool_, False),
    "UnixTimestamp": _Type(0x40, VARINT, np.dtype("datetime64[s]"), np.datetime64("NaT")),
}
_TEXTS: Final = {"Bytes": 0x0A, "String": 0x12}
_LISTS: Final = {
    "Array(Int32)": _Type(0x6A, VARINT, np.int32, 0),
    "Array(Int64)": _Type(0x72, VARINT, np.int64, 0),
    "Array(Float64)": _Type(0x7A, FIXED64, np.float64, np.nan),
    "Array(Float32)": _Type(0x82, FIXED32, np.float32, np.nan),
}
MATRIX_TYPES: Final = (*_SCALARS, *_TEXTS, *_LISTS)


class Columns(Mapping[str, NDArray[Any]]):
    """What was read: for each column an array with a row for each id that was asked.

    - `Float32`, `Float64`: floats, NaN where missing. `Int32`, `Int64`, `Bool`: 0 or False there.
      `UnixTimestamp`: datetime64[s], NaT there. `String`, `Bytes`: objects, None there.
    - Lists of numbers: [rows, the longest list's length], padded with NaN or 0.
    """

    def __init__(self, columns: Mapping[str, "_Decoded"], rows: int) -> None:
        self._columns = columns
        self.rows = rows

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name].values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def missing(self, name: str) -> Bools:
        """Which rows [rows] have no value in a column."""
        return self._columns[name].lengths() < 0

    def lengths(self, name: str) -> Ints:
        """How many members each list of a column has [rows]; -1 where missing."""
        return self._columns[name].lengths()

    def codes(self, name: str) -> tuple[Ints, tuple[Any, ...]]:
        """A column of strings as numbers [rows] into its distinct values; -1 where missing."""
        column = self._columns[name]
        if column.vocabulary is None:
            raise BadInput(f"column {name!r} holds no strings, so it has no codes")
        return column.stored[column.places], column.vocabulary

    def matrix(self, names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Columns of single numbers as one float64 matrix [rows, columns], NaN where missing."""
        chosen = list(self._columns) if names is None else list(names)
        out = np.empty((self.rows, len(chosen)))
        for place, name in enumerate(chosen):
            column = self._columns[name]
            if column.vocabulary is not None or column.stored.ndim != 1:
                raise BadInput(f"column {name!r} holds no single numbers: leave it out of `names`")
            stored = column.stored.astype(np.float64)
            stored[column.sizes < 0] = np.nan
            out[:, place] = stored[column.places]
        return out


@dataclass(frozen=True, slots=True)
class _Decoded:
    """One column: values and lengths (-1: missing) of each entity, and each row's entity."""

    stored: NDArray[Any]
    sizes: Ints
    places: Ints
    vocabulary: tuple[Any, ...] | None = None

    def values(self) -> NDArray[Any]:
        if self.vocabulary is None:
            values: NDArray[Any] = self.stored[self.places]
            return values
        texts: NDArray[Any] = np.empty(len(self.vocabulary) + 1, object)
        texts[:-1] = self.vocabulary
        found: NDArray[Any] = texts[self.stored[self.places]]
        return found

    def lengths(self) -> Ints:
        return self.sizes[self.places]


class _Group:
    """The columns over one entity: what is asked of each of its hashes."""

    def __init__(self, keys: tuple[JoinKey, ...], columns: Sequence[Column], project: str) -> None:
        order = [*_SCALARS, *_TEXTS, *_LISTS]
        self.keys = tuple(sorted(keys, key=lambda key: key.name))
        self.columns = sorted(columns, key=lambda column: order.index(column.dtype))
        self.fields = [field_name(column.view, column.feature) for column in self.columns]
        if len(set(self.fields)) < len(self.fields):
            raise Refused(
                f"two of the columns {', '.join(c.name for c in self.columns)} are one stored field"
            )
        self.scalars = [_SCALARS[c.dtype] for c in self.columns if c.dtype in _SCALARS]
        self.tags = np.array([kind.tag for kind in self.scalars], np.int64)
        self.forms = np.array([kind.form for kind in self.scalars], np.int64)
        self._prefix = prefix_of([key.name for key in self.keys])
        self._project = project.encode()

    def hashes(self, ids: Mapping[str, Ids]) -> tuple[list[bytes], Ints]:
        """The distinct Redis keys of the asked ids, and which of them each row is about."""
        lists = [_listed(ids[key.asked]) for key in self.keys]
        asked = lists[0] if len(lists) == 1 else list(zip(*lists, strict=True))
        known: dict[Any, int] = {}
        places = [known.setdefault(one, len(known)) for one in asked]
        distinct = list(known)
        parts = [
            [one[i] for one in distinct] if len(lists) > 1 else distinct for i in range(len(lists))
        ]
        values = [_encoded(key, part) for key, part in zip(self.keys, parts, strict=True)]
        joined = values[0] if len(values) == 1 else map(b"".join, zip(*values, strict=True))
        prefix, project = self._prefix, self._project
        return [prefix + value + project for value in joined], np.array(places, np.int64)

    def decoded(
        self, buffer: Bytes, places: Ints, lengths: Ints, rows: Ints, keys: Sequence[bytes]
    ) -> Iterator[tuple[str, _Decoded]]:
        """Each column, from where its values are in the buffer [keys, columns]."""
        count = len(self.scalars)
        at, sizes = (np.ascontiguousarray(a[:, :count]) for a in (places, lengths))
        bits = np.empty((count, len(keys)), np.int64)
        bad = decode_scalars(buffer, at, sizes, self.tags, self.forms, bits)
        if bad >= 0:
            raise self._mistyped(self.columns[bad % count], keys[bad // count])
        for place, column in enumerate(self.columns):
            if place < count:
                kind, size = self.scalars[place], sizes[:, place]
                yield column.name, _Decoded(_scalar(kind, bits[place], size), size, rows)
                continue
            at_one, size = places[:, place].copy(), lengths[:, place].copy()
            listed = _LISTS.get(column.dtype)
            tag = listed.tag if listed else _TEXTS[column.dtype]
            bad = open_sized(buffer, at_one, size, tag, listed is not None)
            if bad >= 0:
                raise self._mistyped(column, keys[bad])
            if listed is None:
                yield column.name, _text(buffer, at_one, size, rows, column.dtype == "String")
            else:
                try:
                    yield column.name, _list(listed, buffer, at_one, size, rows)
                except IndexError as error:
                    raise self._mistyped(column, keys[int(str(error))]) from None

    def _mistyped(self, column: Column, key: bytes) -> BadInput:
        return BadInput(
            f"field {column.view}:{column.feature} of the row {key!r} holds bytes that are no "
            f"{column.dtype}: the view's type was changed after the row was written, or they are "
            "another field's. Materialize the view again, or read it with its stored type"
        )


class MatrixReader:
    """Reads columns of one project from one Redis; safe to share, one read at a time.

    `fetch` says what is asked of a hash: its `fields` one by one, the `whole` hash, or, by
    default, what is quicker for hashes like the first that are met.

    Raises Refused for columns that cannot be read so, with the column's name.
    """

    def __init__(
        self,
        url: str,
        project: str,
        columns: Sequence[Column],
        *,
        timeout_s: float = 5.0,
        fetch: Fetch = "auto",
    ) -> None:
        _check(columns)
        self._columns = tuple(columns)
        by_entity: dict[tuple[JoinKey, ...], list[Column]] = {}
        for column in columns:
            by_entity.setdefault(column.keys, []).append(column)
        self._groups = [_Group(keys, part, project) for keys, part in by_entity.items()]
        self._wire = Wire(url, [group.fields for group in self._groups], timeout_s, fetch)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._wire.close()

    def read(self, ids: Mapping[str, Ids]) -> Columns:
        """The columns of entities, given as one list of ids for each join key, all as long.

        Raises BadInput for missing or wrong ids and for stored bytes of another type, Unavailable
        when Redis does not answer.
        """
        rows = self._rows(ids)
        asked = [group.hashes(ids) for group in self._groups]
        found: dict[str, _Decoded] = {}
        with self._lock:
            answers = self._wire.read([keys for keys, _ in asked])
            for group, (keys, places), (at, lengths) in zip(
                self._groups, asked, answers, strict=True
            ):
                found.update(group.decoded(self._wire.buffer, at, lengths, places, keys))
        return Columns({column.name: found[column.name] for column in self._columns}, rows)

    def _rows(self, ids: Mapping[str, Ids]) -> int:
        wanted = dict.fromkeys(key.asked for group in self._groups for key in group.keys)
        absent = [name for name in wanted if name not in ids]
        if absent:
            raise BadInput(f"ids are missing for {', '.join(absent)}; given: {', '.join(ids)}")
        counts = {name: len(ids[name]) for name in wanted}
        if len(set(counts.values())) > 1:
            raise BadInput(f"join keys have different numbers of ids: {counts}")
        return next(iter(counts.values()), 0)


def _check(columns: Sequence[Column]) -> None:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise Refused(f"columns have one name: {', '.join(twice)}; ask for full feature names")
    for column in columns:
        if column.dtype not in MATRIX_TYPES:
            raise Refused(
                f"column {column.name!r} has type {column.dtype}, which is no column of numbers "
                f"or strings ({', '.join(MATRIX_TYPES)}): read it through get_online_features"
            )
        for key in column.keys:
            if key.value_type not in (STRING_TYPE, *_INTEGERS):
                raise Refused(
                    f"column {column.name!r}: join key {key.name!r} is not STRING, INT32 or INT64"
                )


def _listed(ids: Ids) -> list[Any]:
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _encoded(key: JoinKey, ids: Sequence[Any]) -> list[bytes]:
    """Ids as they stand in Redis keys: type, length, bytes."""
    head = struct.pack("<I", key.value_type)
    integer = _INTEGERS.get(key.value_type)
    try:
        if integer is None:
            texts = [one.encode() for one in ids]
            return [head + len(text).to_bytes(4, "little") + text for text in texts]
        head += struct.pack("<I", integer.size)
        return [head + integer.pack(one) for one in ids]
    except (AttributeError, struct.error) as error:
        kind = "strings" if integer is None else f"integers of {integer.size * 8} bits"
        raise BadInput(f"ids of {key.asked!r} must be {kind}") from error


def _scalar(kind: _Type, bits: Ints, sizes: Ints) -> NDArray[Any]:
    if kind.form == FIXED32:
        values: NDArray[Any] = bits.astype(np.uint32).view(kind.numpy)
    elif kind.form == FIXED64 or kind.numpy == np.dtype("datetime64[s]"):
        values = bits.copy().view(kind.numpy)
    else:
        values = bits.astype(kind.numpy)
    values[sizes < 0] = kind.missing
    return values


def _text(buffer: Bytes, places: Ints, sizes: Ints, rows: Ints, text: bool) -> _Decoded:
    codes, firsts = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64)
    count = number_texts(buffer, places, sizes, codes, firsts)
    raw = (
        buffer[places[first] : places[first] + sizes[first]].tobytes() for first in firsts[:count]
    )
    return _Decoded(codes, sizes, rows, tuple(one.decode() if text else one for one in raw))


def _list(kind: _Type, buffer: Bytes, places: Ints, sizes: Ints, rows: Ints) -> _Decoded:
    """A column of lists; IndexError with the place of a list that is broken."""
    width = np.dtype(kind.numpy).itemsize
    lengths = np.where(sizes < 0, sizes, sizes // width)
    if kind.form != VARINT:
        for broken in np.flatnonzero((sizes > 0) & (sizes % width != 0))[:1]:
            raise IndexError(int(broken))
        out = np.full((len(sizes), max(0, int(lengths.max(initial=0)))), kind.missing, kind.numpy)
        if out.size:
            decode_fixed_lists(buffer, places, sizes, out.view(np.uint8))
        return _Decoded(out, lengths, rows)
    counts = np.empty(len(sizes), np.int64)
    count_varints(buffer, places, sizes, counts)
    numbers = np.zeros((len(sizes), int(counts.max(initial=0))), np.int64)
    broken = decode_varint_lists(buffer, places, sizes, numbers)
    if broken >= 0:
        raise IndexError(broken)
    return _Decoded(numbers.astype(kind.numpy), np.where(sizes < 0, sizes, counts), rows)
