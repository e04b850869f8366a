"""The items whose embeddings lie nearest to some vectors, by dot product, as items come and go.

Up to `exact_max` vectors every product is computed: one call of BLAS, and no neighbour is missed.
Past it a graph is searched (HNSW, by usearch), which misses a few and whose cost hardly grows.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.layout import Ints
from ranker.reading import vectors_of
from ranker.tables.live_table import LiveTable
from ranker.tables.repeating import Repeating

Vectors = NDArray[np.float32]

EXACT_MAX: Final = 20_000
"""Of 64 dimensions: 8 queries take 0.8 ms, in a graph 0.5 (at 50,000 vectors: 15 and 0.5)."""
ROWS_PER_TURN: Final = 500
PAUSE_S: Final = 0.05


class Index(Protocol):
    """Vectors by row number. Not for several threads at once."""

    dimension: int

    def __len__(self) -> int:
        """How many vectors there are."""

    def put(self, rows: Ints, vectors: Vectors) -> None:
        """Replace or add vectors [row, dimension]; one of zeros takes its row out."""

    def nearest(self, queries: Vectors, count: int) -> list[Ints]:
        """Rows of the largest products with each query, best first, at most `count`."""

    def all(self) -> tuple[Ints, Vectors]:
        """Every row and its vector."""


class ExactIndex:
    """All vectors in one matrix."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._vectors: Vectors = np.zeros((1024, dimension), np.float32)
        self._row: Ints = np.zeros(1024, np.int64)
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def put(self, rows: Ints, vectors: Vectors) -> None:
        """Replace or add vectors; one of zeros takes its row out."""
        present = np.any(vectors, axis=1).tolist()
        for row, vector, here in zip(rows.tolist(), vectors, present, strict=True):
            place = self._place.get(row)
            if here:
                if place is None:
                    place = self._place[row] = len(self._place)
                    self._reserve()
                self._vectors[place], self._row[place] = vector, row
            elif place is not None:
                last = len(self._place) - 1  # its vector moves into the hole
                moved = int(self._row[last])
                self._vectors[place], self._row[place] = self._vectors[last], moved
                self._place[moved] = place
                del self._place[row]

    def nearest(self, queries: Vectors, count: int) -> list[Ints]:
        """Rows of the largest products with each query, best first; ties by place."""
        held = len(self._place)
        products = self._vectors[:held] @ queries.T
        found = []
        for column in products.T:
            best = np.arange(held)
            if count < held:
                best = np.sort(np.argpartition(-column, count)[:count])
            found.append(self._row[best[np.argsort(-column[best], kind="stable")]])
        return found

    def all(self) -> tuple[Ints, Vectors]:
        """Every row and its vector."""
        held = len(self._place)
        return self._row[:held].copy(), self._vectors[:held].copy()

    def _reserve(self) -> None:
        if len(self._place) > len(self._row):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._row = np.concatenate([self._row, np.zeros_like(self._row)])


class GraphIndex:
    """A graph of vectors in half precision, searched from neighbour to neighbour."""

    def __init__(self, dimension: int) -> None:
        from usearch.index import Index as Graph

        self.dimension = dimension
        self._graph: Any = Graph(
            ndim=dimension, metric="ip", dtype="f16", expansion_add=64, expansion_search=128
        )
        self._rows: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, rows: Ints, vectors: Vectors) -> None:
        """Replace or add vectors; one of zeros takes its row out."""
        known = [row for row in rows.tolist() if row in self._rows]
        if known:
            self._graph.remove(np.array(known, np.uint64))
            self._rows.difference_update(known)
        present = np.flatnonzero(vectors.any(axis=1))
        if len(present):
            self._graph.add(rows[present].astype(np.uint64), vectors[present])
            self._rows.update(rows[present].tolist())

    def nearest(self, queries: Vectors, count: int) -> list[Ints]:
        """Rows of large products with each query, best first."""
        if not self._rows:
            return [np.zeros(0, np.int64) for _ in queries]
        if len(queries) == 1:
            return [self._graph.search(queries[0], count).keys.astype(np.int64)]
        found = self._graph.search(np.ascontiguousarray(queries), count)
        each = zip(found.keys, found.counts.tolist(), strict=True)
        return [keys[:found_of].astype(np.int64) for keys, found_of in each]

    def all(self) -> tuple[Ints, Vectors]:
        """Every row and its vector, as half precision left it."""
        rows = np.array(sorted(self._rows), np.int64)
        return rows, np.asarray(self._graph.get(rows.astype(np.uint64)), np.float32)


def graph_missing() -> str | None:
    """Why there can be no graph here; None when there can."""
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        return (
            "without usearch neighbours are found by computing every product: "
            "pip install 'headrace[neighbours]'"
        )
    return None


class Neighbours:
    """The index of one embedding of the items of a live table, and the thread that keeps it.

    What changes in the table is in the index within tens of milliseconds; while the index is made
    (after a start, for another table or another embedding) it finds what it has so far, or, when
    one stood before, what that one has.
    """

    def __init__(
        self,
        table: Callable[[], LiveTable],
        view: Callable[[], str | None],
        lock: AbstractContextManager[object],
        *,
        exact_max: int = EXACT_MAX,
    ) -> None:
        """`view`: the view whose embedding is wanted now. `lock`: of the table."""
        self._wanted, self._view, self._lock = table, view, lock
        self._exact_max = exact_max if graph_missing() is None else 1 << 62
        self._followed: tuple[LiveTable, str] | None = None
        self.serving: str | None = None
        """The view whose vectors are searched: queries must be of the same."""
        self._index: Index | None = None
        self._made: Index | None = None
        self._whole = False
        """What is searched; what is made of the table followed now; whether that is whole."""
        self._busy = threading.Lock()
        self._left: list[int] = []
        self._thread = Repeating("neighbours", lambda: 0.0 if self.follow() else PAUSE_S)

    def __len__(self) -> int:
        index = self._index
        return 0 if index is None else len(index)

    @property
    def behind(self) -> int:
        """Rows whose vectors are not in the index yet."""
        return len(self._left)

    @property
    def graph(self) -> bool:
        """Whether a graph is searched."""
        return isinstance(self._index, GraphIndex)

    def nearest(self, queries: Vectors, count: int) -> list[Ints]:
        """Rows of the items nearest to each query [query, dimension], best first."""
        with self._busy:
            if self._index is None or not len(queries) or queries.shape[1] != self._index.dimension:
                return [np.zeros(0, np.int64) for _ in queries]
            return self._index.nearest(queries, count)

    def start(self) -> None:
        """Begin to follow the table."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the index stays as it is."""
        self._thread.stop()

    def follow(self) -> int:
        """Take over what changed in the table, a part of it; how many rows are left."""
        table, view = self._wanted(), self._view()
        if view is None:
            return 0
        known = self._followed
        if known is None or known[0] is not table or known[1] != view:
            with self._lock:
                table.moved = set()
                self._left = list(range(len(table)))
            if known is None or known[0] is not table:
                self._index = self.serving = None  # its row numbers are those of another table
            self._followed, self._made, self._whole = (table, view), None, False
        with self._lock:
            if table.moved:
                self._left += table.moved
                table.moved = set()
            rows = np.array(sorted(set(self._left[:ROWS_PER_TURN])), np.int64)
            vectors = vectors_of(table, view, rows)
        self._left = self._left[ROWS_PER_TURN:]
        if len(rows) and vectors.shape[1]:
            self._put(rows, vectors)
        self._whole = self._whole or not self._left
        if self._made is not None and (self._whole or self._index is None):
            self._index, self.serving = self._made, view
        return len(self._left)

    def _put(self, rows: Ints, vectors: Vectors) -> None:
        if self._made is None or self._made.dimension != vectors.shape[1]:
            self._made = ExactIndex(vectors.shape[1])  # the table's first vectors, or wider ones
        with self._busy:
            self._made.put(rows, vectors)
        if isinstance(self._made, ExactIndex) and len(self._made) > self._exact_max:
            self._made = self._as_graph(self._made, vectors.shape[1])

    def _as_graph(self, index: Index, dimension: int) -> Index:
        """A graph of the same vectors; the matrix serves meanwhile."""
        graph, (rows, vectors) = GraphIndex(dimension), index.all()
        for start in range(0, len(rows), ROWS_PER_TURN):
            if self._thread.stopping:
                return index
            part = slice(start, start + ROWS_PER_TURN)
            graph.put(rows[part], vectors[part])
        return graph
