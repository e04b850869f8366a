"""Training rows: what the ranker would have read for each candidate, and what then happened."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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

    def __len__(self) -> int:
        return len(self.matrix)

    def part(self, chosen: NDArray[np.bool_]) -> "TrainingRows":
        """Some of the rows."""
        return TrainingRows(
            self.columns,
            self.matrix[chosen],
            {action: label[chosen] for action, label in self.labels.items()},
            self.request[chosen],
            self.now[chosen],
        )


class RowMaker:
    """Makes training rows request by request, through the code that serves."""

    def __init__(
        self,
        plan: Plan,
        service: str,
        tables: Mapping[str, EntityTable],
        actions: Sequence[str],
    ) -> None:
        self._tables = tables
        self._reader = Reader(plan, service, tables)
        self._join = CandidateJoin(plan, tables)
        self._actions = tuple(actions)
        self._matrices: list[Floats] = []
        self._labels: list[list[bool]] = []
        self._requests: list[int] = []
        self._now: list[int] = []
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
            users,
            int(users.rows_of_ids([user_id])[0]),
            items,
            self._tables[ITEM_KEY].rows_of_ids(items),
            surface,
        )
        matrix = self._reader.matrix(moment)
        self._matrices.append(matrix)
        self._labels += [[action in happened for action in self._actions] for happened in outcomes]
        self._requests += [self._count] * len(items)
        self._now += [now] * len(items)
        self._count += 1
        return matrix

    def rows(self) -> TrainingRows:
        """All rows so far."""
        labels = np.array(self._labels, np.int8).reshape(-1, len(self._actions))
        return TrainingRows(
            self._reader.columns,
            np.concatenate(self._matrices) if self._matrices else np.zeros((0, 0)),
            {action: labels[:, i] for i, action in enumerate(self._actions)},
            np.array(self._requests, np.int64),
            np.array(self._now, np.int64),
        )
