"""Newest-value state: the newest event about an entity by (time, event), as Feast values."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import mmh3
import numpy as np
from numpy.typing import NDArray

from features.codec import decode_int64, decode_value, encode_int64, packed_floats
from features.layout import NEVER, Ints
from features.spec import LatestField, LatestView
from features.strings import NONE, Strings
from features.tables import Folding, StoredRow
from features.updates import Columns, Payload

TEXT: Final = ("String", "Array(String)")
TEXTS_MAX: Final = 100_000
HALF_MAX: Final = 65504.0
"""The largest number of half precision; larger ones are held as it."""


NO_NUMBER: Final = np.zeros(0)
NO_CODE: Final = np.zeros(0, np.int64)
NO_VECTOR: Final = np.zeros((0, 0), np.float32)
"""Of fields of another type: all columns share them."""


class Column(NamedTuple):
    """One field of all rows, decoded; which arrays are filled depends on its type."""

    number: NDArray[np.float64]
    """Numeric fields; NaN is null."""
    code: Ints
    """Text fields (first member of a list): code among the process's strings."""
    hash: Ints
    """Text fields: murmur3 of the text, −1 is null; the same in every process."""
    vector: NDArray[np.float32] | NDArray[np.float16]
    """[row, dimension] of list-of-float fields, in the field's precision; zeros are null."""
    size: Ints = NO_CODE
    """How many numbers the vector of each row has, the rest being zeros; empty while all that are
    there have as many."""

    def of_size(self, rows: Ints, size: int) -> NDArray[np.bool_]:
        """[row]: whether its vector, if there is one, has so many numbers."""
        if len(self.size):
            return np.asarray(self.size[rows] == size)
        return np.full(len(rows), self.vector.shape[1] == size)

    def vector_of(self, row: int) -> NDArray[np.float32]:
        """The vector of a row in single precision; of no numbers when there is none."""
        if row < 0:
            return np.zeros(0, np.float32)
        size = int(self.size[row]) if len(self.size) else self.vector.shape[1]
        found = self.vector[row, :size].astype(np.float32)
        return found if found.any() else found[:0]


class LatestTable:
    """Rows of one newest-value view, decoded into columns when they are read."""

    def __init__(
        self, view: LatestView, strings: Strings, rows: int = 64, *, kept: bool = True
    ) -> None:
        """`kept`: the values themselves are kept beside the columns, to be folded and encoded;
        without them rows can only be read."""
        self.view = view
        self._kept = kept
        self.fields = (*(field.name for field in view.fields), view.event_field)
        self._places = {name: place for place, name in enumerate(self.fields)}
        self._strings = strings
        self.newest = np.full(rows, NEVER, np.int64)
        self.event = np.full(rows if kept else 0, NEVER, np.int64)
        self.payload: list[Payload | None] = [None] * rows if kept else []
        self._stale: set[int] = set()
        self._columns = [_empty_column(field, rows) for field in view.fields]
        self._texts: dict[bytes, tuple[int, int]] = {}
        """Values that were decoded before: most are met again."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the columns."""
        arrays = [self.newest, self.event, *(array for c in self._columns for array in c)]
        return sum(array.nbytes for array in arrays)

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self.newest)
        if rows > have:
            more = max(rows, 2 * have) - have
            self.newest = np.concatenate([self.newest, np.full(more, NEVER, np.int64)])
            if self._kept:
                self.event = np.concatenate([self.event, np.full(more, NEVER, np.int64)])
                self.payload.extend([None] * more)

    def folding(self, updates: Columns, chosen: Ints, rows: Ints) -> Folding:
        """Fold one payload after the other."""
        places, numbers = chosen.tolist(), rows.tolist()
        times, events = updates.time[chosen].tolist(), updates.event[chosen].tolist()

        def fold(start: int, stop: int) -> None:
            for at in range(start, stop):
                self.fold(numbers[at], times[at], events[at], updates.payloads[places[at]])

        return fold

    def fold(self, row: int, time: int, event: int, payload: Payload) -> None:
        """Keep the payload if it is newer than the row's by (time, event)."""
        if (time, event) > (int(self.newest[row]), int(self.event[row])):
            self.newest[row], self.event[row] = time, event
            self.payload[row] = payload
            self._stale.add(row)

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds."""
        numbers = rows.tolist()
        if not self._kept:
            for index, field in enumerate(self.view.fields):
                self._decode(index, field, numbers, [row[index] or b"" for row in values])
            self.newest[rows] = updated_at
            return
        for place, row in enumerate(numbers):
            *fields, event = values[place]
            self.newest[row] = updated_at[place]
            self.event[row] = decode_int64(event) if event else NEVER
            self.payload[row] = tuple(value or b"" for value in fields)
            self._stale.add(row)

    def encoded(self, rows: Ints) -> Iterator[StoredRow]:
        """The Feast values of each row; null fields are stored as such."""
        return (StoredRow(self.encode(row), ()) for row in rows.tolist())

    def encode(self, row: int) -> Payload:
        """The Feast values of all stored fields of a row."""
        payload = self.payload[row]
        if payload is None:
            return (b"",) * len(self.fields)
        return (*payload, encode_int64(int(self.event[row])))

    def column(self, name: str) -> Column:
        """One field of all rows, decoded."""
        place = self._places[name]
        if self._stale or _rows(self._columns[place]) < len(self.newest):
            self._refresh()
        return self._columns[place]

    def recoded(self, strings: Strings) -> list[Column]:
        """The columns by the codes of other strings, for `adopt`."""
        columns = []
        for now in self._columns:
            column = now
            named = column.code[column.code != NONE]
            if len(named):
                used = np.zeros(int(named.max()) + 2, np.bool_)
                used[named] = True
                codes = np.flatnonzero(used)
                place = np.full(len(used), NONE, np.int64)  # its last one stands for NONE
                place[codes] = strings.codes(map(self._strings.text, codes.tolist()))
                column = column._replace(code=place[column.code])
            columns.append(column)
        return columns

    def adopt(self, strings: Strings, columns: list[Column]) -> None:
        """Let these take the place of the columns they were made of."""
        self._texts.clear()
        self._strings, self._columns = strings, columns

    def _refresh(self) -> None:
        rows = sorted(self._stale)
        for index, field in enumerate(self.view.fields):
            payloads = [self.payload[row] for row in rows]
            self._decode(index, field, rows, [p[index] if p else b"" for p in payloads])
        self._stale.clear()  # last: what raised above stays to be decoded

    def _decode(
        self, index: int, field: LatestField, rows: Sequence[int], values: Sequence[bytes]
    ) -> None:
        """Put values into a column; what cannot be decoded raises, and nothing is put."""
        column = self._columns[index] = _grown(self._columns[index], len(self.newest))
        if field.dtype in TEXT:
            texts = [self._texts.get(value) or self._text(value) for value in values]
            column.code[rows] = [code for code, _ in texts]
            column.hash[rows] = [hashed for _, hashed in texts]
        elif not field.dtype.startswith("Array(Float"):
            column.number[rows] = [_number(value) for value in values]
        elif len(rows):
            self._columns[index] = _put_vectors(column, rows, values, field.dtype)

    def _text(self, value: bytes) -> tuple[int, int]:
        """The code and the hash of a text, or of the first one of a list."""
        decoded = decode_value(value)
        if isinstance(decoded, list):
            decoded = decoded[0] if decoded else None
        if decoded is not None and not isinstance(decoded, str):
            raise ValueError(f"{decoded!r} is no text")
        if len(self._texts) > TEXTS_MAX:
            self._texts.clear()
        found = NONE, NONE
        if decoded is not None:
            found = self._strings.code(decoded), mmh3.hash(decoded, signed=False)
        self._texts[value] = found
        return found


def _number(value: bytes) -> float:
    """A number, or the first one of a list; NaN for none."""
    if not value:
        return math.nan
    decoded = decode_value(value)
    if isinstance(decoded, list):
        decoded = decoded[0] if decoded else None
    return math.nan if decoded is None else float(decoded)  # type: ignore[arg-type]


def _put_vectors(
    column: Column, rows: Sequence[int], values: Sequence[bytes], dtype: str
) -> Column:
    packed = [packed_floats(value) if value else b"" for value in values]
    width = 4 if dtype == "Array(Float32)" else 8
    longest = max(map(len, packed))
    lengths = [len(vector) for vector in packed]
    if any(length != longest for length in lengths):
        packed = [vector + bytes(longest - len(vector)) for vector in packed]
    fresh = np.frombuffer(b"".join(packed), np.float32 if width == 4 else np.float64)
    fresh = fresh.reshape(len(rows), longest // width)
    if column.vector.dtype == np.float16:
        fresh = np.clip(fresh, -HALF_MAX, HALF_MAX)
    before = column.vector.shape[1]
    if not len(column.size) and set(lengths) - {0, before * width or longest}:
        column = column._replace(size=np.full(len(column.vector), before))
    if fresh.shape[1] > column.vector.shape[1]:
        wider = np.zeros((len(column.vector), fresh.shape[1]), column.vector.dtype)
        wider[:, : column.vector.shape[1]] = column.vector
        column = column._replace(vector=wider)
    column.vector[rows, : fresh.shape[1]] = fresh
    column.vector[rows, fresh.shape[1] :] = 0.0
    if len(column.size):
        column.size[rows] = [length // width for length in lengths]
    return column


def _empty_column(field: LatestField, rows: int) -> Column:
    dtype = field.dtype
    text, vector = dtype in TEXT, dtype.startswith("Array(Float")
    if text:
        return Column(
            NO_NUMBER, np.full(rows, NONE, np.int64), np.full(rows, NONE, np.int64), NO_VECTOR
        )
    if vector:
        empty = np.zeros((rows, 0), np.float16 if field.precision == "float16" else np.float32)
        return Column(NO_NUMBER, NO_CODE, NO_CODE, empty)
    return Column(np.full(rows, np.nan), NO_CODE, NO_CODE, NO_VECTOR)


def _rows(column: Column) -> int:
    return max(len(column.number), len(column.code), len(column.vector))


def _grown(column: Column, rows: int) -> Column:
    more = rows - _rows(column)
    if more <= 0:
        return column
    if len(column.number):
        return column._replace(number=np.concatenate([column.number, np.full(more, np.nan)]))
    if len(column.code):
        blank = np.full(more, NONE, np.int64)
        return column._replace(
            code=np.concatenate([column.code, blank]), hash=np.concatenate([column.hash, blank])
        )
    blank_vectors = np.zeros((more, column.vector.shape[1]), column.vector.dtype)
    sizes = np.zeros(more if len(column.size) else 0, np.int64)
    return column._replace(
        vector=np.concatenate([column.vector, blank_vectors]),
        size=np.concatenate([column.size, sizes]),
    )
