"""Varied orders: what strategies and spread rules promise, whatever the scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.as_of_kernels import Floats, Vectors
from features.candidates import ITEM_KEY
from features.layout import Ints
from ranker.rules import Diversity, Spread
from ranker.stages.diversity import BLOCK, POOL, reach, varied
from tests.serving import Serving

STRATEGIES = ("off", "mmr", "msd", "dpp", "ssd")


def world(count: int, seed: int = 1) -> tuple[Floats, Vectors, Ints, Ints]:
    """Falling scores, embeddings, authors and categories; some of each are absent."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    vectors[rng.random(count) < 0.2] = 0.0
    return (
        -np.sort(-rng.normal(size=count)),
        vectors,
        rng.integers(-1, 6, count),
        rng.integers(-1, 4, count),
    )


@st.composite
def rules(draw: st.DrawFn) -> Diversity:
    spread = st.builds(
        Spread,
        by=st.sampled_from(["author", "category"]),
        most=st.integers(1, 3),
        places=st.integers(2, 8),
    )
    return Diversity(
        strategy=draw(st.sampled_from(STRATEGIES)),
        strength=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        spread=tuple(draw(st.lists(spread, max_size=3))),
        places=draw(st.sampled_from([1, 15, 20, 50, 100])),
    )


@settings(max_examples=60, deadline=None)
@given(rules(), st.integers(0, 150), st.integers(1, 120), st.integers(0, 50))
def test_an_order_is_one_of_all_items_and_its_beginning_does_not_hang_on_its_length(
    diversity: Diversity, items: int, count: int, seed: int
) -> None:
    score, vectors, authors, categories = world(items, seed)
    whole = varied(diversity, score, vectors, authors, categories, 500)
    assert sorted(whole.tolist()) == list(range(items))
    near = reach(diversity, count)
    some = varied(diversity, score, vectors[:near], authors[:near], categories[:near], count)
    assert sorted(some.tolist()) == list(range(items))
    assert some[:count].tolist() == whole[:count].tolist()


@settings(max_examples=60, deadline=None)
@given(rules(), st.integers(0, 30))
def test_a_rule_is_broken_only_when_everything_in_reach_would_break_one(
    diversity: Diversity, seed: int
) -> None:
    score, vectors, authors, categories = world(100, seed)
    codes = {"author": authors, "category": categories}
    order = varied(diversity, score, vectors, authors, categories, 100).tolist()

    def breaks(item: int, before: list[int]) -> bool:
        for rule in diversity.spread:
            near = codes[rule.by][before[-(rule.places - 1) :]].tolist()
            code = int(codes[rule.by][item])
            if code >= 0 and near.count(code) >= rule.most:
                return True
        return False

    for place in range(min(diversity.places, len(order))):
        before = order[:place]
        if breaks(order[place], before):
            block = place // BLOCK * BLOCK
            left = sorted(set(range(100)) - set(order[:block]))[:POOL]
            others = [item for item in left if item not in before]
            assert all(breaks(item, before) for item in others)


def test_the_best_item_comes_first_whatever_the_strategy() -> None:
    for strategy in ("mmr", "msd", "dpp", "ssd"):
        diversity = Diversity(strategy=strategy, strength=0.3)
        assert varied(diversity, *world(100), 20)[0] == 0


def test_off_and_nothing_to_spread_is_the_order_by_score() -> None:
    assert varied(Diversity(), *world(80), 20).tolist() == list(range(80))
    assert Diversity().off
    assert reach(Diversity(), 20) == 0
    unknown = np.full(80, -1)
    score, vectors, *_ = world(80)
    spread = Diversity(spread=(Spread(by="author", places=4),))
    assert varied(spread, score, vectors, unknown, unknown, 20).tolist() == list(range(80))
    blind = np.zeros((80, 0), np.float32)
    some = Diversity(strategy="mmr", strength=0.5)
    assert varied(some, score, blind, unknown, unknown, 20).tolist() == list(range(80))


@pytest.mark.parametrize("strategy", ["mmr", "msd", "dpp", "ssd"])
def test_a_stronger_strategy_spreads_wider_and_costs_more(strategy: str) -> None:
    score, vectors, authors, categories = world(200)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 64)).astype(np.float32)[rng.integers(0, 40, 200)]

    def measured(strength: float) -> tuple[float, float]:
        diversity = Diversity.model_validate({"strategy": strategy, "strength": strength})
        chosen = varied(diversity, score, vectors, authors, categories, BLOCK)[:BLOCK]
        unit = vectors[chosen] / np.linalg.norm(vectors[chosen], axis=1, keepdims=True)
        return float((1 - unit @ unit.T).mean()), float(score[chosen].sum())

    weak, strong = measured(0.0), measured(0.9)
    assert strong[0] > weak[0]
    assert strong[1] < weak[1]


def test_the_scale_of_scores_does_not_matter() -> None:
    score, vectors, authors, categories = world(100)
    diversity = Diversity(strategy="mmr", strength=0.3)
    usual = varied(diversity, score, vectors, authors, categories, 100)
    scaled = varied(diversity, 1_000 * score + 5, vectors, authors, categories, 100)
    assert scaled.tolist() == usual.tolist()


def test_embeddings_are_those_of_the_item_table(serving: Serving) -> None:
    items = serving.reading.tables[ITEM_KEY]
    found = serving.reading.vectors(items.rows_of_ids(["i3", "ghost", "i4"]))
    assert found.shape == (3, 5)
    assert found[1].tolist() == [0.0] * 5
    assert np.argmax(found[0]) == 3
    assert np.argmax(found[2]) == 4
