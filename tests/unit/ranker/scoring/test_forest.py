"""Forest against `Booster.predict(raw_score=True)`, bit for bit."""

from dataclasses import dataclass

import lightgbm
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.errors import Refused
from ranker.scoring.forest import ROWS_PER_BLOCK, Forest
from ranker.scoring.lightgbm_text import parse_model_text

Floats = NDArray[np.float64]

ZERO_THRESHOLD = float(np.float32(1e-35))
ODD_VALUES = [
    float("nan"),
    float("inf"),
    float("-inf"),
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    1e-310,
    ZERO_THRESHOLD,
    -ZERO_THRESHOLD,
    float(np.nextafter(ZERO_THRESHOLD, 1)),
    float(np.nextafter(-ZERO_THRESHOLD, -1)),
    1e300,
    1e308,
    -1e308,
    # Categories: unseen, negative, between two, past int32 and int64.
    -1.0,
    -0.5,
    0.5,
    31.0,
    32.0,
    63.9,
    1e4,
    2.0**31,
    -(2.0**31) - 1,
    2.0**63,
    1e20,
]


@dataclass(frozen=True)
class Training:
    """What a forest is grown from."""

    seed: int
    objective: str
    boosting: str
    trees: int
    leaves: int
    features: int
    categorical: int
    zero_as_missing: bool
    use_missing: bool
    nan_share: float


trainings = st.builds(
    Training,
    seed=st.integers(0, 2**16),
    objective=st.sampled_from(["binary", "regression", "lambdarank", "poisson"]),
    boosting=st.sampled_from(["gbdt", "dart"]),
    trees=st.integers(1, 12),
    leaves=st.sampled_from([2, 3, 31, 63, 64, 65, 130, 300]),
    features=st.integers(2, 8),
    categorical=st.integers(0, 3),
    zero_as_missing=st.booleans(),
    use_missing=st.booleans(),
    nan_share=st.sampled_from([0.0, 0.1, 0.6]),
)


def grow(training: Training) -> tuple[lightgbm.Booster, Floats]:
    random = np.random.default_rng(training.seed)
    rows = 1200
    matrix = random.normal(size=(rows, training.features))
    matrix[:, 0] = random.choice([0.0, -0.0, 1e-36, -1e-34, 3.0, 1e300, np.inf, -np.inf], rows)
    if training.features > 3:
        matrix[:, 3] = np.where(random.random(rows) < 0.5, 0.0, matrix[:, 3])
    categorical = range(
        training.features - min(training.categorical, training.features - 1), training.features
    )
    for feature in categorical:
        matrix[:, feature] = random.integers(0, random.choice([3, 40, 200]), rows)
    bent = np.where(np.isfinite(matrix), matrix, 0) % 7
    target = bent @ random.normal(size=training.features) + random.normal(size=rows)
    matrix[random.random(matrix.shape) < training.nan_share] = np.nan
    label = (target > np.median(target)).astype(float)
    dataset = lightgbm.Dataset(
        matrix,
        target if training.objective == "regression" else label,
        group=[10] * (rows // 10) if training.objective == "lambdarank" else None,
        categorical_feature=list(categorical),
    )
    parameters = {
        "objective": training.objective,
        "boosting": training.boosting,
        "num_leaves": training.leaves,
        "min_data_in_leaf": 2,
        "min_data_per_group": 5,
        "cat_smooth": 1,
        "max_cat_to_onehot": 4,
        "zero_as_missing": training.zero_as_missing,
        "use_missing": training.use_missing,
        "seed": training.seed,
        "num_threads": 1,
        "verbose": -1,
    }
    return lightgbm.train(parameters, dataset, num_boost_round=training.trees), matrix


def with_neighbours(exact: Floats) -> list[Floats]:
    """The values themselves, and the next floats above and below."""
    with np.errstate(over="ignore", under="ignore"):
        return [exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)]


def odd_rows(text: str, features: int, rows: int, seed: int) -> Floats:
    """Rows of the forest's own thresholds, their neighbours on either side, and odd values."""
    random = np.random.default_rng(seed)
    trees = parse_model_text(text).trees
    exact = np.concatenate([tree.threshold[~tree.categorical] for tree in trees])
    pool = np.concatenate([*with_neighbours(exact), ODD_VALUES, np.arange(40.0)])
    return random.choice(pool, (rows, features))


def assert_same_bits(booster: lightgbm.Booster, forest: Forest, matrix: Floats) -> None:
    expected = np.asarray(booster.predict(matrix, raw_score=True, num_threads=1))
    np.testing.assert_array_equal(forest.predict(matrix).view(np.int64), expected.view(np.int64))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trainings)
@example(Training(1, "binary", "gbdt", 12, 300, 8, 3, True, True, 0.1))
@example(Training(2, "regression", "gbdt", 12, 63, 8, 0, False, True, 0.1))
def test_scores_equal_the_boosters_to_the_bit(training: Training) -> None:
    booster, matrix = grow(training)
    text = booster.model_to_string()
    forest = Forest.from_model_text(text)
    assert forest.trees == booster.num_trees()
    assert_same_bits(booster, forest, matrix)
    assert_same_bits(booster, forest, odd_rows(text, training.features, 700, training.seed))


one_split = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=0
objective=regression
feature_names=x
feature_infos=[-1:1]
tree_sizes={size}

Tree=0
{tree}

end of trees
"""


def single_split_text(threshold: float, decision: int, categories: int = 0) -> str:
    tree = f"""num_leaves=2
num_cat={decision & 1}
split_feature=0
split_gain=1
threshold={0 if decision & 1 else repr(threshold)}
decision_type={decision}
left_child=-1
right_child=-2
leaf_value=-1.5 0.1
leaf_weight=1 1
leaf_count=1 1
internal_value=0
internal_weight=2
internal_count=2
{f"cat_boundaries=0 1{chr(10)}cat_threshold={categories}{chr(10)}" if decision & 1 else ""}\
is_linear=0
shrinkage=1

"""
    return one_split.format(size=len("Tree=0\n" + tree) + 1, tree=tree)


thresholds = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([value for value in ODD_VALUES if np.isfinite(value)]),
    st.floats(-2e-35, 2e-35),
)


@settings(max_examples=300, deadline=None)
@given(
    threshold=thresholds,
    missing=st.sampled_from([0, 1, 2]),
    default_left=st.booleans(),
    values=st.lists(st.floats() | st.floats(-2e-35, 2e-35), max_size=20),
)
def test_one_numeric_split_decides_as_lightgbm_on_any_value(
    threshold: float, missing: int, default_left: bool, values: list[float]
) -> None:
    text = single_split_text(threshold, missing << 2 | default_left << 1)
    near = with_neighbours(np.array(threshold))
    matrix = np.array([*values, *near, *ODD_VALUES]).reshape(-1, 1)
    booster = lightgbm.Booster(model_str=text)
    assert_same_bits(booster, Forest.from_model_text(text), matrix)


@settings(max_examples=300, deadline=None)
@given(
    categories=st.integers(0, 2**32 - 1),
    missing=st.sampled_from([0, 1, 2]),
    values=st.lists(st.floats() | st.floats(-2, 40) | st.integers(-5, 40).map(float), max_size=20),
)
def test_one_categorical_split_decides_as_lightgbm_on_any_value(
    categories: int, missing: int, values: list[float]
) -> None:
    text = single_split_text(0.0, missing << 2 | 1, categories)
    matrix = np.array([*values, *ODD_VALUES]).reshape(-1, 1)
    booster = lightgbm.Booster(model_str=text)
    assert_same_bits(booster, Forest.from_model_text(text), matrix)


@pytest.fixture(scope="module")
def grown() -> tuple[lightgbm.Booster, Floats]:
    return grow(Training(7, "binary", "gbdt", 6, 31, 5, 1, False, True, 0.1))


@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_BLOCK - 1, ROWS_PER_BLOCK, ROWS_PER_BLOCK + 1])
def test_any_number_of_rows_is_scored(grown: tuple[lightgbm.Booster, Floats], rows: int) -> None:
    booster, matrix = grown
    forest = Forest.from_model_text(booster.model_to_string())
    if rows:
        assert_same_bits(booster, forest, matrix[:rows])
    assert len(forest.predict(matrix[:rows])) == rows


def test_the_layout_of_the_matrix_does_not_matter(grown: tuple[lightgbm.Booster, Floats]) -> None:
    booster, matrix = grown
    forest = Forest.from_model_text(booster.model_to_string())
    read_only = matrix.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(matrix), read_only, np.repeat(matrix, 2, axis=0)[::2]):
        np.testing.assert_array_equal(forest.predict(same), forest.predict(matrix))


def test_a_model_cut_at_its_best_round_scores_as_the_booster_does(
    grown: tuple[lightgbm.Booster, Floats],
) -> None:
    booster, matrix = grown
    forest = Forest.from_model_text(booster.model_to_string(num_iteration=3))
    expected = np.asarray(booster.predict(matrix, raw_score=True, num_iteration=3))
    np.testing.assert_array_equal(forest.predict(matrix), expected)


@pytest.mark.parametrize("objective", ["multiclass", "multiclassova"])
def test_several_classes_have_a_score_each(objective: str) -> None:
    random = np.random.default_rng(3)
    matrix, label = random.normal(size=(900, 6)), random.integers(0, 4, 900)
    parameters = {"objective": objective, "num_class": 4, "num_leaves": 20, "verbose": -1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(matrix, label), num_boost_round=7)
    forest = Forest.from_model_text(booster.model_to_string())
    assert (forest.classes, forest.predict(matrix).shape) == (4, (900, 4))
    assert_same_bits(booster, forest, matrix)


def test_a_tree_of_one_leaf_is_its_value() -> None:
    matrix = np.random.default_rng(0).normal(size=(200, 2))
    dataset = lightgbm.Dataset(matrix, np.full(200, 0.3))
    booster = lightgbm.train({"objective": "regression", "verbose": -1}, dataset, 3)
    assert_same_bits(booster, Forest.from_model_text(booster.model_to_string()), matrix)


def test_a_matrix_of_another_width_is_an_error(grown: tuple[lightgbm.Booster, Floats]) -> None:
    booster, matrix = grown
    with pytest.raises(ValueError, match="4 columns for a model of 5"):
        Forest.from_model_text(booster.model_to_string()).predict(matrix[:, :4])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objective": "regression", "linear_tree": True}, "linear_tree=false"),
        (
            {
                "objective": "regression",
                "boosting": "rf",
                "bagging_freq": 1,
                "bagging_fraction": 0.5,
            },
            "boosting=gbdt",
        ),
    ],
)
def test_kinds_of_model_that_are_not_a_sum_of_leaves_are_refused(
    parameters: dict[str, object], message: str
) -> None:
    random = np.random.default_rng(0)
    dataset = lightgbm.Dataset(random.normal(size=(300, 3)), random.integers(0, 3, 300))
    booster = lightgbm.train({**parameters, "verbose": -1}, dataset, num_boost_round=2)
    with pytest.raises(Refused, match=message):
        Forest.from_model_text(booster.model_to_string())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tree\nversion", "forest\nversion", "not a whole LightGBM model text"),
        ("end of trees", "", "not a whole LightGBM model text"),
        ("Tree=5\n", "", "promises 6 trees and holds 5"),
        ("left_child=", "left_child=0 ", "tree 0 of the model text: left_child has"),
        ("split_feature=", "split_feature=99 ", "tree 0 of the model text: split_feature has"),
        ("leaf_value=", "no_leaf_value=", "tree 0 of the model text: 'leaf_value'"),
        ("num_leaves=", "num_leaves=9999", "tree 0 .*num_leaves of at most 65536"),
        ("max_feature_idx=4", "max_feature_idx=3", "do not agree"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=0", "is '0'"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=4", "6 trees, not as many of each"),
    ],
)
def test_a_damaged_text_is_refused_with_its_place(
    grown: tuple[lightgbm.Booster, Floats], old: str, new: str, message: str
) -> None:
    text = grown[0].model_to_string()
    assert old in text
    with pytest.raises(Refused, match=message):
        Forest.from_model_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("left_child=-1", "left_child=0", "do not form one tree"),
        ("left_child=-1", "left_child=-2", "do not form one tree"),
        ("left_child=-1", "left_child=7", "do not form one tree"),
        ("split_feature=0", "split_feature=1", "does not name"),
        ("threshold=1.0", "threshold=nan", "not a number"),
        ("decision_type=0", "decision_type=12", "unknown missing type"),
        ("decision_type=0", "decision_type=1", "set of categories"),
        ("num_cat=0", "num_cat=1\ncat_boundaries=0 2\ncat_threshold=1", "do not agree"),
        ("num_cat=0", "num_cat=1\ncat_boundaries=1 1\ncat_threshold=1", "do not agree"),
    ],
)
def test_a_split_that_points_nowhere_is_refused(old: str, new: str, message: str) -> None:
    text = single_split_text(1.0, 0)
    assert old in text
    with pytest.raises(Refused, match=message):
        Forest.from_model_text(text.replace(old, new, 1))


def test_a_model_without_trees_is_refused() -> None:
    text = one_split.format(size="", tree="").replace("Tree=0\n", "")
    with pytest.raises(Refused, match="holds no trees"):
        Forest.from_model_text(text)
