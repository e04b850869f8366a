"""Served vectors against Feast's historical retrieval, where its history is of the same moment.

Row versions are cut from the log span by span, so Feast knows a row as it stood at the end of one.
An item is compared when there is an instant at which every row that its features were computed from
stood there with the very marker that the serving log names.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from deploy.replaying.skew import Feature, History, compare_vectors, rows_of
from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY, USER_KEY
from features.entities import Hash
from features.errors import Refused
from features.marker import Marker
from features.offline import APPENDED_AT, FOLDER, ROW_MARKER, version_views
from features.spec import Plan
from ranker.recount import Joined, Ranking, Recounter
from streaming.replays.versions import Wanted

RANKINGS_MAX: Final = 100
"""The newest so many are retrieved: Feast computes as-of views row by row, in Python."""
ROWS_LOST: Final = (
    "of which the offline store lost some, as Feast's own does of candidates of one request: set "
    "`type: features.offline_store.AsOfOfflineStore`"
)
ANOTHER_MOMENT: Final = "whose rows Feast's history knows as of other moments alone"
SURFACE: Final = "surface"

Name = tuple[str, str]
"""Join key and id."""


class _Row(NamedTuple):
    """An item to be retrieved: of which ranking, at which place, as of when."""

    ranking: Ranking
    place: int
    at_ms: int
    joined: Joined


class Versions:
    """Since when Feast's history has known each row at which marker."""

    def __init__(self, plan: Plan, archive: str, names: Iterable[Name]) -> None:
        wanted: dict[str, set[str]] = defaultdict(set)
        for join_key, identifier in names:
            wanted[join_key].add(identifier)
        told: dict[Name, list[tuple[int, Marker]]] = defaultdict(list)
        for view in version_views(plan):
            key = view.entity.join_key
            if wanted[key]:
                for name, at, marker in _marks(archive, view.name, view.schema, key, wanted[key]):
                    told[name].append((at, marker))
        self._known = {name: list(_rising(sorted(marks))) for name, marks in told.items()}

    def since(self, name: Name, marker: Marker | None) -> int | None:
        """The first instant at which a row stood at a marker; None: it never did. A row that was
        not there yet stood so from the beginning."""
        if marker is None:
            return 0
        return next((at for at, known in self._known.get(name, ()) if known == marker), None)

    def at(self, name: Name, now: int) -> Marker | None:
        """The marker at which a row stood at an instant."""
        upto = [marker for at, marker in self._known.get(name, ()) if at <= now]
        return upto[-1] if upto else None


class Retrieval(Protocol):
    """Feast's side of a repository (`features.plan.PlanSource`)."""

    def archive(self) -> str:
        """Where row versions are. Raises Refused where none is named."""
        ...

    def history(self, frame: pd.DataFrame, service: str) -> pa.Table:
        """The features of a service for the rows of a frame, in its order."""
        ...


def through_feast(
    source: Retrieval,
    rankings: Sequence[Ranking],
    recounter: Recounter,
    versions: Mapping[Wanted, Hash],
    service: str,
) -> History | None:
    """Retrieve the newest rankings through Feast; None where no row versions are archived."""
    newest = rankings[-RANKINGS_MAX:]
    names = {name for ranking in newest for name in ranking.rows}
    try:
        known = Versions(recounter.plan, source.archive(), names)
    except (FileNotFoundError, Refused):
        return None
    found = History(features={name: Feature(name) for name in recounter.columns})
    rows = [
        row
        for ranking in newest
        if ranking.columns == recounter.columns
        for row in _comparable(ranking, recounter, versions, known, found)
    ]
    if rows:
        table = source.history(_frame(rows), service)
        if len(table) != len(rows):
            found.left_out[ROWS_LOST] += len(rows)
            return found
        retrieved = np.column_stack([_numbers(table, name) for name in recounter.columns])
        _compare(rows, retrieved, found)
    return found


def _comparable(
    ranking: Ranking,
    recounter: Recounter,
    versions: Mapping[Wanted, Hash],
    known: Versions,
    found: History,
) -> Iterator[_Row]:
    stored = rows_of(ranking, recounter, versions)
    if stored is None:
        found.left_out["whose rows at their markers are not in the archive"] += len(ranking.items)
        return
    joined = recounter.joined(ranking, stored)
    for place, item in enumerate(ranking.items):
        keys = {
            USER_KEY: ranking.user_id,
            ITEM_KEY: item,
            "author_id": joined.authors[place],
            "category": joined.categories[place],
            SURFACE: ranking.surface,
        }
        names = [(k, i) for k, i in keys.items() if i is not None and (k, i) in ranking.rows]
        since = [known.since(name, ranking.rows[name]) for name in names]
        at = max((instant for instant in since if instant is not None), default=0)
        if None in since or any(known.at(name, at) != ranking.rows[name] for name in names):
            found.left_out[ANOTHER_MOMENT] += 1
        else:
            yield _Row(ranking, place, at, joined)


def _frame(rows: Sequence[_Row]) -> pd.DataFrame:
    """What Feast is asked: keys, times, and what a request tells."""
    stamps = pd.to_datetime([row.at_ms for row in rows], unit="ms", utc=True)
    return pd.DataFrame(
        {
            "event_timestamp": stamps,
            "now": [row.ranking.now for row in rows],
            USER_KEY: [row.ranking.user_id for row in rows],
            ITEM_KEY: [row.ranking.items[row.place] for row in rows],
            "author_id": [row.joined.authors[row.place] for row in rows],
            "category": [row.joined.categories[row.place] for row in rows],
            SURFACE: [row.ranking.surface for row in rows],
            "request_surface": [row.ranking.surface for row in rows],
            "recent_vectors": [row.joined.recent.ravel().tolist() for row in rows],
        }
    )


def _compare(rows: Sequence[_Row], retrieved: Floats, found: History) -> None:
    """Feast keeps the frame's order, in which the rows of a ranking are together."""
    begins = 0
    while begins < len(rows):
        ranking = rows[begins].ranking
        ends = begins
        while ends < len(rows) and rows[ends].ranking is ranking:
            ends += 1
        places = [row.place for row in rows[begins:ends]]
        compare_vectors(ranking, places, retrieved[begins:ends], found.features)
        found.rankings += 1
        found.items += len(places)
        begins = ends


def _numbers(table: pa.Table, name: str) -> Floats:
    values: Floats = table.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _marks(
    archive: str, view: str, schema: pa.Schema, key: str, wanted: set[str]
) -> Iterator[tuple[Name, int, Marker]]:
    """Each version's row, instant and marker, of the rows that are wanted."""
    dataset = ds.dataset(f"{archive}/{FOLDER}/{view}", partitioning="hive")
    kind = schema.field(key).type
    values = pa.array(sorted(wanted), pa.string()).cast(kind)
    table = dataset.to_table(
        columns=[key, APPENDED_AT, ROW_MARKER], filter=ds.field(key).isin(values)
    )
    times = table.column(APPENDED_AT).cast(pa.int64()).to_pylist()
    texts = table.column(ROW_MARKER).to_pylist()
    for identifier, micros, text in zip(table.column(key).to_pylist(), times, texts, strict=True):
        marker = None if text is None else Marker.decode(text.encode())
        if marker is not None:
            yield (key, str(identifier)), micros // 1000, marker


def _rising(marks: Iterable[tuple[int, Marker]]) -> Iterator[tuple[int, Marker]]:
    """The newest marker up to each instant: a view that did not change keeps an older one."""
    newest: Marker | None = None
    for at, marker in marks:
        if newest is None or marker > newest:
            newest = marker
            yield at, marker
