"""A varied order: some score is given so that neighbours differ.

The order is made block by block: of the best that are left, a pool, the strategy picks a block's
worth over their embeddings, and the spread rules let an item wait while too many of its author or
category stand before it. A block depends on nothing after it, so the order of the first n places is
the same whatever n is: a page cut out of it continues the page before.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyversity import diversify

from features.as_of_kernels import Floats, Vectors
from features.layout import Ints
from ranker.rules import Diversity
from ranker.stages.marginal_relevance import marginal_relevance
from ranker.stages.spreading import Spreading

BLOCK: Final = 20
POOL: Final = 60
"""Places made at a time, and how many of the best that are left compete for them."""


def varied(
    rules: Diversity, score: Floats, vectors: Vectors, authors: Ints, categories: Ints, count: int
) -> Ints:
    """Places of `score` [item], which falls, in a varied order; its first `count` are asked for.

    `vectors` is [item, dimension], a row of zeros where there is none; it may cover only the first
    `reach(rules, count)` items, and so may `authors` and `categories`. What cannot be spread stands
    all the same: a feed is never made shorter.
    """
    order = np.arange(len(score))
    if rules.off:
        return order
    count = min(count, rules.places, len(score))
    spread = Spreading(rules.spread, authors, categories)
    left = order[: reach(rules, count)].tolist()
    chosen: list[int] = []
    while left and len(chosen) < count:
        pool = left[:POOL]
        size = min(BLOCK, rules.places - len(chosen), len(pool))
        wanted = _picked(rules, pool, size, score, vectors)
        block = spread.place(wanted, size) if rules.spread else wanted[:size]
        taken = set(block)
        left = [place for place in left if place not in taken]
        chosen += block
    rest = np.ones(len(score), np.bool_)
    rest[chosen] = False
    found: Ints = np.concatenate([np.array(chosen, np.int64), order[rest]])
    return found


def reach(rules: Diversity, count: int) -> int:
    """How many of the best items the first `count` places of a varied order may be filled from."""
    if rules.off:
        return 0
    blocks = -(-min(count, rules.places) // BLOCK)
    return blocks * BLOCK + POOL - BLOCK


def _picked(
    rules: Diversity, pool: list[int], size: int, score: Floats, vectors: Vectors
) -> list[int]:
    """The pool with the strategy's picks first, in its order, then the others by score."""
    if rules.strategy == "off" or len(pool) == 1:
        return pool
    given = vectors[pool]
    if not given.any():
        return pool
    worth = score[pool]
    low, high = worth.min(), worth.max()
    # Strengths then mean the same whatever the scale of the value model.
    worth = (worth - low) / (high - low) if high > low else np.zeros(len(pool))
    picks = _picks(rules, _completed(given), worth, size)
    first = [pool[pick] for pick in dict.fromkeys(picks.tolist())]
    taken = set(first)
    return first + [place for place in pool if place not in taken]


def _picks(rules: Diversity, vectors: Vectors, worth: Floats, size: int) -> NDArray[np.integer]:
    """Places of the pool in the order of the strategy."""
    if rules.strategy == "mmr":
        return marginal_relevance(vectors, worth, size, rules.strength)
    # Past the rank of the embeddings DPP divides noise by noise, and may name an item twice.
    with np.errstate(all="ignore"):
        return diversify(vectors, worth, size, rules.strategy, rules.strength).indices


def _completed(vectors: Vectors) -> NDArray[np.float32]:
    """An item without an embedding counts as an average one; zeros would be unlike everything."""
    absent = ~vectors.any(axis=1)
    if not absent.any():
        return vectors
    vectors = vectors.copy()
    vectors[absent] = vectors[~absent].mean(axis=0)
    return vectors
