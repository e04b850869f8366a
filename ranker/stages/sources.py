"""Where candidates come from when the caller sends none. Each brings at most so many items."""

from collections.abc import Sequence
from typing import Final, Protocol

import mmh3
import numpy as np

from features.activity import ActivityTable
from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY
from features.layout import ACTION, ITEM, TIME, Ints
from features.spec import Plan, SimilarityFeature
from ranker.reading import Reading, vectors_of
from ranker.stages.fresh import FreshPool
from ranker.stages.neighbours import Vectors
from ranker.stages.roles import Query, Sourced

QUERIES_MAX: Final = 8
"""Recent items whose neighbours are looked for, each by itself: the mean of a cookery video and a
football match is near to neither."""


class Nearest(Protocol):
    """An index of the items' embeddings."""

    @property
    def serving(self) -> str | None:
        """The view whose embeddings it holds; None before it holds any."""

    def nearest(self, queries: Vectors, count: int) -> Sequence[Ints]:
        """Rows of the items nearest to each query [query, dimension], best first."""


class TrendingSource:
    """The most clicked items of the last day."""

    name = "trending"

    def __init__(self, count: int) -> None:
        self._count = count

    def items(self, query: Query, reading: Reading) -> Sourced:
        """Items, most clicked first."""
        table = reading.tables[ITEM_KEY]
        rows = reading.popularity.top(query.now, self._count)
        ids = zip(rows.tolist(), table.ids_of(rows), strict=True)
        return Sourced([item for row, item in ids if item is not None and table.known(row)])


class NeighbourSource:
    """Items whose embeddings lie nearest to those of what the user liked last, in turns.

    Which list and which actions are what the first similarity feature says that the model takes
    (the feature service, without a model).
    """

    name = "neighbours"

    def __init__(self, index: Nearest, count: int) -> None:
        self._index, self._count = index, count

    def items(self, query: Query, reading: Reading) -> Sourced:
        """For each liked item in turn, newest first, its nearest that was not brought yet."""
        feature, view = reading.similar, self._index.serving
        table = reading.tables[ITEM_KEY]
        if feature is None or view is None or view not in table.tables:
            return Sourced([])
        liked = _liked(query, reading.plan, feature)
        rows = table.rows_of_ids(liked)
        queries = vectors_of(table, view, rows)
        queries = queries[queries.any(axis=1)][:QUERIES_MAX]
        if not len(queries):
            return Sourced([])
        nearest = self._index.nearest(queries, self._count // len(queries) + len(liked) + 1)
        brought = dict.fromkeys(rows.tolist())  # what was liked is not brought again
        taken: list[int] = []
        for row in _in_turns(nearest):
            if row not in brought:
                brought[row] = None
                taken.append(row)
        ids = table.ids_of(np.array(taken[: self._count], np.int64))
        return Sourced([item for item in ids if item is not None])


class FreshSource:
    """Exploration: a few fresh items that were hardly shown, drawn by chance.

    The chance of each is known (`drawn`), goes into the serving log, and the draw is decided by
    the request's id: a replay over the same items draws the same.
    """

    name = "fresh"

    def __init__(self, pool: FreshPool, count: int) -> None:
        self._pool, self._count = pool, count

    def items(self, query: Query, reading: Reading) -> Sourced:
        """The items drawn, and with which chance each was."""
        ids, weights = self._pool.at(query.now, reading)
        chosen, chances = drawn(weights, self._count, query.request_id)
        return Sourced([ids[place] for place in chosen.tolist()], chances)


def drawn(weights: Floats, count: int, seed: str) -> tuple[Ints, Floats]:
    """Places of at most `count` of the weights, each at most once, and the chance each had.

    Chances are proportional to weights as far as 1 allows: π = min(1, c·w) with Σπ = count.
    Systematic sampling (Madow, 1949) of the weights in a random order draws with exactly these
    chances. The order and the draw follow from the seed.
    """
    chances = _chances(weights, count)
    rng = np.random.default_rng(mmh3.hash128(seed, signed=False))
    order = rng.permutation(len(weights))
    ends = np.cumsum(chances[order])
    ticks = np.arange(rng.random(), ends[-1] if len(ends) else 0.0, 1.0)
    places = order[np.unique(np.minimum(np.searchsorted(ends, ticks, "right"), len(order) - 1))]
    return places, chances[places]


def _chances(weights: Floats, count: int) -> Floats:
    """[place]: min(1, c·w), with c such that they sum to `count`, or to all there are."""
    if len(weights) <= count:
        return np.ones(len(weights))
    certain = np.zeros(len(weights), np.bool_)
    while True:
        rest = count - int(certain.sum())
        chances = np.where(certain, 1.0, rest * weights / weights[~certain].sum())
        over = (chances >= 1.0) & ~certain
        if not over.any():
            return chances
        certain |= over


def _liked(query: Query, plan: Plan, feature: SimilarityFeature) -> list[str]:
    """Ids of the items of a user's newest listed actions up to `now`, newest first, each once."""
    user = query.user
    if user is None or user.row < 0:
        return []
    table = user.table.tables[feature.view]
    assert isinstance(table, ActivityTable)
    entries = table.entries(user.row, table.sequences.index(feature.sequence))
    wanted = np.array([action in feature.actions for action in plan.actions], np.bool_)
    entries = entries[wanted[entries[:, ACTION]] & (entries[:, TIME] <= query.now)]
    texts = map(user.table.strings.text, entries[::-1, ITEM].tolist())
    return list(dict.fromkeys(text for text in texts if text is not None))[: 2 * QUERIES_MAX]


def _in_turns(lists: Sequence[Ints]) -> Sequence[int]:
    """The first of each, then the second of each, and so on."""
    longest = max((len(one) for one in lists), default=0)
    places = range(longest)
    return [int(one[place]) for place in places for one in lists if place < len(one)]
