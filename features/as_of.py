"""As-of reads: the features of a service as a matrix, from entity tables and `now`.

One code for serving, training, replay and Feast's on-demand views: they differ only in where the
tables come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import mmh3
import numpy as np
from numpy.typing import NDArray

from features.activity import ActivityTable
from features.as_of_kernels import (
    ALL,
    COUNT,
    DECAYED,
    FIRST,
    LAST,
    RATE,
    TREND,
    CountProgram,
    Floats,
    Vectors,
    read_counts,
)
from features.entities import EntityTable
from features.gather_kernels import take_codes, take_numbers
from features.latest import LatestTable
from features.layout import AUTHOR, CATEGORY, ENTRY, ITEM, Ints
from features.list_kernels import (
    AFFINITY,
    SINCE,
    ListProgram,
    gather_vectors,
    newest_items,
    oldest_of_newest,
    read_lists,
    read_nearness,
    read_products,
    read_similarity,
)
from features.sparse_counts import SparseActivity
from features.spec import (
    AffinityFeature,
    AgeFeature,
    CodeFeature,
    Compared,
    ContextFeature,
    CountFeature,
    DecayedFeature,
    DotProductFeature,
    Feature,
    Metric,
    NearRateFeature,
    Plan,
    RateFeature,
    RecencyFeature,
    SimilarityFeature,
    SinceFeature,
    TrendFeature,
    ValueFeature,
    Window,
    lists_read,
    summed,
)
from features.standing import StandingReads
from features.tables import EntityRows, ReadTable

Tables = Mapping[str, EntityRows]
"""Entity tables by join key."""

CountLike = CountFeature | RateFeature | DecayedFeature | TrendFeature | RecencyFeature
ListLike = AffinityFeature | SinceFeature
ValueLike = ValueFeature | CodeFeature | AgeFeature
Run = slice | list[int]
"""Columns that stand together, as most do, or where each stands."""
Alike = list[tuple[int, Compared]]
"""Features over the same lists, each with its column."""
NOTHING: Final[Ints] = np.zeros(0, np.int64)
_KEYS = {"item": ITEM, "author": AUTHOR, "category": CATEGORY}


@dataclass(frozen=True, slots=True)
class Moment:
    """What one read is about: the instant, the user, the candidates, the request.

    `rows` gives per join key the row of each candidate (or one row for all of them), −1 where the
    entity is unknown. `keys` are the candidates' own ids as codes, in arena columns.
    """

    now: int
    rows: dict[str, Ints]
    keys: Ints
    surface: str | None = None


class Read(NamedTuple):
    """What one read found, and of which other items."""

    matrix: Floats
    """[candidate, column] of all features of the service."""
    compared: Ints
    """Codes of the items, other than the candidates, whose embeddings were compared with theirs,
    some of them more than once."""
    compared_rows: Ints
    """Their rows, −1 for those that have none."""


class Reader:
    """The features of one service, compiled for tables that may grow and change."""

    def __init__(self, plan: Plan, service: str, tables: Tables) -> None:
        named = plan.service_features(service)
        self.columns: tuple[str, ...] = tuple(name for name, _ in named)
        self._tables = tables
        self._views = {view.name: view for view in plan.views}
        self._counts: dict[str, tuple[Run, CountProgram]] = {}
        self._lists: dict[str, tuple[Run, ListProgram]] = {}
        self._others: list[tuple[int, ValueLike | ContextFeature]] = []
        compared: list[tuple[int, Compared]] = []
        products: list[tuple[int, DotProductFeature]] = []
        counts: dict[str, list[tuple[int, CountLike]]] = {}
        lists: dict[str, list[tuple[int, ListLike]]] = {}
        for place, (_, feature) in enumerate(named):
            if isinstance(feature, CountLike):
                counts.setdefault(feature.view, []).append((place, feature))
            elif isinstance(feature, ListLike):
                lists.setdefault(feature.view, []).append((place, feature))
            elif isinstance(feature, Compared):
                compared.append((place, feature))
            elif isinstance(feature, DotProductFeature):
                products.append((place, feature))
            else:
                self._others.append((place, feature))
        for view, chosen in counts.items():
            self._counts[view] = (
                _run([place for place, _ in chosen]),
                _count_program(self._counted(view), [f for _, f in chosen]),
            )
        self._standing = {
            view: StandingReads(table, program)
            for view, (_, program) in self._counts.items()
            if isinstance(table := self._counted(view), SparseActivity)
        }
        for view, listed in lists.items():
            self._lists[view] = (
                _run([place for place, _ in listed]),
                _list_program(self._activity(view).sequences, plan.actions, [f for _, f in listed]),
            )
        asked = {actions for _, f in compared for _, actions in lists_read(f)}
        self._masks = {
            actions: np.array([a in actions for a in plan.actions], np.bool_) for actions in asked
        }
        self._embeddings = {view: field.name for view, field in plan.embeddings.items()}
        default = next(iter(self._embeddings), "")
        self._alike = {
            view: _alike([(p, f) for p, f in compared if (f.embedding or default) == view])
            for view in self._embeddings
        }
        """By the view of the embeddings that they compare."""
        self._products = {
            view: [(p, f) for p, f in products if (f.embedding or default) == view]
            for view in self._embeddings
        }
        """By the view of the candidates' embeddings."""
        self._own = {view: field.name for view, field in plan.user_embeddings.items()}
        self._unknown = _run(sorted([p for p, _ in compared] + [p for p, _ in products]))
        """Columns that are null for candidates without an embedding."""

    def matrix(self, moment: Moment, users: EntityTable | None = None) -> Floats:
        """[candidate, column] of all features of the service; see `read`."""
        return self.read(moment, users).matrix

    def read(self, moment: Moment, users: EntityTable | None = None) -> Read:
        """All features of the service for the candidates of a moment.

        `users` stands in for the table of users when their rows are read one request at a time.
        """
        count = len(moment.keys)
        out = np.empty((count, len(self.columns)))
        for view, (places, program) in self._counts.items():
            table = self._counted(view, users)
            rows = moment.rows[table.view.entity.join_key]
            part = np.empty((len(rows), len(program.op)))
            if isinstance(table, SparseActivity):
                self._standing[view].read(rows, moment.now, part)
            else:
                read_counts(table.layout, table.arrays, program, rows, moment.now, part)
            out[:, places] = part
        for view, (places, lists) in self._lists.items():
            listing = self._activity(view, users)
            user = int(moment.rows[listing.view.entity.join_key][0])
            part = np.empty((count, len(lists.op)))
            read_lists(listing.arrays, lists, user, moment.now, moment.keys, part)
            out[:, places] = part
        for place, feature in self._others:
            if isinstance(feature, ContextFeature):
                out[:, place] = _context(feature, moment)
            else:
                out[:, place] = self._value(feature, moment, users)
        return Read(out, *self._similarities(moment, users, out))

    def _table(self, view: str, users: EntityTable | None) -> ReadTable:
        entity = self._views[view].entity
        if users is not None and users.entity.join_key == entity.join_key:
            return users.tables[view]
        return self._tables[entity.join_key].tables[view]

    def _counted(
        self, view: str, users: EntityTable | None = None
    ) -> ActivityTable | SparseActivity:
        table = self._table(view, users)
        assert isinstance(table, ActivityTable | SparseActivity)
        return table

    def _activity(self, view: str, users: EntityTable | None = None) -> ActivityTable:
        table = self._table(view, users)
        assert isinstance(table, ActivityTable)
        return table

    def _latest(self, view: str, users: EntityTable | None = None) -> LatestTable:
        table = self._table(view, users)
        assert isinstance(table, LatestTable)
        return table

    def _value(self, feature: ValueLike, moment: Moment, users: EntityTable | None) -> Floats:
        table = self._latest(feature.view, users)
        rows = moment.rows[table.view.entity.join_key]
        column = table.column(feature.field)
        if isinstance(feature, CodeFeature):
            hashes = take_codes(column.hash, rows)
            return np.where(hashes < 0, np.nan, hashes % feature.buckets)
        numbers = take_numbers(column.number, rows)
        return (moment.now - numbers) / 1000.0 if isinstance(feature, AgeFeature) else numbers

    def _similarities(
        self, moment: Moment, users: EntityTable | None, out: Floats
    ) -> tuple[Ints, Ints]:
        """Features of embeddings: the user's listed items' and their own with the candidates'.

        Returns the codes and the rows of those items.
        """
        out[:, self._unknown] = np.nan
        compared = [(NOTHING, NOTHING)]
        for view, alike in self._alike.items():
            if alike or self._products[view]:
                compared += self._similar(view, alike, moment, users, out)
        codes, rows = zip(*compared, strict=True)
        return np.concatenate(codes), np.concatenate(rows)

    def _similar(
        self,
        view: str,
        features: Sequence[Alike],
        moment: Moment,
        users: EntityTable | None,
        out: Floats,
    ) -> list[tuple[Ints, Ints]]:
        """Those features that take candidates' embeddings from one view; returns the codes and the
        rows of what was listed."""
        table = self._latest(view)
        column = table.column(self._embeddings[view])
        vectors = column.vector
        items = self._tables[table.view.entity.join_key]
        rows = moment.rows[table.view.entity.join_key]
        candidates = np.empty((vectors.shape[1], len(rows)), np.float32)
        known, compared = _gather(vectors, rows, candidates), []
        for same in features:
            listed = []
            for codes in self._listed(same[0][1], moment, users):
                recent = items.rows_of_codes(codes)
                compared.append((codes, recent))
                found = np.empty((vectors.shape[1], len(recent)), np.float32)
                found = found[:, _gather(vectors, recent, found)]
                listed.append(np.ascontiguousarray(found.T))
            _compare(same, listed, candidates, known, out)
        for place, feature in self._products[view]:
            own = self._own_vector(feature, moment, users)
            if 0 < len(own) <= len(candidates):
                product = np.empty(len(rows))
                read_products(own, candidates[: len(own)], feature.normalize, product)
                product[~(known & column.of_size(rows, len(own)))] = np.nan
                if feature.bias:
                    product += self._bias(feature, view, moment)
                out[:, place] = product
        return compared

    def _own_vector(
        self, feature: DotProductFeature, moment: Moment, users: EntityTable | None
    ) -> Vectors:
        """The user's own embedding; of no numbers when there is none."""
        table = self._latest(feature.view, users)
        row = int(moment.rows[table.view.entity.join_key][0])
        return table.column(self._own[feature.view]).vector_of(row)

    def _bias(self, feature: DotProductFeature, view: str, moment: Moment) -> Floats:
        """[candidate]: the number that is added, NaN where there is none."""
        table = self._latest(feature.bias_view or view)
        rows = moment.rows[table.view.entity.join_key]
        return take_numbers(table.column(feature.bias).number, rows)

    def _listed(self, feature: Compared, moment: Moment, users: EntityTable | None) -> list[Ints]:
        """Codes of the items that a feature compares, list by list; none for an unknown user."""
        activity, now = self._activity(feature.view, users), moment.now
        user = int(moment.rows[activity.view.entity.join_key][0])
        lists = [
            (activity.sequences.index(name), self._masks[actions])
            for name, actions in lists_read(feature)
        ]
        if user < 0:
            return [NOTHING for _ in lists]
        # The last list says how far back the others go.
        since = oldest_of_newest(activity.arrays, user, *lists[-1], now, feature.newest)
        return [
            newest_items(activity.arrays, user, s, mask, now, feature.newest, since)
            for s, mask in lists
        ]


def _gather(
    vectors: NDArray[np.float32] | NDArray[np.float16], rows: Ints, out: Vectors
) -> NDArray[np.bool_]:
    """The vectors of rows as columns of `out` in single precision, zeros where there is none; [row]
    whether there is one."""
    if vectors.dtype == np.float32:
        return gather_vectors(cast(Vectors, vectors), rows, out)
    found = vectors[np.maximum(rows, 0)].astype(np.float32)
    return gather_vectors(found, np.where(rows >= 0, np.arange(len(rows)), -1), out)


def _alike(features: Sequence[tuple[int, Compared]]) -> list[Alike]:
    """Features with their places, those together that make the same products of vectors."""
    found: dict[Any, Alike] = {}
    for place, f in features:
        found.setdefault((f.kind, f.view, *lists_read(f), f.newest), []).append((place, f))
    return list(found.values())


def _compare(
    features: Alike,
    listed: Sequence[Vectors],
    candidates: Vectors,
    known: NDArray[np.bool_],
    out: Floats,
) -> None:
    """Features of one kind over the same lists: vectors [entry, dimension] of each, against those
    of the candidates [dimension, candidate], of which some are `known`."""
    rated = [(place, f) for place, f in features if isinstance(f, NearRateFeature)]
    if rated:
        powers = np.array([f.power for _, f in rated], np.int64)
        sums = np.empty((2, len(powers), candidates.shape[1]))
        for vectors, part in zip(listed, sums, strict=True):
            read_nearness(vectors, candidates, powers, part)
        for (place, f), of, per in zip(rated, *sums, strict=True):
            out[:, place] = (of + f.prior_of) / (per + f.prior_per)
        return
    similar = np.empty((2, candidates.shape[1]))
    read_similarity(listed[0], candidates, similar)
    similar[:, ~known] = np.nan
    for place, feature in features:
        if isinstance(feature, SimilarityFeature):
            out[:, place] = similar[0 if feature.reduce == "max" else 1]


def _run(places: list[int]) -> Run:
    first = places[0] if places else 0
    stop = first + len(places)
    return slice(first, stop) if places == list(range(first, stop)) else places


def candidate_keys(items: Ints, authors: Ints, categories: Ints) -> Ints:
    """Candidates' ids (codes) in the columns of the arena, for affinities."""
    keys = np.full((len(items), ENTRY), -1, np.int64)
    keys[:, ITEM], keys[:, AUTHOR], keys[:, CATEGORY] = items, authors, categories
    return keys


def _context(feature: ContextFeature, moment: Moment) -> float:
    if feature.of == "hour":
        return float((moment.now / 3_600_000 + feature.utc_offset_hours) // 1 % 24)
    if moment.surface is None:
        return float("nan")
    return float(mmh3.hash(moment.surface, signed=False) % feature.buckets)


def _count_program(
    table: ActivityTable | SparseActivity, features: Sequence[CountLike]
) -> CountProgram:
    metrics = {metric: place for place, metric in enumerate(table.metrics)}
    longest = max([1, *(int(b) for b in table.layout.ring_buckets)])
    sums: dict[tuple[int, int, int], int] = {}

    def place_of(feature: Feature, metric: Metric, window: Window | None) -> int:
        ring, buckets = _ring(table, feature, metric, window)
        return sums.setdefault((metrics[metric], ring, buckets), len(sums))

    count = len(features)
    op, of, per = (np.zeros(count, np.int64) for _ in range(3))
    prior_of, prior_per = np.zeros(count), np.zeros(count)
    weights = np.zeros((count, longest))
    wide = max([1, *(len(summed(feature)) for feature in features)])
    more_of, more_per = (np.full((count, wide), -1, np.int64) for _ in range(2))
    for f, feature in enumerate(features):
        if isinstance(feature, RecencyFeature):
            op[f] = FIRST if feature.of == "first" else LAST
            continue
        of[f] = place_of(feature, feature.metric, feature.window)
        if isinstance(feature, CountFeature):
            op[f] = COUNT
        elif isinstance(feature, RateFeature):
            op[f], per[f] = RATE, place_of(feature, feature.per, feature.window)
            prior_of[f], prior_per[f] = feature.prior_of, feature.prior_per
            for more, added in ((more_of, feature.more_of), (more_per, feature.more_per)):
                places = [place_of(feature, metric, feature.window) for metric in added]
                more[f, : len(places)] = places
        elif isinstance(feature, DecayedFeature):
            op[f] = DECAYED
            step = feature.window.width_ms / feature.half_life_ms
            weights[f, :] = [2.0 ** (-age * step) for age in range(longest)]
        else:
            op[f], per[f] = TREND, place_of(feature, feature.metric, feature.long)
            short, long = feature.window, feature.long
            prior_per[f] = (short.width_ms * short.buckets) / (long.width_ms * long.buckets)
    listed = np.array(list(sums), np.int64).reshape(-1, 3)
    metric, ring, buckets = np.ascontiguousarray(listed.T)
    return CountProgram(
        metric, ring, buckets, op, of, per, more_of, more_per, prior_of, prior_per, weights
    )


def _ring(
    table: ActivityTable | SparseActivity, feature: Feature, metric: Metric, window: Window | None
) -> tuple[int, int]:
    """The ring that keeps a window of a metric, and how many of its buckets."""
    if window is None:
        return ALL, 0
    layout = table.layout
    shapes = list(zip(layout.ring_width.tolist(), layout.ring_buckets.tolist(), strict=True))
    for ring in table.view.rings:
        fits = ring.width_ms == window.width_ms and ring.buckets >= window.buckets
        if fits and ring.metric == metric:
            return shapes.index((ring.width_ms, ring.buckets)), window.buckets
    raise ValueError(f"feature {feature.name}: {table.view.name} keeps no ring for its window")


def _list_program(
    names: tuple[str, ...], actions: tuple[str, ...], features: Sequence[ListLike]
) -> ListProgram:
    return ListProgram(
        op=np.array([SINCE if f.kind == "since" else AFFINITY for f in features], np.int64),
        sequence=np.array([names.index(f.sequence) for f in features], np.int64),
        actions=np.array([[a in f.actions for a in actions] for f in features], np.bool_),
        key=np.array([_KEYS[f.key] for f in features], np.int64),
        half_life_ms=np.array(
            [f.half_life_ms if isinstance(f, AffinityFeature) else 1 for f in features], np.float64
        ),
    )
