"""A served ranking computed again: the same code, over the rows as they stood at their markers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY, USER_KEY
from features.codec import MARKER_FIELD, entity_key
from features.entities import Hash
from features.errors import BadInput
from features.marker import Marker
from features.spec import EntitySpec, Plan
from ranker.reading import Heads, Reading, make_reading
from ranker.tables.refresh import LiveRows
from ranker.tables.user_rows import load_user

VERSIONS = (3,)
"""Versions of serving log records that name the rows they were computed from."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the serving log tells of one answer."""

    request_id: str
    user_id: str
    surface: str
    now: int
    plan: str
    model: str
    columns: tuple[str, ...]
    items: tuple[str, ...]
    vectors: Floats
    """[item, column]"""
    heads: dict[str, Floats]
    score: Floats
    by_score: tuple[int, ...]
    rows: dict[tuple[str, str], Marker | None]
    """(join key, id) → the marker of the row that was read; None: there was none."""


def ranking_of(record: Mapping[str, Any]) -> Ranking | None:
    """The ranking in a record of the serving log; None for one that no features were read for."""
    if record.get("version") not in VERSIONS:
        raise BadInput(
            f"a record of the serving log has version {record.get('version')}: the rows it was "
            f"computed from are named from version {VERSIONS[0]} on"
        )
    if record["rows"] is None or not record["items"]:
        return None
    rows = {
        (join_key, identifier): None if mark is None else Marker(*mark)
        for join_key, marks in record["rows"].items()
        for identifier, mark in marks.items()
    }
    marker = record["user_marker"]
    rows[USER_KEY, record["user_id"]] = Marker.decode(marker.encode()) if marker else None
    return Ranking(
        request_id=record["request_id"],
        user_id=record["user_id"],
        surface=record["surface"],
        now=record["now"],
        plan=record["plan"],
        model=record["model"],
        columns=tuple(record["columns"]),
        items=tuple(record["items"]),
        vectors=_floats(record["vectors"]).reshape(len(record["items"]), -1),
        heads={head: _floats(values) for head, values in record["heads"].items()},
        score=_floats(record["score"]),
        by_score=tuple(record["by_score"]),
        rows=rows,
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """The same ranking, computed again."""

    vectors: Floats
    heads: dict[str, Floats]
    score: Floats


class Recounter:
    """Computes rankings again, one after the other, in live tables of its own."""

    def __init__(
        self, plan: Plan, service: str, load_heads: Callable[[Sequence[str]], Heads | None]
    ) -> None:
        self.plan = plan
        self._entities = {entity.join_key: entity for entity in plan.entities}
        self._live = LiveRows(plan)
        self._reading: Reading = make_reading(plan, service, self._live.tables, load_heads)
        self._held: set[bytes] = set()

    @property
    def model(self) -> str | None:
        """The version of the model that scores, None without one."""
        return None if self._reading.heads is None else self._reading.heads.version

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the service."""
        return self._reading.reader.columns

    def key_of(self, join_key: str, identifier: str) -> bytes:
        """The Redis key of a row."""
        entity: EntitySpec = self._entities[join_key]
        return entity_key(join_key, entity.value_type, identifier, self.plan.project)

    def count(
        self, ranking: Ranking, rows: Mapping[bytes, Hash], now: int | None = None
    ) -> Counted:
        """The vectors and scores of the items that were shown, from these rows by key."""
        at = ranking.now if now is None else now
        matrix = self.vectors(ranking.user_id, ranking.items, ranking.surface, at, rows)
        reading = self._reading
        if reading.heads is None:
            return Counted(matrix, {}, np.zeros(0))
        heads = reading.heads.score(matrix)
        return Counted(matrix, heads, reading.heads.value.value(heads, ranking.surface))

    def vectors(
        self,
        user_id: str,
        items: Sequence[str],
        surface: str,
        now: int,
        rows: Mapping[bytes, Hash],
    ) -> Floats:
        """[item, column of the service] as of an instant, from these rows by key."""
        user_key = self.key_of(USER_KEY, user_id)
        self._hold({key: row for key, row in rows.items() if key != user_key})
        user = load_user(self.plan, self._live.strings, user_id, rows.get(user_key) or {})
        reading = self._reading
        found = self._live.tables[ITEM_KEY].rows_of_ids(items)
        moment = reading.join.moment(now, user.row, items, found, surface)
        return reading.reader.matrix(moment, user.table)

    def _hold(self, rows: Mapping[bytes, Hash]) -> None:
        """Let the tables hold these rows and no others."""
        gone = self._held - rows.keys()
        keys = [*rows, *gone]
        marked = [
            row | {MARKER_FIELD: row.get(MARKER_FIELD, Marker(0, 0, 0).encode())} if row else row
            for row in rows.values()
        ]
        self._live.put(keys, [*marked, *({} for _ in gone)])
        self._held = {key for key, row in rows.items() if row}


def _floats(values: Any) -> Floats:
    """Numbers of a record; null is NaN."""
    return np.array(values, np.float64)
