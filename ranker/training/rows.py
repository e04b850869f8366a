"""Training rows: what the ranker would have read for each candidate, and what then happened."""

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.as_of import Reader
from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY, USER_KEY, CandidateJoin
from features.entities import EntityTable
from features.spec import Plan


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """One row per shown item, in order of time."""

    columns: tuple[str, ...]
    matrix: Floats
    """[row, column]"""
    labels: dict[str, NDArray[np.int8]]
    """Action → whether it followed."""
    request: NDArray[np.int64]
    """[row]: number of its request; rows of a request are together."""
    now: NDArray[np.int64]
    """[row]: the instant of its request, ms."""
    weight: Floats | None = None
    """[row]: how many rows it stands for; None: each for itself."""

    def __len__(self) -> int:
        return len(self.matrix)

    def part(self, chosen: NDArray[np.bool_]) -> "TrainingRows":
        """Some of the rows; those of one run of time are not copied, wherever they lie."""
        places = np.flatnonzero(chosen)
        run = len(places) > 0 and places[-1] - places[0] + 1 == len(places)
        taken = slice(places[0], places[-1] + 1) if run else places
        return TrainingRows(
            self.columns,
            self.matrix[taken],
            {action: label[taken] for action, label in self.labels.items()},
            self.request[taken],
            self.now[taken],
            None if self.weight is None else self.weight[taken],
        )


class RowMaker:
    """Makes training rows request by request, through the code that serves."""

    def __init__(
        self,
        plan: Plan,
        service: str,
        tables: Mapping[str, EntityTable],
        actions: Sequence[str],
        spill: Path | None = None,
    ) -> None:
        """`spill` names a file that takes the rows, which may then be larger than memory."""
        self._spill = None if spill is None else _Spill(spill)
        self._tables = tables
        self._reader = Reader(plan, service, tables)
        self._join = CandidateJoin(plan, tables)
        self._actions = tuple(actions)
        self._matrices: list[Floats] = []
        self._labels = array("b")
        self._requests = array("q")
        self._now = array("q")
        self._count = 0

    def add(
        self,
        now: int,
        user_id: str,
        surface: str,
        items: Sequence[str],
        outcomes: Sequence[Collection[str]],
    ) -> Floats:
        """Rows of one request as of `now`; the tables must hold what happened before it."""
        users = self._tables[USER_KEY]
        moment = self._join.moment(
            now,
            int(users.rows_of_ids([user_id])[0]),
            items,
            self._tables[ITEM_KEY].rows_of_ids(items),
            surface,
        )
        matrix = self._reader.matrix(moment)
        if self._spill is None:
            self._matrices.append(matrix)
        else:
            self._spill.add(matrix)
        for happened in outcomes:
            self._labels.extend(action in happened for action in self._actions)
        self._requests.extend([self._count] * len(items))
        self._now.extend([now] * len(items))
        self._count += 1
        return matrix

    def rows(self) -> TrainingRows:
        """All rows so far."""
        labels = np.array(self._labels, np.int8).reshape(-1, len(self._actions))
        if self._spill is not None:
            matrix = self._spill.matrix(len(self._reader.columns))
        else:
            matrix = np.concatenate(self._matrices) if self._matrices else np.zeros((0, 0))
        return TrainingRows(
            self._reader.columns,
            matrix,
            {action: labels[:, i] for i, action in enumerate(self._actions)},
            np.array(self._requests, np.int64),
            np.array(self._now, np.int64),
        )


class ServedRows:
    """Rows as they were served, put in any order to where they stand in order of time."""

    def __init__(
        self,
        columns: Sequence[str],
        actions: Sequence[str],
        sizes: Sequence[int],
        spill: Path | None = None,
    ) -> None:
        """`sizes` are the rows of each request, in order of time; `spill` names a file that takes
        the matrix, which may then be larger than memory."""
        self._columns, self._actions = tuple(columns), tuple(actions)
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        shape = int(self._starts[-1]), len(self._columns)
        self._matrix: Floats = (
            np.zeros(shape)
            if spill is None or not shape[0]
            else np.memmap(spill, "<f8", "w+", 0, shape)
        )
        self._labels = np.zeros((shape[0], len(self._actions)), np.int8)
        self._now = np.zeros(shape[0], np.int64)
        self._there = np.zeros(shape[0], np.bool_)

    def put(
        self, number: int, now: int, vectors: Floats, outcomes: Sequence[Collection[str]]
    ) -> None:
        """The rows [row, column] of one request, by its number, and what followed each."""
        start, stop = self._starts[number : number + 2].tolist()
        self._matrix[start:stop] = vectors
        self._labels[start:stop] = [[a in happened for a in self._actions] for happened in outcomes]
        self._now[start:stop] = now
        self._there[start:stop] = True

    def rows(self) -> TrainingRows:
        """All rows that were put."""
        sizes = np.diff(self._starts)
        rows = TrainingRows(
            self._columns,
            self._matrix,
            {action: self._labels[:, i] for i, action in enumerate(self._actions)},
            np.repeat(np.arange(len(sizes)), sizes),
            self._now,
        )
        return rows if self._there.all() else rows.part(self._there)


class _Spill:
    """A file of rows, written request by request and then read as the system pages it in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")

    def add(self, matrix: Floats) -> None:
        with self._path.open("ab") as file:
            file.write(matrix.tobytes())

    def matrix(self, columns: int) -> Floats:
        """All rows so far, mapped rather than read."""
        if not self._path.stat().st_size:
            return np.zeros((0, columns))
        flat: Floats = np.memmap(self._path, np.float64, "r")
        return flat.reshape(-1, columns)
