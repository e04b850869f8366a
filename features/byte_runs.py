"""Byte strings of many rows in one buffer: what a row leaves behind is used again."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from features.layout import Ints
from features.varints import Bytes

GRAIN = 8
"""Runs take multiples of so many bytes, so that few sizes are left behind."""
CLASSES = 4096
"""Runs of up to CLASSES × GRAIN bytes are used again when they are left."""


class Runs(NamedTuple):
    """The bytes of row r are content[start[r] : start[r] + length[r]]."""

    content: Bytes
    start: Ints
    length: NDArray[np.int32]


class ByteRuns:
    """One byte string a row, by row number; empty at first."""

    def __init__(self) -> None:
        self._content = np.empty(1 << 16, np.uint8)
        self._start = np.zeros(64, np.int64)
        self._length = np.zeros(64, np.int32)
        self._left = np.full(CLASSES + 1, -1, np.int64)
        """[size in grains]: the run of that size left last; its first bytes name the one before."""
        self._used = np.zeros(1, np.int64)

    @property
    def all(self) -> Runs:
        """The runs of all rows."""
        return Runs(self._content, self._start, self._length)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that hold something."""
        return int(self._used[0]) + self._start.nbytes + self._length.nbytes

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self._start)
        if rows > have:
            more = max(rows, 2 * have) - have
            self._start = np.concatenate([self._start, np.zeros(more, np.int64)])
            self._length = np.concatenate([self._length, np.zeros(more, np.int32)])

    def get(self, row: int) -> bytes:
        """The bytes of a row."""
        start = int(self._start[row])
        return self._content[start : start + int(self._length[row])].tobytes()

    def texts(self, rows: Ints) -> list[str]:
        """The bytes of rows, which are UTF-8."""
        ends = np.cumsum(self._length[rows], dtype=np.int64)
        content = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        take_runs(self.all, rows, content)
        whole, stops = content.tobytes(), ends.tolist()
        spans = zip([0, *stops], stops, strict=False)
        if whole.isascii():
            text = whole.decode("ascii")
            return [text[start:stop] for start, stop in spans]
        return [whole[start:stop].decode() for start, stop in spans]

    def put(self, rows: Ints, fresh: Bytes, stops: Ints) -> None:
        """Replace the bytes of rows; `fresh` is theirs end to end, `stops` where each ends."""
        room = len(fresh) + (GRAIN + 8) * len(rows)
        if self._used[0] + room > len(self._content):
            size = max(len(self._content) * 3 // 2, int(self._used[0]) + room)
            larger = np.empty(size, np.uint8)
            larger[: self._used[0]] = self._content[: self._used[0]]
            self._content = larger
        put_runs(
            self._content, self._start, self._length, self._left, self._used, rows, fresh, stops
        )


@kernel
def take_runs(runs: Runs, rows: Ints, content: Bytes) -> None:
    """The bytes of rows end to end."""
    at = 0
    for row in rows:
        start = runs.start[row]
        for k in range(runs.length[row]):
            content[at + k] = runs.content[start + k]
        at += runs.length[row]


@kernel
def put_runs(
    content: Bytes,
    start: Ints,
    length: NDArray[np.int32],
    left: Ints,
    used: Ints,
    rows: Ints,
    fresh: Bytes,
    stops: Ints,
) -> None:
    """Put fresh bytes into the runs of rows, which move when they need another size."""
    begin = 0
    for i in range(len(rows)):
        row, size = rows[i], stops[i] - begin
        have, want = _grains(length[row]), _grains(size)
        at = start[row]
        if have != want:
            if 0 < have <= CLASSES:
                _put_place(content, at, left[have])
                left[have] = at
            if want == 0:
                at = 0
            elif want <= CLASSES and left[want] >= 0:
                at = left[want]
                left[want] = _get_place(content, at)
            else:
                at = used[0]
                used[0] += want * GRAIN
            start[row] = at
        for k in range(size):
            content[at + k] = fresh[begin + k]
        length[row] = size
        begin = stops[i]


@kernel
def _grains(size: int) -> int:
    return (size + GRAIN - 1) // GRAIN


@kernel
def _put_place(content: Bytes, at: int, place: int) -> None:
    for k in range(8):
        content[at + k] = (place + 1) >> (8 * k) & 0xFF


@kernel
def _get_place(content: Bytes, at: int) -> int:
    place = 0
    for k in range(8):
        place |= int(content[at + k]) << (8 * k)
    return place - 1
