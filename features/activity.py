"""Activity state of many rows: folded from facts, encoded to and loaded from Feast values."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from features.codec import decode_value
from features.errors import BadInput
from features.fold import FIRST_ROOM, fold_facts
from features.layout import (
    ACTION,
    AUTHOR,
    CATEGORY,
    ENTRY,
    ITEM,
    NUMBERS,
    TEXTS,
    TIME,
    VALUE,
    Arrays,
    Ints,
    empty_arrays,
    layout_of,
)
from features.row_codec import clear_row, encode_rows, load_rows
from features.spec import ActivityView, SequenceSpec
from features.strings import Strings
from features.tables import Folding, StoredRow
from features.updates import Columns, Facts

_TEXT_COLUMNS = {"item": ITEM, "author": AUTHOR, "category": CATEGORY, "action": ACTION}


class ActivityTable:
    """Rows of one activity view. Row numbers are given out by the owner of the table."""

    def __init__(
        self, view: ActivityView, actions: tuple[str, ...], strings: Strings, rows: int = 64
    ) -> None:
        self.view = view
        self._strings = strings
        self._actions = {action: i for i, action in enumerate(actions)}
        self.layout, self.fields = layout_of(view, actions, strings.codes(actions))
        self.arrays: Arrays = empty_arrays(self.layout, rows)
        self.stored = np.zeros((rows, len(self.fields)), np.bool_)
        """[row, field]: whether the field is present in the store."""

    @property
    def newest(self) -> Ints:
        """[row]: the time of the newest fact."""
        return self.arrays.newest

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self.arrays.newest)
        if rows <= have:
            return
        more = max(rows, 2 * have) - have
        a = self.arrays
        extra = empty_arrays(self.layout, more)
        self.arrays = a._replace(
            newest=np.concatenate([a.newest, extra.newest]),
            first=np.concatenate([a.first, extra.first]),
            block=np.concatenate([a.block, extra.block]),
            start=np.concatenate([a.start, extra.start]),
            length=np.concatenate([a.length, extra.length]),
            room=np.concatenate([a.room, extra.room]),
        )
        self.stored = np.concatenate([self.stored, np.zeros((more, len(self.fields)), np.bool_)])

    def folding(self, updates: Columns, chosen: Ints, rows: Ints) -> Folding:
        """Make facts of the chosen updates, their texts as this process's codes."""
        facts = updates.facts(chosen, rows, self._strings)
        return lambda start, stop: self.fold(facts, start, stop)

    def fold(self, facts: Facts, start: int, stop: int) -> None:
        """Fold facts `start` to `stop` into their rows."""
        while True:
            start = fold_facts(
                self.layout,
                self.arrays,
                facts.rows,
                facts.times,
                facts.events,
                facts.actions,
                facts.items,
                facts.authors,
                facts.categories,
                facts.values,
                start,
                stop,
            )
            if start == stop:
                return
            self._enlarge()

    def encode(self, rows: Ints) -> tuple[bytes, Ints]:
        """Feast values of all fields of rows, end to end, and where each of them ends."""
        ends = np.zeros(len(rows) * len(self.fields), np.int64)
        parts: list[bytes] = []
        size, done, at = 512 * len(rows) + 65536, 0, 0
        while done < len(rows):
            out = np.empty(size, np.uint8)
            upto = encode_rows(
                self.layout, self.arrays, self._strings.pieces(), rows, done, out, ends
            )
            if upto == done:
                size *= 2
                continue
            first, last = done * len(self.fields), upto * len(self.fields)
            length = int(ends[last - 1])
            parts.append(out[:length].tobytes())
            ends[first:last] += at
            at, done = at + length, upto
        return b"".join(parts), ends

    def encoded(self, rows: Ints) -> Iterator[StoredRow]:
        """The Feast values of each row; a field that holds nothing is not stored."""
        content, flat = self.encode(rows)
        width = len(self.fields)
        present = np.diff(flat, prepend=0).reshape(len(rows), width) > 0
        gone: NDArray[np.bool_] = self.stored[rows] & ~present
        any_gone: list[bool] = np.any(gone, axis=1).tolist()
        self.stored[rows] = present
        ends = flat.tolist()
        end = 0
        for place in range(len(rows)):
            values: list[bytes | None] = []
            for stop in ends[place * width : (place + 1) * width]:
                start, end = end, stop
                values.append(content[start:end] if end > start else None)
            yield StoredRow(values, np.flatnonzero(gone[place]).tolist() if any_gone[place] else ())

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds: newest event time and the value of each field."""
        for row in rows:
            clear_row(self.arrays, row)
        self.arrays.newest[rows] = updated_at
        flat = [value or b"" for row in values for value in row]
        ends = np.cumsum([len(value) for value in flat], dtype=np.int64)
        content = np.frombuffer(b"".join(flat), np.uint8)
        self.stored[rows] = np.diff(ends, prepend=0).reshape(len(rows), len(self.fields)) > 0
        at = 0
        while at < len(rows):
            upto = load_rows(self.layout, self.arrays, rows, at, content, ends)
            if upto < 0:
                raise BadInput(
                    f"a stored row of view {self.view.name} is not in Headrace's layout; "
                    "it was written by something else: delete the row, then replay into it"
                )
            if upto < len(rows):
                self._enlarge()
            at = upto
        for place, row in enumerate(rows):
            for index, sequence in enumerate(self.view.sequences):
                self._load_sequence(int(row), index, sequence, values[place])

    def entries(self, row: int, sequence: int) -> Ints:
        """[entry, column] of one row's sequence, oldest first (a view, not a copy)."""
        start = self.arrays.start[row, sequence]
        return self.arrays.arena[start : start + self.arrays.length[row, sequence]]

    def _load_sequence(
        self, row: int, index: int, sequence: SequenceSpec, values: Sequence[bytes | None]
    ) -> None:
        columns: dict[int, NDArray[np.int64]] = {}
        for field, value in enumerate(values):
            if self.layout.field_kind[field] < NUMBERS or self.layout.field_a[field] != index:
                continue
            if not value and self.layout.field_b[field] != TIME:
                continue  # declared after the row was stored
            column, content = int(self.layout.field_b[field]), decode_value(value) or []
            if not isinstance(content, list):
                raise BadInput(f"{self.view.name}: {self.fields[field]} is not a list")
            if self.layout.field_kind[field] == TEXTS:
                columns[column] = self._text_codes(column, content)
            else:
                columns[column] = np.array(content, np.int64)
        length = len(columns[TIME])
        if any(len(column) != length for column in columns.values()):
            raise BadInput(f"{self.view.name}: the lists of {sequence.name} differ in length")
        entries = np.full((length, ENTRY), -1, np.int64)
        entries[:, VALUE] = 0
        for number, content_codes in columns.items():
            entries[:, number] = content_codes
        if ACTION not in columns and (
            "action" not in sequence.columns or len(sequence.actions) == 1
        ):
            entries[:, ACTION] = self._actions[sequence.actions[0]]
        entries = entries[entries[:, ACTION] >= 0]
        self._put_entries(row, index, entries[-sequence.length :])

    def _text_codes(self, column: int, texts: Sequence[object]) -> Ints:
        if column == ACTION:
            return np.array([self._actions.get(str(text), -1) for text in texts], np.int64)
        return self._strings.codes(str(text) or None for text in texts)

    def _put_entries(self, row: int, index: int, entries: Ints) -> None:
        room = self.layout.sequence_length[index]
        while self.arrays.room[row, index] < len(entries):
            if self.arrays.used[1] + room > len(self.arrays.arena):
                self._enlarge()
                continue
            # Doubled like the fold's: a row that is loaded again and again must not leak its runs.
            doubled = max(len(entries), 2 * int(self.arrays.room[row, index]), FIRST_ROOM)
            self.arrays.start[row, index] = self.arrays.used[1]
            self.arrays.room[row, index] = min(doubled, room)
            self.arrays.used[1] += min(doubled, room)
        start = self.arrays.start[row, index]
        self.arrays.arena[start : start + len(entries)] = entries
        self.arrays.length[row, index] = len(entries)

    def _enlarge(self) -> None:
        """Double blocks and arena, whichever is nearly full."""
        a, changed = self.arrays, {}
        blocks, entries = a.used
        longest = max(64, int(self.layout.sequence_length.sum()))
        if blocks + a.block.shape[1] + 64 > len(a.total):
            more = max(len(a.total), 256, a.block.shape[1])
            changed["slots"] = np.concatenate(
                [a.slots, np.zeros((more, a.slots.shape[1]), np.int64)]
            )
            changed["total"] = np.concatenate([a.total, np.zeros(more, np.int64)])
        if entries + longest + 64 > len(a.arena):
            more = max(len(a.arena), 2 * longest)
            changed["arena"] = np.concatenate([a.arena, np.zeros((more, ENTRY), np.int64)])
        self.arrays = a._replace(**changed)
