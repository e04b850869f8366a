"""Fitting one head: early stopping, constraints, importance, seeds, rows on disk."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import BadInput
from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.fitting import HeadSpec, train_heads
from ranker.training.rows import TrainingRows
from tests.browsing import browsing
from tests.serving import replayed

CTR = "item_rates__ctr_short"


def test_patience_stops_where_later_requests_gain_nothing(rows: TrainingRows) -> None:
    fitting = Fitting(trees=400, patience=5, held_back=0.4, parameters={"learning_rate": 0.5})
    (head,) = train_heads(rows, [HeadSpec.parse("click")], fitting)
    trees = head.model_text.count("\nTree=")
    assert 0 < trees < 400
    twice = Fitting(
        trees=400, patience=5, held_back=0.4, average=2, parameters={"learning_rate": 0.5}
    )
    (pair,) = train_heads(rows, [HeadSpec.parse("click")], twice)
    assert pair.model_text.count("\nTree=") == 2 * trees


@pytest.mark.parametrize("direction", [1, -1])
def test_a_monotone_column_moves_the_score_one_way_alone(
    rows: TrainingRows, direction: int
) -> None:
    column = rows.columns.index(CTR)
    fitted = fit(rows, "click", "binary", Fitting(trees=30, monotone={CTR: direction}))
    ladder = np.repeat(rows.matrix[:40], 25, axis=0)
    ladder[:, column] = np.tile(np.linspace(0, 1, 25), 40)
    steps = np.diff(raw_scores(fitted.text, ladder).reshape(40, 25), axis=1)
    assert np.all(direction * steps >= 0)
    free = fit(rows, "click", "binary", Fitting(trees=30))
    assert fitted.text != free.text


def test_a_constraint_on_no_column_is_refused_with_the_columns(rows: TrainingRows) -> None:
    with pytest.raises(BadInput, match=f"'ctr'.*{CTR}"):
        fit(rows, "click", "binary", Fitting(trees=2, monotone={"ctr": 1}))


def test_importance_is_each_columns_share_of_the_gain(rows: TrainingRows) -> None:
    label = rows.labels["click"].astype(np.float64)
    told = rows.matrix.copy()
    told[:, 2] = label + np.random.default_rng(1).normal(0, 0.2, len(rows))
    given = TrainingRows(rows.columns, told, rows.labels, rows.request, rows.now)
    gain = fit(given, "click", "binary", Fitting(trees=10, average=2)).gain
    assert sum(gain.values()) == pytest.approx(1)
    assert gain[rows.columns[2]] > 0.5


def test_rows_on_disk_give_the_same_model_as_rows_in_memory(tmp_path: Path) -> None:
    events = browsing(200)
    memory, disk = replayed(events), replayed(events, spill=tmp_path / "rows")
    assert isinstance(disk.matrix.base, np.memmap) or isinstance(disk.matrix, np.memmap)
    assert np.array_equal(disk.matrix, memory.matrix, equal_nan=True)
    late = disk.now >= np.median(disk.now)
    assert np.shares_memory(disk.part(late).matrix, disk.matrix)
    texts = {fit(rows, "click", "binary", Fitting(trees=5)).text for rows in (memory, disk)}
    assert len(texts) == 1
