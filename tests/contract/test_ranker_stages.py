"""The laws of each role of the pipeline, for every stage that exists."""

import asyncio
import copy
from collections.abc import Callable

import numpy as np
import pytest

from features.candidates import ITEM_KEY
from features.errors import Unavailable
from features.events import Event
from features.layout import Ints
from ranker.cursor import first
from ranker.reading import vectors_of
from ranker.request import RankRequest
from ranker.rules import Rules, Seen, SurfaceRules
from ranker.stages import sources
from ranker.stages.filters import all_filters
from ranker.stages.fresh import FreshPool
from ranker.stages.neighbours import ExactIndex, Vectors
from ranker.stages.roles import (
    Candidates,
    Filter,
    Query,
    Served,
    SideEffect,
    Source,
    Sourced,
    UserHydrator,
)
from ranker.stages.serving_log import ServingLogEffect
from ranker.stages.sources import FreshSource, NeighbourSource, TrendingSource
from tests.browsing import browsing
from tests.relating import RELATED_PLAN, act, show
from tests.serving import KeptLog, Serving, folded

NOW = 10_000
RULES = Rules(
    default=SurfaceRules(
        seen=Seen(window=9_000, candidates="all"),
        age_max=12_000,
        require={"attributes.duration_ms": 30.0},
    )
)
ITEMS = [*(f"i{number}" for number in range(0, 60, 3)), "ghost", "i1", "another ghost"]
FILTERS = all_filters(lambda: RULES)
BROUGHT_MAX = 12


class Near:
    """The index of `NeighbourSource`, over all embeddings of a world."""

    serving = "item_embedding"

    def __init__(self, serving: Serving) -> None:
        items = serving.reading.tables[ITEM_KEY]
        rows = np.arange(len(items))
        vectors = vectors_of(items, self.serving, rows)
        self._index = ExactIndex(vectors.shape[1])
        self._index.put(rows, vectors)

    def nearest(self, queries: Vectors, count: int) -> list[Ints]:
        return self._index.nearest(queries, count)


SOURCES: dict[str, Callable[[Serving], Source]] = {
    "trending": lambda _: TrendingSource(BROUGHT_MAX),
    "neighbours": lambda serving: NeighbourSource(Near(serving), BROUGHT_MAX),
    "fresh": lambda _: FreshSource(FreshPool(1_000_000, 100), BROUGHT_MAX),
}
EFFECTS: list[Callable[[], SideEffect]] = [lambda: ServingLogEffect(KeptLog())]
HYDRATORS: list[Callable[[Serving], UserHydrator]] = [lambda serving: serving.users]

each_filter = pytest.mark.parametrize("stage", FILTERS, ids=lambda stage: stage.name)
each_source = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
each_effect = pytest.mark.parametrize("make", EFFECTS)
each_hydrator = pytest.mark.parametrize("of", HYDRATORS)


@pytest.fixture(scope="module")
def serving() -> Serving:
    events: list[Event] = [
        *browsing(200),
        act("mia", 3, "block", 9_000),
        act("mia", 6, "hide", 9_000),
        act("mia", 9, "mute_category", 9_000),
        act("mia", 18, "click", 9_100),
        act("mia", 21, "click", 9_200),
        show("mia", [12, 15], 9_500),
    ]
    served = Serving(folded(events, RELATED_PLAN))
    served.now = NOW
    return served


def asked(serving: Serving, user: str = "mia") -> Query:
    query = Query(RankRequest(user_id=user), "r", NOW, first(NOW))
    query.user = serving.users.hydrate(query, asyncio.run(serving.users.fetch(query)))
    return query


def candidates(serving: Serving, query: Query, items: list[str]) -> Candidates:
    assert query.user is not None
    rows = serving.reading.tables[ITEM_KEY].rows_of_ids(items)
    moment = serving.reading.join.moment(NOW, query.user.row, items, rows, "home")
    return Candidates(items, rows, moment, serving.reading)


@each_filter
def test_a_filter_says_one_thing_of_each_candidate_and_the_same_again(
    serving: Serving, stage: Filter
) -> None:
    query = asked(serving)
    given = candidates(serving, query, ITEMS)
    before = copy.deepcopy((given.items, given.rows.tolist(), given.moment.keys.tolist()))
    keep = stage.keep(query, given)
    assert keep.dtype == np.bool_
    assert keep.shape == (len(ITEMS),)
    assert np.array_equal(keep, stage.keep(query, given))
    assert before == (given.items, given.rows.tolist(), given.moment.keys.tolist())


@each_filter
def test_a_filter_judges_each_candidate_by_itself(serving: Serving, stage: Filter) -> None:
    query = asked(serving)
    keep = dict(zip(ITEMS, stage.keep(query, candidates(serving, query, ITEMS)), strict=True))
    backwards = ITEMS[::-1]
    again = stage.keep(query, candidates(serving, query, backwards))
    assert [keep[item] for item in backwards] == again.tolist()
    alone = [bool(stage.keep(query, candidates(serving, query, [item]))[0]) for item in ITEMS]
    assert alone == [keep[item] for item in ITEMS]


@each_filter
def test_a_filter_drops_something_here_and_never_an_unknown_item(
    serving: Serving, stage: Filter
) -> None:
    query = asked(serving)
    keep = stage.keep(query, candidates(serving, query, ITEMS))
    assert keep[ITEMS.index("ghost")]
    if stage.name not in ("ended", "too_old"):  # which nothing here is
        assert not keep.all()


@each_filter
def test_a_filter_takes_no_candidates_and_no_user(serving: Serving, stage: Filter) -> None:
    query = asked(serving)
    assert stage.keep(query, candidates(serving, query, [])).shape == (0,)
    stranger = asked(serving, "nobody")
    assert stranger.user is not None
    assert stranger.user.row < 0
    given = candidates(serving, stranger, ITEMS)
    alone = stage.keep(stranger, given)
    stranger.user = None
    assert np.array_equal(alone, stage.keep(stranger, given))


@each_source
def test_a_source_brings_each_item_once_at_most_so_many_and_the_same_again(
    serving: Serving, make: Callable[[Serving], Source]
) -> None:
    source, query = make(serving), asked(serving)
    found = source.items(query, serving.reading)
    assert isinstance(found, Sourced)
    assert 0 < len(found.items) <= BROUGHT_MAX
    assert len(set(found.items)) == len(found.items)
    for again in (source, make(serving)):
        repeated = again.items(query, serving.reading)
        assert list(repeated.items) == list(found.items)
        assert np.array_equal(repeated.propensity, found.propensity)  # type: ignore[arg-type]


@each_source
@pytest.mark.parametrize("user", ["mia", "nobody"])
def test_a_source_brings_known_items_with_chances_that_are_some(
    serving: Serving, make: Callable[[Serving], Source], user: str
) -> None:
    found = make(serving).items(asked(serving, user), serving.reading)
    assert (serving.reading.tables[ITEM_KEY].rows_of_ids(found.items) >= 0).all()
    if found.propensity is not None:
        assert found.propensity.shape == (len(found.items),)
        assert ((found.propensity > 0) & (found.propensity <= 1)).all()


@each_source
def test_a_source_leaves_the_query_as_it_is(
    serving: Serving, make: Callable[[Serving], Source]
) -> None:
    query = asked(serving)
    before = query.user, query.candidates, query.keep, list(query.degraded), query.session
    make(serving).items(query, serving.reading)
    after = query.user, query.candidates, query.keep, query.degraded, query.session
    assert after == before


@each_source
def test_a_source_over_empty_tables_brings_nothing(make: Callable[[Serving], Source]) -> None:
    empty = Serving(folded([], RELATED_PLAN))
    assert list(make(empty).items(asked(empty), empty.reading).items) == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_goes_by_the_name_that_answers_tell(serving: Serving, name: str) -> None:
    assert SOURCES[name](serving).name == name


def test_every_source_there_is_is_held_to_these_laws() -> None:
    declared = {
        getattr(each, "name")  # noqa: B009 - a type of any class
        for each in vars(sources).values()
        if isinstance(each, type) and each.__name__.endswith("Source")
    }
    assert declared == set(SOURCES)


@each_effect
def test_a_side_effect_takes_any_answer(serving: Serving, make: Callable[[], SideEffect]) -> None:
    effect = make()
    for shown in (0, 2):
        served = Served(
            user=None,
            plan="p",
            columns=("a",),
            matrix=np.full((shown, 1), np.nan),
            items=["i1", "i2"][:shown],
            heads={"click": np.zeros(shown)},
            score=np.zeros(shown),
            model="m",
            sources=["trending"] * shown,
            propensity=[None] * shown,
            by_score=np.arange(shown),
        )
        effect.served(asked(serving), served)
        assert effect.trouble() is None


@each_hydrator
def test_a_hydrator_knows_users_and_strangers(
    serving: Serving, of: Callable[[Serving], UserHydrator]
) -> None:
    hydrator = of(serving)
    for user, known in (("mia", True), ("nobody", False)):
        query = asked(serving, user)
        stored = asyncio.run(hydrator.fetch(query))
        for found in (hydrator.hydrate(query, stored), hydrator.alone(query, stored)):
            assert (found.row >= 0) == known
            assert (found.updated_at is not None) == known
            assert (found.marker is not None) == known
    assert hydrator.nobody().row < 0


@each_hydrator
def test_a_hydrator_says_that_the_store_is_away(
    serving: Serving, of: Callable[[Serving], UserHydrator]
) -> None:
    hydrator = of(serving)
    query = asked(serving)
    serving.users.fault = Unavailable("away")
    try:
        with pytest.raises(Unavailable):
            asyncio.run(hydrator.fetch(query))
    finally:
        serving.users.fault = None


def test_filters_have_names_of_their_own() -> None:
    assert len({stage.name for stage in FILTERS}) == len(FILTERS)
