"""Ids of many rows: text to row number and back, in arrays instead of Python objects."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.byte_runs import ByteRuns, Runs
from features.compiled import kernel
from features.layout import Ints
from features.varints import Bytes


class IdIndex:
    """Open addressing over the UTF-8 bytes of ids; at most half of the places are taken.

    An id takes its bytes, some 12 for where they are, and 8 to 16 for its places. A dict of str
    takes 200.
    """

    def __init__(self) -> None:
        self._ids = ByteRuns()
        self._places: NDArray[np.int32] = np.zeros(1024, np.int32)
        """Row number + 1 of the id that hashes near here, 0 for none."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of memory that hold something."""
        return self._ids.nbytes + self._places.nbytes

    def text(self, row: int) -> str:
        """The id of a row; empty when it has none."""
        return self._ids.get(row).decode()

    def texts(self, rows: Ints) -> list[str]:
        """The ids of rows; empty where there is none."""
        return self._ids.texts(rows)

    def rows(self, ids: Sequence[str]) -> Ints:
        """The row of each id, −1 for those that have none."""
        found = np.full(len(ids), -1, np.int64)
        if len(ids):
            find_rows(*_joined(ids), self._ids.all, self._places, found)
        return found

    def add(self, rows: Sequence[int], ids: Sequence[str]) -> None:
        """Give ids, none of which is known, to rows that have none."""
        if not ids:
            return
        self._count += len(ids)
        content, stops = _joined(ids)
        numbers = np.array(rows, np.int64)
        self._ids.reserve(int(numbers.max()) + 1)
        self._ids.put(numbers, content, stops)
        if 2 * self._count > len(self._places):
            self._places = np.zeros(1 << int(4 * self._count - 1).bit_length(), np.int32)
            numbers = np.flatnonzero(self._ids.all.length > 0)
        put_places(self._ids.all, self._places, numbers)

    def remove(self, row: int) -> None:
        """Take the id of a row away."""
        take_place(self._ids.all, self._places, row)
        self._ids.put(np.array([row]), np.zeros(0, np.uint8), np.zeros(1, np.int64))
        self._count -= 1


def _joined(ids: Sequence[str]) -> tuple[Bytes, Ints]:
    """The bytes of ids end to end, and where each ends."""
    joined = "".join(ids)
    if joined.isascii():
        content, lengths = joined.encode(), map(len, ids)
    else:
        each = [text.encode() for text in ids]
        content, lengths = b"".join(each), map(len, each)
    return np.frombuffer(content, np.uint8), np.cumsum(np.fromiter(lengths, np.int64, len(ids)))


@kernel
def _hash(content: Bytes, start: int, stop: int) -> int:
    """FNV-1a with a last mix: 64 bits of which the lowest are as good as the highest."""
    state = -3750763034362895579
    for k in range(start, stop):
        state = (state ^ np.int64(content[k])) * 1099511628211  # type: ignore[assignment]
    state = (state ^ (state >> 32 & 0x7FFF_FFFF)) * -49064778989728563
    return state ^ (state >> 29 & 0x7_FFFF_FFFF)


@kernel
def find_rows(
    content: Bytes, stops: Ints, ids: Runs, places: NDArray[np.int32], found: Ints
) -> None:
    """found[i]: the row of the id that ends at stops[i], −1 for none."""
    known, starts, lengths, last = ids.content, ids.start, ids.length, len(places) - 1
    begin = 0
    for i in range(len(stops)):
        size, at = stops[i] - begin, _hash(content, begin, stops[i]) & last
        while places[at] > 0:
            row = places[at] - 1
            if lengths[row] == size:
                start, same = starts[row], 0
                while same < size and known[start + same] == content[begin + same]:
                    same += 1
                if same == size:
                    found[i] = row
                    break
            at = (at + 1) & last
        begin = stops[i]


@kernel
def put_places(ids: Runs, places: NDArray[np.int32], rows: Ints) -> None:
    """Enter rows whose ids are not there yet."""
    last = len(places) - 1
    for row in rows:
        start = ids.start[row]
        at = _hash(ids.content, start, start + ids.length[row]) & last
        while places[at] > 0:
            at = (at + 1) & last
        places[at] = row + 1


@kernel
def take_place(ids: Runs, places: NDArray[np.int32], row: int) -> None:
    """Take a row out, and move up those that had to make way for it."""
    last = len(places) - 1
    at = _hash(ids.content, ids.start[row], ids.start[row] + ids.length[row]) & last
    while places[at] != row + 1:
        at = (at + 1) & last
    hole = at
    while True:
        at = (at + 1) & last
        if places[at] == 0:
            break
        other = places[at] - 1
        start = ids.start[other]
        home = _hash(ids.content, start, start + ids.length[other]) & last
        if ((at - home) & last) >= ((at - hole) & last):
            places[hole] = places[at]
            hole = at
    places[hole] = 0
