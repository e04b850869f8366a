"""Our picks are pyversity's."""

import numpy as np
import pytest
from pyversity import diversify

from ranker.stages.marginal_relevance import marginal_relevance


@pytest.mark.parametrize("strength", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(20))
def test_the_picks_are_those_of_pyversity(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 80))
    vectors = rng.normal(size=(count, 16)).astype(np.float32)
    vectors[rng.random(count) < 0.1] *= 1e-9  # too short to be made longer
    worth = rng.random(count)
    size = int(rng.integers(1, count + 10))
    theirs = diversify(vectors, worth, size, "mmr", strength).indices
    assert marginal_relevance(vectors, worth, size, strength).tolist() == theirs.tolist()


def test_of_equals_the_first_is_picked() -> None:
    vectors = np.ones((4, 2), np.float32)
    assert marginal_relevance(vectors, np.ones(4), 4, 0.5).tolist() == [0, 1, 2, 3]
