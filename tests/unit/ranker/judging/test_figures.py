"""Figures by draws of people: each is that of the rows as often as their owners were drawn."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ranker.judging.figures import (
    BINS,
    compared,
    curve,
    weighted_calibration,
    weighted_calibration_error,
    weighted_log_loss,
    weighted_mean,
)
from ranker.training.evaluation import log_loss
from ranker.training.resampling import Figure, weighted_auc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RANDOM = np.random.default_rng(4)
OWNER = RANDOM.integers(0, 30, 400)
CHANCE = RANDOM.uniform(0.02, 0.9, 400)
LABEL = (RANDOM.random(400) < CHANCE).astype(np.int64)
EVERY = np.ones(30)
Make = Callable[[Ints, Floats, Ints], Figure]


@pytest.mark.parametrize("make", [weighted_log_loss, weighted_calibration])
def test_an_owner_drawn_twice_counts_twice(make: Make) -> None:
    drawn = RANDOM.integers(0, 4, 30).astype(np.float64)
    again = np.repeat(np.arange(400), drawn[OWNER].astype(int))
    repeated = make(LABEL[again], CHANCE[again], np.zeros(len(again), np.int64))
    assert make(LABEL, CHANCE, OWNER)(drawn) == pytest.approx(repeated(np.ones(1)))


def test_log_loss_and_calibration_are_what_they_say() -> None:
    assert weighted_log_loss(LABEL, CHANCE, OWNER)(EVERY) == pytest.approx(log_loss(LABEL, CHANCE))
    assert weighted_calibration(LABEL, CHANCE, OWNER)(EVERY) == CHANCE.sum() / LABEL.sum()
    twice = weighted_calibration(LABEL, 2 * CHANCE, OWNER)(EVERY)
    assert twice == pytest.approx(2 * CHANCE.sum() / LABEL.sum())
    assert np.isnan(weighted_calibration(0 * LABEL, CHANCE, OWNER)(EVERY))


def test_the_calibration_error_is_the_mean_gap_over_bins_of_equal_size() -> None:
    order = np.argsort(CHANCE, kind="stable")
    bins = np.array_split(order, BINS)
    gaps = [abs(CHANCE[b].mean() - LABEL[b].mean()) * len(b) / 400 for b in bins]
    found = weighted_calibration_error(LABEL, CHANCE, OWNER)(EVERY)
    assert found == pytest.approx(sum(gaps))
    line = curve(LABEL, CHANCE)
    assert line.promised == pytest.approx([CHANCE[b].mean() for b in bins])
    assert line.came == pytest.approx([LABEL[b].mean() for b in bins])


def test_a_mean_leaves_out_what_is_not_known() -> None:
    values = np.array([1.0, np.nan, 3.0])
    assert weighted_mean(values, np.array([0, 1, 2]))(np.ones(3)) == 2
    assert weighted_mean(values, np.array([0, 1, 2]))(np.array([3.0, 5.0, 1.0])) == 1.5
    assert np.isnan(weighted_mean(values[1:2], np.array([0]))(np.ones(1)))


def test_two_sides_are_judged_on_the_same_draws() -> None:
    def make(side: Floats) -> Figure:
        return weighted_auc(LABEL, side, OWNER)

    same = compared("AUC", make, CHANCE, CHANCE.copy(), 30, 100, 1)
    assert same.difference is not None
    assert (same.difference.low, same.difference.value, same.difference.high) == (0, 0, 0)
    noise = CHANCE + RANDOM.normal(0, 0.5, 400)
    worse = compared("AUC", make, CHANCE, noise, 30, 100, 1)
    assert worse.difference is not None
    assert worse.difference.value == pytest.approx(worse.other - worse.logged)
    assert worse.difference.high < 0
    alone = compared("AUC", make, None, CHANCE, 30, 100, 1)
    assert np.isnan(alone.logged)
    assert alone.other == same.other
    assert alone.difference is None
