"""A served ranking computed again: the same code, over the rows as they stood at their markers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.activity import ActivityTable
from features.as_of import Moment
from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY, USER_KEY
from features.codec import MARKER_FIELD, entity_key
from features.entities import Hash
from features.errors import BadInput, Refused
from features.layout import AUTHOR, CATEGORY, ITEM, Ints
from features.marker import Marker
from features.spec import EntitySpec, Plan
from ranker.cursor import SESSION_ITEMS_MAX
from ranker.reading import Heads, Reading, make_reading
from ranker.rules import Rules
from ranker.stages.diversity import reach, varied
from ranker.tables.refresh import LiveRows
from ranker.tables.user_rows import UserRow, load_user

VERSIONS = (3, 4)
"""Versions of serving log records that name the rows they were computed from."""
NOTHING_VARIED = ("diversity:", "value:", "heads:")
"""Stages that, where they are named as degraded, made another order than the rules."""


@dataclass(frozen=True, slots=True)
class Among:
    """The candidates that might have been shown, in the order in which they came."""

    items: tuple[str, ...]
    sources: tuple[str, ...]
    propensity: Floats
    """[candidate]: the chance with which it came to be one; NaN: nothing was left to chance."""
    shown: Ints
    """Places of those that earlier pages of the session showed."""


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
    propensity: Floats
    """[item], as in `Among`."""
    page: int
    """Items that the session had shown before."""
    limit: int
    degraded: tuple[str, ...]
    among: Among | None
    """None: the record keeps what was shown alone."""

    @property
    def ordered_by_rules(self) -> bool:
        """Whether no stage that orders was late or failed."""
        return not any(said.startswith(NOTHING_VARIED) for said in self.degraded)


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
        propensity=_floats(record["propensity"]),
        page=record["page"],
        limit=record.get("limit", len(record["items"])),
        degraded=tuple(record["degraded"]),
        among=_among_of(record.get("among")),
    )


def _among_of(told: Mapping[str, Any] | None) -> Among | None:
    if told is None:
        return None
    return Among(
        items=tuple(told["items"]),
        sources=tuple(told["source"]),
        propensity=_floats(told["propensity"]),
        shown=np.array(told["shown"], np.int64),
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """The same ranking, computed again."""

    vectors: Floats
    heads: dict[str, Floats]
    score: Floats


@dataclass(frozen=True, slots=True)
class Reranked:
    """The feed of a ranking as a model, weights and rules make it of the same candidates."""

    items: tuple[str, ...]
    """The candidates; what follows is by their places."""
    vectors: Floats
    heads: dict[str, Floats]
    score: Floats
    page: Ints
    """Places of what is shown, in order."""
    authors: list[str | None]
    categories: list[str | None]
    ages_s: Floats
    """NaN where nobody knows when an item was created."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The ids that lead from the items of a ranking to other rows."""

    authors: list[str | None]
    categories: list[str | None]
    recent: Floats
    """[entry of the user's list, dimension]: embeddings of the items in it."""


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
    def unfit(self) -> str:
        """Why no model scores."""
        return self._reading.unfit

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
        return self._read(user_id, items, surface, now, rows)[0]

    def rerank(self, ranking: Ranking, rows: Mapping[bytes, Hash], rules: Rules) -> Reranked:
        """The page that the model, the weights and these rules make of the candidates, or of what
        was shown where the record keeps nothing else. There must be a model."""
        among, now = ranking.among, ranking.now
        items = ranking.items if among is None else among.items
        matrix, moment, _ = self._read(ranking.user_id, items, ranking.surface, now, rows)
        reading = self._reading
        if reading.heads is None:
            raise Refused(f"nothing ranks: {reading.unfit}")
        heads = reading.heads.score(matrix)
        score = reading.heads.value.value(heads, ranking.surface)
        best = np.argsort(-score, kind="stable")
        found = moment.rows[ITEM_KEY]
        diversity, count = rules.of(ranking.surface).diversity, ranking.page + ranking.limit
        if not diversity.off:
            pool = best[: reach(diversity, count)]
            authors, categories = moment.keys[pool, AUTHOR], moment.keys[pool, CATEGORY]
            vectors = reading.vectors(found[pool])
            best = best[varied(diversity, score[best], vectors, authors, categories, count)]
        if among is not None:
            best = best[~np.isin(best, among.shown)]
        most = min(ranking.limit, SESSION_ITEMS_MAX - ranking.page)
        created = reading.join.numbers("created_at", found)
        return Reranked(
            items=items,
            vectors=matrix,
            heads=heads,
            score=score,
            page=best[:most],
            authors=reading.join.texts("author_id", found),
            categories=reading.join.texts("categories", found),
            ages_s=(now - created) / 1000,
        )

    def _read(
        self,
        user_id: str,
        items: Sequence[str],
        surface: str,
        now: int,
        rows: Mapping[bytes, Hash],
    ) -> tuple[Floats, Moment, UserRow]:
        user_key = self.key_of(USER_KEY, user_id)
        self._hold({key: row for key, row in rows.items() if key != user_key})
        user = load_user(self.plan, self._live.strings, user_id, rows.get(user_key) or {})
        reading = self._reading
        found = self._live.tables[ITEM_KEY].rows_of_ids(items)
        moment = reading.join.moment(now, user.row, items, found, surface)
        return reading.reader.matrix(moment, user.table), moment, user

    def joined(self, ranking: Ranking, rows: Mapping[bytes, Hash]) -> Joined:
        """What the items that were shown are joined to, from these rows by key."""
        request = ranking.user_id, ranking.items, ranking.surface, ranking.now
        _, moment, user = self._read(*request, rows)
        found = moment.rows[ITEM_KEY]
        return Joined(
            authors=self._reading.join.texts("author_id", found),
            categories=self._reading.join.texts("categories", found),
            recent=self._recent(user),
        )

    def _recent(self, user: UserRow) -> Floats:
        """The embeddings of the items in a user's list, oldest first, zeros where there is none."""
        similar = self._reading.similar
        if similar is None or user.row < 0:
            return np.zeros((0, 0))
        table = user.table.tables[similar.view]
        assert isinstance(table, ActivityTable)
        listed = table.entries(user.row, table.sequences.index(similar.sequence))
        items = self._live.tables[ITEM_KEY].rows_of_codes(listed[:, ITEM])
        return self._reading.vectors(items).astype(np.float64)

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
