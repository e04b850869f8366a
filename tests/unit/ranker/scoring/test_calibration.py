"""Calibrations rise strictly, stay inside (0, 1), and come close to what happens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.errors import Refused
from ranker.scoring.calibration import Isotonic, Platt, sigmoid
from ranker.scoring.model import load_model, read_manifest
from ranker.training.boosting import Fitting
from ranker.training.calibrating import ISOTONIC_ROWS_MIN, Method, fit_calibration
from ranker.training.evaluation import log_loss
from ranker.training.fitting import HeadSpec, train_heads
from ranker.training.rows import TrainingRows
from tests.serving import trained


def sample(rows: int, seed: int, sharpness: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores that promise too much, and what then happens."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(-1.0, 2.0, rows)
    label = (rng.random(rows) < sigmoid(raw / sharpness - 0.5)).astype(np.int8)
    return raw, label


@settings(max_examples=40, deadline=None)
@given(
    st.integers(20, 3_000), st.integers(0, 1_000), st.sampled_from(["auto", "isotonic", "platt"])
)
def test_a_calibration_keeps_the_order_of_its_head(rows: int, seed: int, method: Method) -> None:
    raw, label = sample(rows, seed)
    found = fit_calibration(raw, label, method)
    if found is None:  # too little to tell, or a head that is worse than chance
        return
    asked = np.sort(np.concatenate([raw, np.linspace(-12, 12, 200)]))
    chance = found.probability(asked)
    assert ((chance > 0) & (chance < 1)).all()
    assert (np.diff(chance)[np.diff(asked) > 1e-6] > 0).all()


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibrated_chances_come_true(method: Method) -> None:
    raw, label = sample(20_000, 1)
    found = fit_calibration(raw, label, method)
    assert found is not None
    fresh, happened = sample(20_000, 2)
    chance = found.probability(fresh)
    assert log_loss(happened, chance) < log_loss(happened, sigmoid(fresh)) - 0.05
    for low in np.arange(0.1, 0.7, 0.1):
        inside = (chance >= low) & (chance < low + 0.1)
        if inside.sum() > 500:
            assert happened[inside].mean() == pytest.approx(chance[inside].mean(), abs=0.05)


def test_isotonic_needs_rows_and_both_need_both_labels() -> None:
    few, many = sample(ISOTONIC_ROWS_MIN // 2, 1), sample(ISOTONIC_ROWS_MIN * 2, 1)
    assert isinstance(fit_calibration(*few), Platt)
    assert isinstance(fit_calibration(*many), Isotonic)
    raw, label = many
    assert fit_calibration(raw, np.zeros_like(label)) is None
    assert fit_calibration(raw, label, "none") is None
    assert fit_calibration(raw, (raw < 0).astype(np.int8), "platt") is None


@pytest.mark.parametrize(
    "knots",
    [
        {"raw": [0.0, 1.0], "chance": [0.5]},
        {"raw": [1.0, 0.0], "chance": [0.1, 0.2]},
        {"raw": [0.0, 1.0], "chance": [0.2, 0.2]},
        {"raw": [0.0], "chance": [1.0]},
        {"raw": [], "chance": []},
    ],
)
def test_knots_that_do_not_rise_are_refused(knots: dict[str, list[float]]) -> None:
    with pytest.raises(ValidationError):
        Isotonic.model_validate(knots)


def test_a_calibration_is_served_from_the_manifest(rows: TrainingRows, tmp_path: Path) -> None:
    folder = trained(tmp_path, rows, "click", "rank=lambdarank:click")
    click, rank = read_manifest(folder).heads
    assert click.calibration is not None
    assert rank.calibration is None
    model = load_model(folder, rows.columns)
    raw = model.forests["click"].predict(rows.matrix)
    scores = model.score(rows.matrix)
    assert np.array_equal(scores["click"], click.calibration.probability(raw))
    assert np.array_equal(scores["rank"], model.forests["rank"].predict(rows.matrix))


def test_no_calibration_leaves_the_log_odds_and_a_bad_one_is_refused(
    rows: TrainingRows, tmp_path: Path
) -> None:
    heads = train_heads(rows, [HeadSpec.parse("click")], Fitting(trees=5, calibration="none"))
    assert heads[0].calibration is None
    folder = trained(tmp_path, rows, "click", trees=5)
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"method": "', '"method": "un'))
    with pytest.raises(Refused, match="calibration"):
        read_manifest(folder)
