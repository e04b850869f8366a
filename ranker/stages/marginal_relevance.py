"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), as pyversity defines it.

pyversity's picks, made from one product of all vectors by a compiled loop: its own passes over
arrays, five for each pick, take a tenth of a request.
"""

from typing import Final

import numpy as np

from features.as_of_kernels import Floats, Vectors
from features.compiled import kernel
from features.layout import Ints

SMALLEST: Final = float(np.finfo(np.float32).eps)
"""A vector shorter than this is not made longer."""


def marginal_relevance(vectors: Vectors, worth: Floats, size: int, strength: float) -> Ints:
    """The places of `size` items, the best first: each next one is worth most after what it
    resembles of those before, by cosine, is taken off with this strength (0 to 1)."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    unit = vectors / np.maximum(length, np.float32(SMALLEST))[:, None]
    relevance = worth.astype(np.float32)
    return pick(unit @ unit.T, relevance, min(size, len(worth)), np.float32(strength))


@kernel
def pick(likeness: Vectors, relevance: Vectors, size: int, strength: np.float32) -> Ints:
    """Places by falling marginal relevance; `likeness` is [item, item]."""
    kept = np.float32(1.0) - strength
    nearest = np.full(len(relevance), np.float32(0.0))
    taken = np.zeros(len(relevance), np.bool_)
    places = np.empty(size, np.int64)
    for step in range(size):
        best, most = -1, np.float32(0.0)
        for i in range(len(relevance)):
            if not taken[i]:
                value = relevance[i]
                if step > 0:
                    value = kept * value - strength * nearest[i]
                if best < 0 or value > most:
                    best, most = i, value
        places[step], taken[best] = best, True
        for i in range(len(relevance)):
            nearest[i] = max(nearest[i], min(likeness[best, i], np.float32(1.0)))
    return places
