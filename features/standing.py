"""What was last read of the counters of rows: it stands until the row changes or a bucket begins.

Windows, rates, decayed counts and trends are functions of a row and of the bucket that `now` falls
in, not of `now` itself. Most requests of one bucket ask for the same rows, and to sum up a packed
row takes twenty times as long as to copy what came out.
"""

from math import gcd
from typing import Final

import numpy as np

from features.as_of_kernels import FIRST, LAST, CountProgram, Floats
from features.compiled import kernel
from features.layout import Ints
from features.sparse_counts import SparseActivity

SLOTS_MAX: Final = 1 << 17
"""At most so many rows are remembered (a power of 2); two that share a slot take turns in it."""
SLOTS_MIN: Final = 1 << 10
FOREVER_MS: Final = 1 << 62
"""The width of the one bucket of a view that keeps no rings."""


class StandingReads:
    """Reads one program of one table; hold the table's lock."""

    def __init__(
        self, table: SparseActivity, program: CountProgram, slots_max: int = SLOTS_MAX
    ) -> None:
        self._table, self._program, self._slots_max = table, program, slots_max
        self._width_ms = gcd(*table.layout.ring_width.tolist()) or FOREVER_MS
        self._slots(min(SLOTS_MIN, slots_max))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._row.nbytes + self._bucket.nbytes + self._version.nbytes + self._values.nbytes

    def read(self, rows: Ints, now: int, out: Floats) -> None:
        """out[i, feature] of rows as of `now`: the bits of `SparseActivity.read`."""
        table, program = self._table, self._program
        if len(table.newest) > len(self._row) < self._slots_max:
            self._slots(min(1 << (len(table.newest) - 1).bit_length(), self._slots_max))
        bucket = now // self._width_ms
        state = self._row, self._bucket, self._version, self._values
        stale = np.empty(len(rows), np.int64)
        seen = table.version, table.newest, table.first
        count = take_standing(*state, *seen, program.op, rows, now, bucket, out, stale)
        if count:
            places = stale[:count]
            part = np.empty((count, out.shape[1]))
            table.read(program, rows[places], now, part)
            out[places] = part
            keep_standing(*state, table.version, rows[places], bucket, part)

    def _slots(self, count: int) -> None:
        self._row = np.full(count, -2, np.int64)
        self._bucket = np.zeros(count, np.int64)
        self._version = np.zeros(count, np.int64)
        self._values = np.empty((count, len(self._program.op)))


@kernel
def take_standing(
    kept_row: Ints,
    kept_bucket: Ints,
    kept_version: Ints,
    values: Floats,
    version: Ints,
    newest: Ints,
    first: Ints,
    op: Ints,
    rows: Ints,
    now: int,
    bucket: int,
    out: Floats,
    stale: Ints,
) -> int:
    """Copy to `out` what stands; the places of the other rows go to `stale`, returns how many."""
    count, last = 0, len(kept_row) - 1
    for i in range(len(rows)):
        row = rows[i]
        slot = row & last
        current = version[row] if row >= 0 else 0
        if kept_row[slot] == row and kept_bucket[slot] == bucket and kept_version[slot] == current:
            for f in range(len(op)):
                out[i, f] = values[slot, f]
                if row >= 0 and (op[f] == FIRST or op[f] == LAST):
                    time = first[row] if op[f] == FIRST else newest[row]
                    out[i, f] = (now - time) / 1000.0 if time >= 0 else np.nan
        else:
            stale[count] = i
            count += 1
    return count


@kernel
def keep_standing(
    kept_row: Ints,
    kept_bucket: Ints,
    kept_version: Ints,
    values: Floats,
    version: Ints,
    rows: Ints,
    bucket: int,
    part: Floats,
) -> None:
    """Remember what was read of rows; the last one of those that share a slot."""
    last = len(kept_row) - 1
    for i in range(len(rows)):
        row = rows[i]
        slot = row & last
        kept_row[slot], kept_bucket[slot] = row, bucket
        kept_version[slot] = version[row] if row >= 0 else 0
        for f in range(part.shape[1]):
            values[slot, f] = part[i, f]
