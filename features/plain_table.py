"""Rows of one plain view in memory: open while they change, packed while they rest."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from features.codec import decode_int64, varint
from features.layout import NEVER, Ints
from features.plain_state import STATE_FIELD, PlainRow, numbers_of, unpack
from features.plain_values import encode_json, encode_time_us
from features.spec import PlainView
from features.tables import Folding, StoredRow
from features.updates import Columns

OPEN_ROWS_MAX: Final = 8_192
"""Rows kept open: an open row of a full hour of minutes weighs some 20 KB, packed 1 KB."""

Packed = tuple[bytes, tuple[bytes, ...]]
"""The state and the fields of a row at rest."""


class PlainTable:
    """Rows of one plain view, by row number."""

    def __init__(self, view: PlainView, open_rows_max: int = OPEN_ROWS_MAX) -> None:
        self.view = view
        self.fields = (
            *(field.name for field in view.fields),
            *(window.name for window in view.windows),
            STATE_FIELD,
        )
        self.newest = np.full(64, NEVER, np.int64)
        self._packed: list[Packed | None] = []
        self._open: dict[int, PlainRow] = {}
        self._open_max = open_rows_max

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        self._packed.extend([None] * (rows - len(self._packed)))
        if rows > len(self.newest):
            more = max(rows, 2 * len(self.newest)) - len(self.newest)
            self.newest = np.concatenate([self.newest, np.full(more, NEVER, np.int64)])

    def folding(self, updates: Columns, chosen: Ints, rows: Ints) -> Folding:
        """Fold one record after the other."""
        view, fields = self.view, 1 + len(self.view.fields)
        places, numbers = chosen.tolist(), rows.tolist()
        times, rests = updates.time[chosen].tolist(), updates.value[chosen].tolist()

        def fold(start: int, stop: int) -> None:
            for at in range(start, stop):
                payload = updates.payloads[places[at]]
                row = self._row(numbers[at])
                created_us = decode_int64(payload[0]) if payload[0] else -1
                time_us = times[at] * 1000 + rests[at]
                values = numbers_of(view.inputs, payload[fields:])
                row.fold(view, time_us, created_us, payload[1:fields], values)
                self.newest[numbers[at]] = row.time_us // 1000

        return fold

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds.

        A row without a state was written by Feast itself: it counts as the newest so far.
        """
        for place, number in enumerate(rows.tolist()):
            self._open.pop(number, None)
            fields = tuple(value or b"" for value in values[place][: len(self.view.fields)])
            state = _state(values[place][-1])
            time = int(updated_at[place])
            if state:
                row = unpack(self.view, state, fields)
                self._packed[number] = state, fields
                self.newest[number] = row.time_us // 1000
            elif time == NEVER:
                self._packed[number] = None
                self.newest[number] = NEVER
            else:
                row = PlainRow(self.view)
                row.time_us, row.fields = time * 1000, fields
                self._packed[number] = row.pack(self.view), fields
                self.newest[number] = time

    def encoded(self, rows: Ints) -> Iterator[StoredRow]:
        """The Feast values of each row: newest fields, windows as of its newest record, state."""
        view = self.view
        for number in rows.tolist():
            row = self._row(number)
            state = row.pack(view)
            windows = zip(view.windows, row.values(view, row.time_us // 1000), strict=True)
            yield StoredRow(
                (
                    *row.fields,
                    *(encode_json(value, window.dtype) for window, value in windows),
                    b"\x0a" + varint(len(state)) + state,
                ),
                (),
                encode_time_us(row.time_us),
            )
        while len(self._open) > self._open_max:
            number, row = next(iter(self._open.items()))
            self._packed[number] = row.pack(view), row.fields
            del self._open[number]

    def _row(self, number: int) -> PlainRow:
        """A row, open, and the last one to be packed again."""
        row = self._open.pop(number, None)
        if row is None:
            packed = self._packed[number]
            row = PlainRow(self.view) if packed is None else unpack(self.view, *packed)
        self._open[number] = row
        return row


def _state(value: bytes | None) -> bytes:
    """The content of a Feast Bytes value."""
    if not value:
        return b""
    at = 1
    while value[at] & 0x80:
        at += 1
    return value[at + 1 :]
