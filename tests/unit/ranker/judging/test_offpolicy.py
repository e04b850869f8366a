"""What another policy would have earned: found where it can be known, doubted where not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ranker.judging.offpolicy import estimate

WORTH = np.array([0.1, 0.2, 0.6])
"""How often each of three items is clicked, wherever it is shown."""
LOGGED = np.array([0.6, 0.3, 0.1])
NEW = np.array([0.1, 0.2, 0.7])


def _shown(
    rows: int, seed: int, logged: NDArray[np.float64] = LOGGED
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    item = random.choice(3, rows, p=logged)
    return item, (random.random(rows) < WORTH[item]).astype(float)


def test_the_worth_of_a_policy_that_never_served_is_found() -> None:
    item, clicked = _shown(6000, seed=1)
    found = estimate(clicked, LOGGED[item], NEW[item], np.arange(6000) // 3, draws=200)
    truth = float(NEW @ WORTH)
    assert clicked.mean() < 0.25 < truth
    for figure in (found.ips, found.snips):
        assert figure.low < truth < figure.high
        assert figure.value == pytest.approx(truth, rel=0.1)
    assert found.doubts == ()
    assert found.effective < found.rows == 6000


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth, hits = float(NEW @ WORTH), 0
    for seed in range(60):
        item, clicked = _shown(800, seed)
        found = estimate(clicked, LOGGED[item], NEW[item], np.arange(800), draws=150)
        hits += found.snips.low <= truth <= found.snips.high
    assert hits >= 50


def test_the_same_policy_earns_what_was_earned_and_all_rows_count() -> None:
    item, clicked = _shown(500, seed=2)
    found = estimate(clicked, LOGGED[item], LOGGED[item], np.arange(500), draws=50)
    assert found.ips.value == found.snips.value == pytest.approx(clicked.mean())
    assert found.effective == pytest.approx(500)


@pytest.mark.parametrize(
    ("logged", "chance", "said"),
    [
        (np.full(50, np.nan), np.ones(50), "no row has a logged propensity"),
        (np.full(50, 0.5), np.zeros(50), "shows nothing of what was explored"),
        (np.full(50, 0.5), np.full(50, 0.5), "worth 50 of equal weight"),
        (np.r_[0.001, np.ones(999)], np.ones(1000), "one row carries 50%"),
        (np.r_[np.full(10, 0.001), np.ones(9990)], np.ones(10000), "of their number"),
    ],
)
def test_what_cannot_be_trusted_says_why(
    logged: NDArray[np.float64], chance: NDArray[np.float64], said: str
) -> None:
    rows = len(logged)
    found = estimate(np.ones(rows), logged, chance, np.arange(rows), draws=20)
    assert any(said in doubt for doubt in found.doubts), found.doubts


@pytest.mark.parametrize(
    ("logged", "chance"), [([0.0], [1.0]), ([1.5], [1.0]), ([0.5], [1.5]), ([0.5], [np.nan])]
)
def test_chances_that_are_none_are_refused(logged: list[float], chance: list[float]) -> None:
    with pytest.raises(ValueError, match="lies"):
        estimate([1.0], logged, chance, [0])
