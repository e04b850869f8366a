"""Kernels that look up what rows hold: one value for each candidate, −1 is a row nobody knows.

A look-up of some hundred rows takes numpy half a dozen passes and as many arrays; here it is one.
"""

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from features.compiled import kernel
from features.layout import Ints


@kernel
def take_numbers(column: Floats, rows: Ints) -> Floats:
    """[row]: the number of each row, NaN for −1."""
    out = np.empty(len(rows))
    for i in range(len(rows)):
        out[i] = column[rows[i]] if rows[i] >= 0 else np.nan
    return out


@kernel
def take_codes(column: Ints, rows: Ints) -> Ints:
    """[row]: the code of each row, −1 for −1."""
    out = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        out[i] = column[rows[i]] if rows[i] >= 0 else -1
    return out


@kernel
def take_narrow(column: NDArray[np.int32], places: Ints) -> Ints:
    """The same of a column of 32 bits, −1 for places past its end as well."""
    out = np.empty(len(places), np.int64)
    for i in range(len(places)):
        place = places[i]
        out[i] = column[place] if 0 <= place < len(column) else -1
    return out


@kernel
def take_markers(markers: Ints, rows: Ints) -> Ints:
    """[row, 3]: the marker of each row, −1 for −1."""
    out = np.empty((len(rows), 3), np.int64)
    for i in range(len(rows)):
        for k in range(3):
            out[i, k] = markers[rows[i], k] if rows[i] >= 0 else -1
    return out


@kernel
def note_rows(used: NDArray[np.int32], rows: Ints, tick: int) -> None:
    """Note of rows that they were asked for at a tick."""
    for row in rows:
        if row >= 0:
            used[row] = tick
