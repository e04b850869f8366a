"""Which rows are learnt from."""

import numpy as np
import pytest

from features.errors import BadInput
from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.rows import TrainingRows
from ranker.training.sampling import once, thinned


def test_an_item_shown_twice_is_one_row_with_all_that_followed() -> None:
    items, outcomes = once(["a", "b", "a"], [{"click"}, set(), ["like"]])
    assert items == ["a", "b"]
    assert outcomes == [{"click", "like"}, set()]


def test_thinning_keeps_what_was_followed_and_as_much_weight(rows: TrainingRows) -> None:
    part = thinned(rows, 0.25, seed=3)
    assert part.weight is not None
    for action, label in rows.labels.items():
        assert part.labels[action].sum() == label.sum()
    plain = np.flatnonzero(part.weight == 4.0)
    assert 0 < len(plain) < 0.4 * len(rows)
    assert part.weight.sum() == pytest.approx(len(rows), rel=0.1)
    assert np.all(np.diff(part.now) >= 0)


def test_a_thinned_model_promises_what_the_whole_one_does(rows: TrainingRows) -> None:
    fitting = Fitting(trees=20)
    whole, few = (
        raw_scores(fit(r, "click", "binary", fitting).text, rows.matrix)
        for r in (rows, thinned(rows, 0.4, seed=1))
    )
    rates = [float(np.mean(1 / (1 + np.exp(-raw)))) for raw in (whole, few)]
    assert rates[1] == pytest.approx(rates[0], rel=0.1)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(rows: TrainingRows, keep: float) -> None:
    with pytest.raises(BadInput, match="share"):
        thinned(rows, keep, seed=1)
