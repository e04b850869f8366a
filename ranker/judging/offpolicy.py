"""What a policy would have earned, from what another one showed by chance.

A reward is seen only for what was shown. Where chance chose, and the chance was logged, each reward
is weighed by how much likelier the new policy would have been to show it: inverse propensity scores
(Horvitz and Thompson, 1952), and self-normalised (Swaminathan and Joachims, NeurIPS 2015).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranker.training.resampling import Interval, interval

Floats = NDArray[np.float64]

SAMPLE_MIN = 100.0
SHARE_MIN = 0.1
WEIGHT_SHARE_MAX = 0.1
NOTHING_EXPLORED = (
    "no row has a logged propensity: nothing was left to chance, so what was not shown is unknown. "
    "Give the fresh items exploration slots (HEADRACE_EXPLORE_MAX)"
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean reward of a shown item under the new policy."""

    ips: Interval
    snips: Interval
    rows: int
    effective: float
    """(Σ w)² / Σ w²: so many rows of equal weight would tell as much (Kish, 1965)."""
    doubts: tuple[str, ...]
    """Why the estimate cannot be trusted; none: it can."""


def estimate(
    reward: ArrayLike,
    logged: ArrayLike,
    chance: ArrayLike,
    owner: ArrayLike,
    draws: int = 1000,
    seed: int = 1,
) -> Estimate:
    """From rows that were shown with the logged propensity, above 0 and at most 1, and that the new
    policy would show with the given chance; intervals are by owners drawn with replacement.

    Rows without a propensity (nan) were left to no chance and tell nothing; they are left out.
    Raises ValueError for a chance outside 0 to 1, and for columns of different lengths.
    """
    rewards, propensities, chances = (
        np.asarray(column, np.float64) for column in (reward, logged, chance)
    )
    owners = np.asarray(owner)
    if not len(rewards) == len(propensities) == len(chances) == len(owners):
        raise ValueError("rewards, propensities, chances and owners must be equal columns")
    left = ~np.isnan(propensities)
    if np.any((propensities[left] <= 0) | (propensities[left] > 1)):
        raise ValueError("a logged propensity lies above 0 and at most 1")
    if np.any(~((chances >= 0) & (chances <= 1))):
        raise ValueError("a chance lies between 0 and 1")
    weight = chances[left] / propensities[left]
    number = np.unique(owners[left], return_inverse=True)[1]
    count = int(number.max()) + 1 if len(number) else 0
    earned, weights, rows = (
        np.bincount(number, column, minlength=count)
        for column in (weight * rewards[left], weight, np.ones(len(weight)))
    )
    squares = float(weight @ weight)
    effective = float(weight.sum() ** 2 / squares) if squares else 0.0
    doubts = tuple(_doubts(weight, effective))
    if not count:
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        return Estimate(nothing, nothing, 0, 0.0, doubts)
    return Estimate(
        interval(
            lambda drawn: _share(float(drawn @ earned), float(drawn @ rows)), count, draws, seed
        ),
        interval(
            lambda drawn: _share(float(drawn @ earned), float(drawn @ weights)), count, draws, seed
        ),
        len(weight),
        effective,
        doubts,
    )


def _share(of: float, per: float) -> float:
    return of / per if per else float("nan")


def _doubts(weight: Floats, effective: float) -> list[str]:
    """In words, with what would help."""
    if not len(weight):
        return [NOTHING_EXPLORED]
    if not weight.any():
        return ["the new policy shows nothing of what was explored: nothing tells what it earns"]
    found = []
    if effective < SAMPLE_MIN:
        found.append(
            f"the rows are worth {effective:.0f} of equal weight, fewer than {SAMPLE_MIN:.0f}: "
            "record for longer, or explore more"
        )
    if effective < SHARE_MIN * len(weight):
        found.append(
            f"the rows are worth {effective / len(weight):.0%} of their number: the policies have "
            "little in common"
        )
    if weight.max() > WEIGHT_SHARE_MAX * weight.sum():
        found.append(
            f"one row carries {weight.max() / weight.sum():.0%} of all weight: what it earned "
            "decides"
        )
    return found
