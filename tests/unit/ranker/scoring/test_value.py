"""The value model: weights by surface, and weights that make no sense."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import Refused
from ranker.scoring.value import ValueModel, ValueWeights, read_weights

HEADS = {"click": np.array([0.5, 0.25]), "hide": np.array([0.5, 0.0])}


def test_value_is_the_weighted_sum_and_negative_weights_push_down() -> None:
    model = ValueModel(ValueWeights(default={"click": 2.0, "hide": -4.0, "like": 9.0}), [*HEADS])
    assert model.value(HEADS, "home").tolist() == [-1.0, 0.5]


def test_a_surface_has_weights_of_its_own() -> None:
    weights = ValueWeights(default={"click": 1.0}, surfaces={"search": {"hide": 1.0}})
    model = ValueModel(weights, [*HEADS])
    assert model.value(HEADS, "search").tolist() == [0.5, 0.0]
    assert model.value(HEADS, "elsewhere").tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("weights", "surface"),
    [
        (ValueWeights(default={"like": 1.0}), "default"),
        (ValueWeights(default={}), "default"),
        (ValueWeights(default={"click": 0.0}), "default"),
        (ValueWeights(default={"click": 1.0}, surfaces={"search": {"like": 1.0}}), "search"),
    ],
)
def test_weights_that_no_head_of_the_model_has_are_refused(
    weights: ValueWeights, surface: str
) -> None:
    with pytest.raises(Refused, match=rf"'{surface}'(?s:.*)heads click, hide"):
        ValueModel(weights, [*HEADS])


def test_the_repositorys_own_weights_are_read() -> None:
    weights = read_weights(Path(__file__).parents[4] / "feature_repo" / "value.yaml")
    assert weights.default["click"] > 0
    assert weights.default["report"] < weights.default["hide"] < 0


@pytest.mark.parametrize(
    "text",
    ["", "default: [1]", "default: {click: .nan}", "default: {click: 1}\nmore: 2", "a: [", "3"],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "value.yaml").write_text(text)
    with pytest.raises(Refused, match=r"value\.yaml(?s:.*)`default:`"):
        read_weights(tmp_path / "value.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        read_weights(tmp_path / "none.yaml")
