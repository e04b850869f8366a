"""Activity state of many rows: folded from facts, encoded to and loaded from Feast values."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import BadInput
from features.fold import fold_facts
from features.layout import Arrays, Ints, empty_arrays, shape_of
from features.row_codec import count_things, encode_rows, load_rows, read_things
from features.spec import ActivityView
from features.strings import NONE, Strings
from features.tables import Folding, StoredRow
from features.updates import Columns, Facts

ROOM_BYTES: Final = 64 * 1024 * 1024
"""What an array is given once a table's first few rows have outgrown it."""


class ActivityTable:
    """Rows of one activity view. Row numbers are given out by the owner of the table."""

    def __init__(
        self,
        view: ActivityView,
        actions: tuple[str, ...],
        strings: Strings,
        rows: int = 64,
        others: tuple[ActivityView, ...] = (),
    ) -> None:
        """`others`: see `shape_of`."""
        self.view = view
        self._strings = strings
        self.layout, self.fields, self.metrics, self.sequences = shape_of(view, actions, others)
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
                facts.actions,
                facts.items,
                facts.authors,
                facts.categories,
                facts.values,
                self._strings.pieces().hashes,
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
        values = [
            content[start:end] if end > start else None
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        for place in range(len(rows)):
            mine = values[place * width : (place + 1) * width]
            yield StoredRow(mine, np.flatnonzero(gone[place]).tolist() if any_gone[place] else ())

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds: newest event time and the value of each field."""
        flat = [value or b"" for row in values for value in row]
        sizes = np.array([len(value) for value in flat], np.int64)
        ends = np.cumsum(sizes)
        blob = b"".join(flat)
        content = np.frombuffer(blob, np.uint8)
        self.stored[rows] = sizes.reshape(len(rows), len(self.fields)) > 0
        counts, resume = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        kinds = self.layout.field_kind
        self._refuse(count_things(kinds, content, ends, counts))
        numbers, starts, stops = np.zeros((3, 3 * int(counts.sum())), np.int64)
        self._refuse(read_things(kinds, content, ends, counts, numbers, starts, stops, resume))
        things = self._codes(blob, numbers, starts, stops)
        at = 0
        while at < len(rows):
            upto = load_rows(
                self.layout,
                self.arrays,
                self._strings.pieces().hashes,
                rows,
                updated_at,
                at,
                counts,
                resume,
                things,
                content,
                ends,
            )
            if upto < 0:
                self._refuse(-1 - upto)
            if upto < len(rows):
                self._enlarge()
            at = upto

    def entries(self, row: int, sequence: int) -> Ints:
        """[entry, column] of one row's sequence, oldest first (a view, not a copy)."""
        start = self.arrays.start[row, sequence]
        return self.arrays.arena[start : start + self.arrays.length[row, sequence]]

    def _refuse(self, damaged: int) -> None:
        """Raise for a damaged row, −1 for none."""
        if damaged >= 0:
            raise BadInput(
                f"a stored row of view {self.view.name} is not in Headrace's layout; "
                "it was written by something else: delete the row, then replay into it"
            )

    def _codes(self, blob: bytes, numbers: Ints, starts: Ints, stops: Ints) -> Ints:
        """The codes of texts that are numbers, or tokens inside the blob."""
        codes = np.full(len(numbers), NONE, np.int64)
        spelled = numbers >= 0
        codes[spelled] = self._strings.codes_of_numbers(numbers[spelled])
        raw = np.flatnonzero(~spelled & (stops > starts))
        spans = zip(starts[raw].tolist(), stops[raw].tolist(), strict=True)
        try:
            codes[raw] = self._strings.codes_of_tokens([blob[start:stop] for start, stop in spans])
        except UnicodeDecodeError:
            self._refuse(0)
        return codes

    def _enlarge(self) -> None:
        """Double blocks and arena, whichever is nearly full."""
        a, changed = self.arrays, {}
        blocks, entries = a.used
        longest = max(64, int(self.layout.sequence_length.sum()))
        if blocks + a.block.shape[1] + 64 > len(a.total):
            size = max(2 * len(a.total), a.block.shape[1] + 256, _floor(a.slots))
            changed["slots"], changed["total"] = _room(a.slots, size), _room(a.total, size)
        if entries + longest + 64 > len(a.arena):
            changed["arena"] = _room(a.arena, max(2 * len(a.arena), 3 * longest, _floor(a.arena)))
        self.arrays = a._replace(**changed)


def _floor(array: Ints) -> int:
    """The least length of an array that its table's first few rows have outgrown."""
    return ROOM_BYTES // (8 * max(1, int(array.shape[1])))


def _room(array: Ints, size: int) -> Ints:
    """An array of this length that begins with another.

    The system gives memory to zeros only where they are written, so room is cheap until it is used,
    and a copy of tens of megabytes is a pause that readers of fresh rows would see.
    """
    room = np.zeros((size, *array.shape[1:]), np.int64)
    room[: len(array)] = array
    return room
