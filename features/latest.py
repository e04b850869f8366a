"""Newest-value state: the newest event about an entity by (time, event), as Feast values."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mmh3
import numpy as np
from numpy.typing import NDArray

from features.codec import decode_int64, decode_value, encode_int64
from features.layout import NEVER, Ints
from features.spec import LatestView
from features.strings import NONE, Strings
from features.tables import Folding, StoredRow
from features.updates import Columns, Payload


class Column(NamedTuple):
    """One field of all rows, decoded; which arrays are filled depends on its type."""

    number: NDArray[np.float64]
    """Numeric fields; NaN is null."""
    code: Ints
    """Text fields (first member of a list): code among the process's strings."""
    hash: Ints
    """Text fields: murmur3 of the text, −1 is null; the same in every process."""
    vector: NDArray[np.float32]
    """[row, dimension] of list-of-float fields; zeros are null."""


class LatestTable:
    """Rows of one newest-value view, decoded into columns when they are read."""

    def __init__(self, view: LatestView, strings: Strings, rows: int = 64) -> None:
        self.view = view
        self.fields = (*(field.name for field in view.fields), view.event_field)
        self._strings = strings
        self.newest = np.full(rows, NEVER, np.int64)
        self.event = np.full(rows, NEVER, np.int64)
        self.payload: list[Payload | None] = [None] * rows
        self._stale: set[int] = set()
        self._columns = [_empty_column(field.dtype, rows) for field in view.fields]

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self.newest)
        if rows > have:
            more = max(rows, 2 * have) - have
            self.newest = np.concatenate([self.newest, np.full(more, NEVER, np.int64)])
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
        for place, row in enumerate(rows.tolist()):
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
        place = self.fields.index(name)
        if self._stale or _rows(self._columns[place]) < len(self.newest):
            self._refresh()
        return self._columns[place]

    def _refresh(self) -> None:
        rows = sorted(self._stale)
        for index, field in enumerate(self.view.fields):
            column = self._columns[index] = _grown(self._columns[index], len(self.newest))
            for row in rows:
                payload = self.payload[row]
                column = self._put(column, row, payload[index] if payload else b"", field.dtype)
            self._columns[index] = column
        self._stale.clear()  # last: what raised above stays to be decoded

    def _put(self, column: Column, row: int, value: bytes, dtype: str) -> Column:
        if dtype.startswith("Array(Float"):
            width = 4 if dtype == "Array(Float32)" else 8
            vector = _floats(value, width)
            if len(vector) > column.vector.shape[1]:
                wider = np.zeros((len(column.vector), len(vector)), np.float32)
                wider[:, : column.vector.shape[1]] = column.vector
                column = column._replace(vector=wider)
            column.vector[row] = 0.0
            column.vector[row, : len(vector)] = vector
            return column
        decoded = decode_value(value)
        if isinstance(decoded, list):
            decoded = decoded[0] if decoded else None
        if isinstance(decoded, str):
            column.code[row] = self._strings.code(decoded)
            column.hash[row] = mmh3.hash(decoded, signed=False)
        elif dtype in ("String", "Array(String)"):
            column.code[row] = column.hash[row] = NONE
        else:
            column.number[row] = np.nan if decoded is None else float(decoded)  # type: ignore[arg-type]
        return column


def _floats(value: bytes, width: int) -> NDArray[np.float64]:
    """The members of a list-of-float value without a Python object each."""
    if not value:
        return np.zeros(0)
    decoded = decode_value(value)
    return np.array(decoded, np.float64 if width == 8 else np.float32).astype(np.float64)


def _empty_column(dtype: str, rows: int) -> Column:
    text, vector = dtype in ("String", "Array(String)"), dtype.startswith("Array(Float")
    return Column(
        number=np.full(0 if text or vector else rows, np.nan),
        code=np.full(rows if text else 0, NONE, np.int64),
        hash=np.full(rows if text else 0, NONE, np.int64),
        vector=np.zeros((rows if vector else 0, 0), np.float32),
    )


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
    blank_vectors = np.zeros((more, column.vector.shape[1]), np.float32)
    return column._replace(vector=np.concatenate([column.vector, blank_vectors]))
