"""Where candidates come from: neighbours of what was liked, fresh items by chance, the table."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.events import EngagementEvent, Event, ItemEvent
from features.layout import Ints
from ranker.cursor import first
from ranker.reading import vectors_of
from ranker.request import RankRequest
from ranker.stages.fresh import FreshPool
from ranker.stages.neighbours import ExactIndex, GraphIndex, Index, Neighbours, Vectors
from ranker.stages.roles import Query, Source, User
from ranker.stages.sources import (
    FreshSource,
    NeighbourSource,
    TrendingSource,
    drawn,
)
from ranker.tables.live_table import LiveTable
from ranker.tables.popularity import Popularity
from ranker.tables.refresh import LiveRows
from ranker.tables.user_rows import load_user
from tests.serving import SERVED_PLAN, Serving, folded
from tests.stored import writes_of

VIEW = "item_embedding"


def item(number: int, vector: Sequence[float] | None = None, **more: object) -> Event:
    return ItemEvent.model_validate(
        {
            "type": "item",
            "event_id": f"item{number}",
            "event_time": 100 + number,
            "item_id": f"i{number}",
            "created_at": 100 + number,
            "embedding": vector,
            **more,
        }
    )


def click(user: str, number: int, time: int, action: str = "click") -> Event:
    return EngagementEvent(
        event_id=f"{action}{user}{number}{time}",
        event_time=time,
        user_id=user,
        item_id=f"i{number}",
        action=action,
    )


def circle(count: int) -> list[Event]:
    """Items on a circle: the neighbours of each are those with the next numbers."""
    angles = [2 * np.pi * i / count for i in range(count)]
    return [item(i, [np.cos(a), np.sin(a), 0.0, 0.0]) for i, a in enumerate(angles)]


class Asked:
    """Sources over a world in memory."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.world = folded(events)
        self.serving = Serving(self.world)
        rows = LiveRows(SERVED_PLAN)
        writes = writes_of(self.world, 5, ["item_id"])
        rows.put(
            [w.key for w in writes],
            [dict(zip(w.fields[::2], w.fields[1::2], strict=True)) for w in writes],
        )
        self.rows = rows

    def query(self, user: str = "u", now: int = 10_000, request_id: str = "r1") -> Query:
        request = RankRequest(user_id=user)
        query = Query(request, request_id, now, first(now))
        stored = self.serving.users.rows
        key = self.world.tables["user_id"].key_of(user)
        read = load_user(SERVED_PLAN, self.world.strings, user, stored.get(key, {}))
        query.user = User(read.table, read.row, read.marker, read.newest, read)
        return query


class Products:
    """An index that looks at the tables themselves."""

    serving = VIEW

    def __init__(self, asked: Asked) -> None:
        self._table = asked.world.tables["item_id"]
        self.counts: list[int] = []

    def nearest(self, queries: Vectors, count: int) -> list[Ints]:
        self.counts.append(count)
        vectors = self._table.tables[VIEW].column("embedding").vector  # type: ignore[attr-defined]
        return [np.argsort(-(vectors @ query), kind="stable")[:count] for query in queries]


def test_neighbours_of_each_liked_item_come_in_turns_and_what_was_liked_does_not() -> None:
    asked = Asked(
        [*circle(24), click("u", 3, 500), click("u", 15, 600), click("u", 9, 700, "hide")]
    )
    found = NeighbourSource(Products(asked), 8).items(asked.query(), asked.serving.reading)
    assert found.propensity is None
    assert set(found.items[:4]) == {"i14", "i16", "i2", "i4"}
    assert found.items[0] in ("i14", "i16")  # near to what was liked last
    assert found.items[1] in ("i2", "i4")
    assert {"i3", "i15"}.isdisjoint(found.items)
    assert {"i8", "i10"}.isdisjoint(found.items)  # near to what was hidden, far from what was liked
    assert len(found.items) == 8


@pytest.mark.parametrize("user", ["nobody", "shy"])
def test_who_liked_nothing_has_no_neighbours(user: str) -> None:
    asked = Asked([*circle(8), click("u", 1, 500), click("shy", 2, 500, "hide")])
    index = Products(asked)
    source = NeighbourSource(index, 8)
    assert not source.items(asked.query(user), asked.serving.reading).items
    assert not source.items(asked.query("u", now=400), asked.serving.reading).items
    index.serving = None  # type: ignore[assignment]
    assert not source.items(asked.query("u"), asked.serving.reading).items
    assert index.counts == []


def test_a_source_brings_at_most_what_it_may() -> None:
    events = [*circle(60), *(click("u", i, 500 + i) for i in range(0, 60, 4))]
    asked = Asked(events)
    reading = asked.serving.reading
    for count in (1, 5, 17):
        sources: list[Source] = [
            NeighbourSource(Products(asked), count),
            TrendingSource(count),
            FreshSource(FreshPool(10_000, 100), count),
        ]
        for source in sources:
            found = source.items(asked.query(), reading).items
            assert 0 < len(found) <= count, source.name
            assert len(set(found)) == len(found)


def test_exploration_draws_what_is_new_and_hardly_shown_and_the_same_for_the_same_request() -> None:
    events = [
        *(item(i) for i in range(30)),
        item(30, created_at=9_000),
        item(31, created_at=9_500, ended=True),
        *(item(i, created_at=9_900 - i) for i in range(32, 40)),
    ]
    asked = Asked(events)
    pool = FreshPool(2_000, 100)
    reading = asked.serving.reading
    ids, weights = pool.at(10_000, reading)
    assert set(ids) == {"i30", *(f"i{i}" for i in range(32, 40))}
    assert weights.tolist() == [1.0] * 9
    source = FreshSource(pool, 3)
    first_draw = source.items(asked.query(request_id="a"), reading)
    again = source.items(asked.query(request_id="a"), reading)
    assert list(first_draw.items) == list(again.items)
    assert first_draw.propensity is not None
    assert first_draw.propensity.tolist() == pytest.approx([3 / 9] * 3)
    others = {tuple(source.items(asked.query(request_id=f"{i}"), reading).items) for i in range(20)}
    assert len(others) > 10


@given(
    st.lists(st.floats(0.01, 1.0), max_size=30).map(np.array),
    st.integers(1, 8),
    st.text(max_size=5),
)
def test_a_draw_takes_as_many_as_it_may_each_once_with_a_chance_up_to_one(
    weights: np.ndarray, count: int, seed: str
) -> None:
    places, chances = drawn(weights, count, seed)
    assert len(set(places.tolist())) == len(places)
    assert len(places) == min(count, len(weights))
    assert ((chances > 0) & (chances <= 1)).all()
    again, _ = drawn(weights, count, seed)
    assert again.tolist() == places.tolist()


def test_items_are_drawn_as_often_as_their_chances_say() -> None:
    weights = np.array([1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 8.0])
    drawn_times, chances, runs = np.zeros(8), np.zeros(8), 4000
    for run in range(runs):
        places, own = drawn(weights, 3, f"request {run}")
        drawn_times[places] += 1
        chances[places] = own
    assert chances.sum() == pytest.approx(3)
    assert chances[7] == 1.0
    assert chances[0] == pytest.approx(2 * 1.0 / 2.875)
    # Five standard deviations of a count of so many draws, at most.
    assert np.abs(drawn_times / runs - chances).max() < 5 * 0.5 / np.sqrt(runs)


def clustered(count: int, seed: int = 3) -> Vectors:
    """Vectors about a hundred centres, as embeddings lie."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(100, 32))
    vectors = centres[rng.integers(0, 100, count)] + 0.7 * rng.normal(size=(count, 32))
    return vectors.astype(np.float32)


def test_the_graph_finds_nine_in_ten_of_the_true_neighbours() -> None:
    pytest.importorskip("usearch")
    vectors, rows = clustered(5000), np.arange(5000)
    exact, graph = ExactIndex(32), GraphIndex(32)
    for index in (exact, graph):
        for start in range(0, 5000, 500):
            index.put(rows[start : start + 500], vectors[start : start + 500])
    queries = clustered(40, seed=4)
    truth, found = exact.nearest(queries, 50), graph.nearest(queries, 50)
    brute = np.argsort(-(vectors @ queries.T), axis=0)[:50].T
    assert [t.tolist() for t in truth] == brute.tolist()
    hits = sum(len(set(t.tolist()) & set(f.tolist())) for t, f in zip(truth, found, strict=True))
    assert hits / (40 * 50) > 0.9


@pytest.mark.parametrize("kind", [ExactIndex, GraphIndex])
def test_vectors_that_change_or_go_are_found_where_they_are_now(kind: type[Index]) -> None:
    pytest.importorskip("usearch")
    rng, index = np.random.default_rng(1), kind(8)  # type: ignore[call-arg]
    held: dict[int, np.ndarray] = {}
    for _ in range(30):
        rows = rng.choice(200, 40, replace=False)
        vectors = rng.normal(size=(40, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[rng.random(40) < 0.3] = 0.0
        index.put(rows, vectors)
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            held.pop(row, None)
            if vector.any():
                held[row] = vector
    assert len(index) == len(held)
    rows_held, stored = index.all()
    assert sorted(rows_held.tolist()) == sorted(held)
    for row, vector in zip(rows_held.tolist(), stored, strict=True):
        assert np.abs(vector - held[row]).max() < 2e-3
    for row, vector in list(held.items())[:20]:
        assert index.nearest(vector[None, :], 1)[0].tolist() == [row]


def test_the_index_follows_the_table_into_a_graph_and_over_to_another_view() -> None:
    pytest.importorskip("usearch")
    asked = Asked(circle(40))
    table: LiveTable = asked.rows.tables["item_id"]
    wanted: list[str | None] = [VIEW]
    index = Neighbours(lambda: table, lambda: wanted[0], threading.Lock(), exact_max=50)

    def settle() -> None:
        while index.follow():
            pass

    assert index.nearest(np.ones((1, 4), np.float32), 3)[0].tolist() == []
    settle()
    assert (len(index), index.graph, index.serving) == (40, False, VIEW)
    query = vectors_of(table, VIEW, np.array([7]))
    assert index.nearest(query, 1)[0].tolist() == [7]
    more = Asked([*circle(40), *(item(i, [1.0, i / 10, 0.5, 0.0]) for i in range(40, 100))])
    writes = writes_of(more.world, 6, ["item_id"])
    asked.rows.put(
        [w.key for w in writes],
        [dict(zip(w.fields[::2], w.fields[1::2], strict=True)) for w in writes],
    )
    settle()
    assert (len(index), index.graph) == (100, True)
    assert index.nearest(vectors_of(table, VIEW, np.array([90])), 3)[0].shape == (3,)
    asked.rows.put([writes[0].key], [{}])
    settle()
    assert len(index) == 99
    wanted[0] = None
    assert index.follow() == 0
    assert index.serving == VIEW


def test_what_is_trending_in_a_large_table_stands_beside_the_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [*circle(30), *(click(f"u{i}", i % 7, 9_000 + i) for i in range(200))]
    asked = Asked(events)
    small = Popularity(asked.rows.tables)
    expected = small.top(10_000, 5).tolist()
    monkeypatch.setattr("ranker.tables.popularity.INLINE_MAX", 10)
    large = Popularity(asked.rows.tables)
    large.renew(10_000, threading.Lock())
    assert large.top(99_999_999_999, 5).tolist() == expected


def test_the_embedding_is_that_of_the_first_similarity_that_the_model_takes() -> None:
    asked = Asked(circle(4))
    assert asked.serving.reading.embeddings == VIEW
