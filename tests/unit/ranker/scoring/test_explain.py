"""Reasons: the shares of the groups and the base sum to the score, whatever the heads."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.events import Event
from ranker.scoring.value import ValueModel, ValueWeights
from ranker.training.rows import TrainingRows
from tests.serving import Serving, folded, trained

HEADS = ("click", "skip", "rank=lambdarank:click")
NAMES = ["click", "skip", "rank"]


@pytest.fixture(scope="module")
def several(
    rows: TrainingRows, browsed: list[Event], tmp_path_factory: pytest.TempPathFactory
) -> Serving:
    folder: Path = trained(tmp_path_factory.mktemp("several"), rows, *HEADS, trees=8)
    return Serving(folded(browsed), folder)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    weights=st.dictionaries(st.sampled_from(NAMES), st.floats(-50, 50), min_size=1),
    seed=st.integers(0, 1_000),
)
def test_shares_and_the_base_sum_to_the_utility(
    several: Serving, rows: TrainingRows, weights: dict[str, float], seed: int
) -> None:
    heads = several.reading.heads
    assert heads is not None
    if not any(weights.values()):
        weights["click"] = 1.0
    rng = np.random.default_rng(seed)
    matrix = rows.matrix[rng.integers(0, len(rows), 5)]
    matrix = np.where(rng.random(matrix.shape) < 0.1, np.nan, matrix)
    value = ValueModel(ValueWeights(default=weights), NAMES)
    utility = value.value(heads.score(matrix), "home")
    for reasons, expected in zip(heads.reasons(matrix, weights), utility, strict=True):
        total = sum(reason.contribution for reason in reasons)
        assert total == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert len({reason.group for reason in reasons}) == len(reasons)
        assert reasons[-1].group == "base"
        assert all(reason.says for reason in reasons)


def test_a_head_without_weight_moves_nothing(several: Serving, rows: TrainingRows) -> None:
    heads = several.reading.heads
    assert heads is not None
    matrix = rows.matrix[:3]
    alone = heads.reasons(matrix, {"click": 2.0})
    beside = heads.reasons(matrix, {"click": 2.0, "skip": 0.0, "unknown": 4.0})
    assert alone == beside


def test_a_negative_weight_turns_the_shares_around(several: Serving, rows: TrainingRows) -> None:
    heads = several.reading.heads
    assert heads is not None
    matrix = rows.matrix[:3]
    for up, down in zip(
        heads.reasons(matrix, {"skip": 1.0}), heads.reasons(matrix, {"skip": -1.0}), strict=True
    ):
        assert [(r.group, r.contribution) for r in up] == [(r.group, -r.contribution) for r in down]


def test_an_empty_page_has_no_reasons(several: Serving) -> None:
    assert several.ask(user_id="u3", candidates=[], explain=True).items == []
