"""What chance could make of a figure: the bootstrap, by owner and in pairs.

Rows of one person are not independent, so people are drawn with replacement, never rows (cluster
bootstrap: Field and Welsh, JRSS B, 2007). Two models are judged on the same draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranker.training.evaluation import auc_by_request

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Figure = Callable[[Floats], float]
"""A figure as a function of how often each owner [owner] was drawn."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure on all rows, and the middle 95 % of what draws make of it."""

    value: float
    low: float
    high: float


def interval(figure: Figure, owners: int, draws: int = 1000, seed: int = 1) -> Interval:
    """The figure with its 95 % interval; nan figures of a draw are left out."""
    random = np.random.default_rng(seed)
    drawn = [
        figure(np.bincount(random.integers(0, owners, owners), minlength=owners).astype(np.float64))
        for _ in range(draws)
    ]
    told = [value for value in drawn if not np.isnan(value)] or [float("nan")]
    low, high = np.quantile(told, (0.025, 0.975))
    return Interval(figure(np.ones(owners)), float(low), float(high))


def weighted_auc(label: ArrayLike, score: ArrayLike, owner: Ints) -> Figure:
    """AUC over all rows, each as often as its owner was drawn."""
    labels, scores = np.asarray(label, np.float64), np.asarray(score, np.float64)
    order = np.argsort(scores, kind="stable")
    labels, owners = labels[order], owner[order]
    tie = np.concatenate([[0], np.cumsum(np.diff(scores[order]) != 0)])

    def figure(drawn: Floats) -> float:
        weight = drawn[owners]
        up = np.bincount(tie, weight * labels)
        down = np.bincount(tie, weight * (1 - labels))
        below = np.cumsum(down) - down
        pairs = up.sum() * down.sum()
        return float(up @ (below + down / 2) / pairs) if pairs else float("nan")

    return figure


def weighted_gauc(label: ArrayLike, score: ArrayLike, request: Ints, owner: Ints) -> Figure:
    """Request GAUC, each request as often as its owner was drawn; `owner` [row] is one per
    request."""
    found, rows, first = auc_by_request(label, score, request)
    both = ~np.isnan(found)
    values, sizes, owners = found[both], rows[both], owner[first[both]]

    def figure(drawn: Floats) -> float:
        weight = drawn[owners] * sizes
        return float(weight @ values / weight.sum()) if weight.sum() else float("nan")

    return figure


def lead(ours: Figure, theirs: Figure) -> Figure:
    """How far one figure is above another on the same draw."""
    return lambda drawn: ours(drawn) - theirs(drawn)
