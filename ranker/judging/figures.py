"""Figures of what two sides said of the same rows, with what chance makes of their difference."""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ranker.training.resampling import Figure, Interval, interval, lead

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure on both sides; nan where a side has none."""

    name: str
    logged: float
    other: float
    difference: Interval | None = None
    """Other less logged, and the middle 95 % of what draws of people make of it."""


def compared(
    name: str,
    make: Callable[[Floats], Figure],
    logged: Floats | None,
    other: Floats | None,
    owners: int,
    draws: int,
    seed: int,
) -> Compared:
    """A figure made of each side's numbers [row]; None: the side has none."""
    theirs, ours = (None if side is None else make(side) for side in (logged, other))
    every = np.ones(owners)
    before, after = (nan if figure is None else figure(every) for figure in (theirs, ours))
    if theirs is None or ours is None:
        return Compared(name, before, after)
    return Compared(name, before, after, interval(lead(ours, theirs), owners, draws, seed))


def weighted_log_loss(label: Ints, chance: Floats, owner: Ints) -> Figure:
    """Mean −log of the chance given to what happened, each row as often as its owner was drawn."""
    loss = -np.log(np.where(label == 1, chance, 1 - chance))
    return lambda drawn: _mean(loss, drawn[owner])


def weighted_calibration(label: Ints, chance: Floats, owner: Ints) -> Figure:
    """What was promised over what came: 1 is right, 2 is twice too much."""

    def figure(drawn: Floats) -> float:
        weight = drawn[owner]
        came = float(weight @ label)
        return float(weight @ chance) / came if came else nan

    return figure


def weighted_calibration_error(label: Ints, chance: Floats, owner: Ints) -> Figure:
    """How far the mean promise lies from what came, over bins of equal size (expected calibration
    error: Naeini, Cooper and Hauskrecht, AAAI 2015)."""
    number = _bins(chance)

    def figure(drawn: Floats) -> float:
        weight = drawn[owner]
        apart = np.abs(np.bincount(number, weight * (chance - label))).sum()
        return float(apart / weight.sum()) if weight.sum() else nan

    return figure


def weighted_mean(values: Floats, owner: Ints) -> Figure:
    """The mean, each value as often as its owner was drawn; nan values are left out."""
    known = ~np.isnan(values)
    there, owners = values[known], owner[known]
    return lambda drawn: _mean(there, drawn[owners])


@dataclass(frozen=True, slots=True)
class Curve:
    """What was promised and what came, in bins of equal size; empty where nothing was promised."""

    promised: tuple[float, ...] = ()
    came: tuple[float, ...] = ()


def curve(label: Ints, chance: Floats) -> Curve:
    """The calibration curve of chances [row]."""
    number = _bins(chance)
    rows = np.bincount(number)
    promised, came = np.bincount(number, chance) / rows, np.bincount(number, label) / rows
    return Curve(tuple(promised.tolist()), tuple(came.tolist()))


def _bins(chance: Floats) -> Ints:
    """[row]: its bin by rising chance, none of which is empty."""
    place = np.empty(len(chance), np.int64)
    place[np.argsort(chance, kind="stable")] = np.arange(len(chance))
    bins = min(BINS, len(chance))
    number: Ints = place * bins // max(len(chance), 1)
    return number


def _mean(values: Floats, weight: Floats) -> float:
    return float(weight @ values / weight.sum()) if weight.sum() else nan
