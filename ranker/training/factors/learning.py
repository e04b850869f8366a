"""Learning factors: one pass of logistic regression over everything that was seen, in its order.

The odds of an answer are a sum of what the item, its author, its category, the user, the user on
that surface and the way of seeing add, and of the user's vector times the item's embedding (Koren
et al., Computer 2009: matrix factorization with biases). Each sighting moves all of them by what
they together failed to foretell, in steps that shrink as a part has learnt more (AdaGrad: Duchi et
al., JMLR 2011).
"""

import math
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from features.compiled import kernel
from ranker.training.factors.sightings import NOBODY, SURFACES_MAX, Sighted, Vectors

Ints = NDArray[np.int64]

INTERCEPT = 0.5
BESIDE = 2
"""Numbers of a vector beside the embedding's: what an item and what a user adds alone."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How far each part moves at its first surprise, in log-odds: chosen on days before 2 May of
    the KuaiRand stream (see the README of `tests/benchmarks`)."""

    item: float = 0.2
    author: float = 0.1
    category: float = 0.04
    user: float = 0.3
    user_surface: float = 0.3
    vector: float = 0.3
    shrinkage: float = 0.002
    """What each step takes of a part in proportion: L2."""


class Factors(NamedTuple):
    """Vectors whose product is what a user and an item add to the odds of an answer.

    A user's is (their vector, 1, what they add alone); an item's (its embedding, what it, its
    author and its category add, 1). All are in log-odds, and none is of zeros alone.
    """

    users: list[str]
    user_vectors: Vectors
    """[user, dimension + 2]"""
    items: list[str]
    item_vectors: Vectors
    """[item, dimension + 2]"""


def learn(seen: Sighted, rates: Rates) -> Factors:
    """Factors of all users and items that were told of; the same sightings give the same bits."""
    author, category = _named(seen.author), _named(seen.category)
    parts = [
        (seen.item, len(seen.items)),
        (author[seen.item], _room(author)),
        (category[seen.item], _room(category)),
        (seen.user, len(seen.users)),
        _on_surfaces(seen),
        _ways(seen),
    ]
    starts = np.cumsum([0, *(room for _, room in parts)])
    alone = np.zeros(int(starts[-1]))
    vectors: Vectors = np.zeros((len(seen.users), seen.vector.shape[1]), np.float32)
    _descend(
        np.column_stack([codes + start for (codes, _), start in zip(parts, starts, strict=False)]),
        seen.user,
        seen.item,
        seen.answered,
        seen.vector,
        alone,
        np.zeros_like(alone),
        vectors,
        np.zeros(len(seen.users)),
        np.array([*astuple(rates)[: len(parts) - 1], INTERCEPT]),
        rates.vector,
        rates.shrinkage,
    )
    of_item, of_author, of_category, of_user, *_ = np.split(alone, starts[1:])
    worth = of_item + of_author[author] + of_category[category]
    one, known = np.ones_like, np.flatnonzero(seen.known)
    of_users = np.column_stack([vectors, one(of_user), of_user]).astype(np.float32)
    return Factors(
        [seen.users[user] for user in known.tolist()],
        of_users[known],
        seen.items,
        np.column_stack([seen.vector, worth, one(worth)]).astype(np.float32),
    )


def _named(codes: NDArray[np.int32]) -> Ints:
    """Codes from 0, where 0 stands for nobody."""
    return codes.astype(np.int64) - NOBODY


def _room(codes: Ints) -> int:
    return int(codes.max(initial=0)) + 1


def _on_surfaces(seen: Sighted) -> tuple[Ints, int]:
    """[sighting]: which user on which surface, none being one as well; and how many there are."""
    pair = seen.user.astype(np.int64) * (SURFACES_MAX + 1) + _named(seen.surface)
    known, codes = np.unique(pair, return_inverse=True)
    return codes, len(known)


def _ways(seen: Sighted) -> tuple[Ints, int]:
    """[sighting]: by which way of seeing, on which surface; and how many there are."""
    ways = seen.kind.astype(np.int64) * (SURFACES_MAX + 1) + _named(seen.surface)
    return ways, _room(ways)


@kernel
def _descend(
    parts: Ints,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    answered: NDArray[np.int8],
    embedding: Vectors,
    alone: Floats,
    moved: Floats,
    vectors: Vectors,
    turned: Floats,
    rates: Floats,
    vector_rate: float,
    shrinkage: float,
) -> None:
    """Walk over the sightings: `parts` [sighting, part] are places in `alone`; `moved` and `turned`
    sum the squares of the steps of `alone` and of the users' `vectors`."""
    dimension = embedding.shape[1]
    for sighting in range(len(answered)):
        own, place = user[sighting], item[sighting]
        score = 0.0
        for part in range(parts.shape[1]):
            score += alone[parts[sighting, part]]
        for number in range(dimension):
            score += vectors[own, number] * embedding[place, number]
        surprise = answered[sighting] - 1.0 / (1.0 + math.exp(-score))
        square = surprise * surprise
        for part in range(parts.shape[1]):
            at = parts[sighting, part]
            moved[at] += square
            step = rates[part] / math.sqrt(1.0 + moved[at])
            alone[at] += step * (surprise - shrinkage * alone[at])
        turned[own] += square
        step = vector_rate / math.sqrt(1.0 + turned[own])
        for number in range(dimension):
            pull = surprise * embedding[place, number] - shrinkage * vectors[own, number]
            vectors[own, number] += step * pull
