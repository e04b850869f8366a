"""What the adapters share: finding files, reading columns, and cutting a history into requests."""

import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import BadInput

Ints: TypeAlias = NDArray[np.int64]
REQUEST_GAP_MS = 4 * 3600 * 1000


def find(folder: Path, name: str, origin: str) -> Path:
    """The file of that name in the folder; BadInput, which says where it comes from, if absent."""
    path = folder / name
    if not path.is_file():
        raise BadInput(f"no file {name} in {folder}: {origin}")
    return path


def read_parquet(path: Path, columns: list[str]) -> pa.Table:
    """The columns of a Parquet file; BadInput if it is none, or lacks one of them."""
    try:
        present = pq.read_schema(path).names
        for column in columns:
            if column not in present:
                raise BadInput(f"{path} has no column {column}; it has {', '.join(present)}")
        return pq.read_table(path, columns=columns)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{path} cannot be read as Parquet: {error}") from error


def integers(table: pa.Table, column: str) -> Ints:
    """A column without nulls as int64."""
    values: Ints = table[column].to_numpy().astype(np.int64)
    return values


def read_npz(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an .npz file; BadInput if it is none, or lacks one of them."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} cannot be read as .npz with {', '.join(names)}: {error}") from error


def scalars(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The named values of a row that are there."""
    return {name: row[name] for name in names if row[name] is not None}


def request_starts(user: Ints, surface: Ints, time_ms: Ints) -> Ints:
    """Of each row, the time of the first row of its request.

    A request is one user's rows on one surface with gaps under four hours.
    """
    order = np.lexsort((time_ms, surface, user))
    u, s, t = user[order], surface[order], time_ms[order]
    first = np.ones(len(order), bool)
    first[1:] = (u[1:] != u[:-1]) | (s[1:] != s[:-1]) | (np.diff(t) >= REQUEST_GAP_MS)
    starts = np.empty_like(time_ms)
    starts[order] = t[np.flatnonzero(first)[np.cumsum(first) - 1]]
    return starts
