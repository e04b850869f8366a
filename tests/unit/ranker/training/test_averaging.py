"""A mean of boosters as one model text: LightGBM and the forest both read it."""

import lightgbm
import numpy as np
import pytest

from ranker.scoring.forest import Forest
from ranker.training.averaging import averaged
from ranker.training.boosting import Fitting, fit
from ranker.training.rows import TrainingRows


def _texts(rows: TrainingRows, seeds: int) -> list[str]:
    return [fit(rows, "click", "binary", Fitting(trees=6, seed=seed)).text for seed in range(seeds)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_its_raw_score_is_the_mean_of_theirs(rows: TrainingRows, count: int) -> None:
    texts = _texts(rows, count)
    each = [lightgbm.Booster(model_str=t).predict(rows.matrix, raw_score=True) for t in texts]
    one = averaged(texts)
    expected = np.mean(each, axis=0)
    assert np.allclose(Forest.from_model_text(one).predict(rows.matrix), expected, rtol=1e-12)
    scores = lightgbm.Booster(model_str=one).predict(rows.matrix, raw_score=True)
    assert np.allclose(scores, expected, rtol=1e-12)
    assert not np.allclose(each[0], each[-1]) or count == 1


def test_explanations_of_it_sum_to_its_raw_score(rows: TrainingRows) -> None:
    booster = lightgbm.Booster(model_str=averaged(_texts(rows, 2)))
    shares = np.asarray(booster.predict(rows.matrix[:50], pred_contrib=True))
    assert np.allclose(shares.sum(axis=1), booster.predict(rows.matrix[:50], raw_score=True))


def test_it_survives_being_saved_and_read_again(rows: TrainingRows) -> None:
    one = averaged(_texts(rows, 3))
    again = lightgbm.Booster(model_str=one)
    assert again.num_trees() == 18
    restored = lightgbm.Booster(model_str=again.model_to_string())
    assert np.array_equal(restored.predict(rows.matrix), again.predict(rows.matrix))
