"""Forests that no training made: texts of random trees, read by LightGBM and by us.

Training never writes most of what a text may say: thresholds at odd values, hundreds of them on one
feature, any mix of missing modes, deep lopsided trees, category sets of several words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import lightgbm
import numba
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranker.scoring.forest import Forest
from tests.unit.ranker.scoring.test_forest import (
    ODD_VALUES,
    assert_same_bits,
    single_split_text,
    with_neighbours,
)

Floats = NDArray[np.float64]

ONE_SPLIT = Forest.from_model_text(single_split_text(1.0, 0))
FINITE = [value for value in ODD_VALUES if np.isfinite(value)]


@dataclass(frozen=True)
class Shape:
    """What a text is made from; its details are drawn by the seed."""

    seed: int
    classes: int
    rounds: int
    leaves: int
    features: int
    categorical_share: float
    lopsided: bool
    thresholds: str


shapes = st.builds(
    Shape,
    seed=st.integers(0, 2**32 - 1),
    classes=st.sampled_from([1, 1, 1, 2, 3]),
    rounds=st.integers(1, 6),
    leaves=st.sampled_from([1, 2, 3, 8, 9, 16, 17, 63, 64, 65, 200]),
    features=st.integers(1, 5),
    categorical_share=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    lopsided=st.booleans(),
    thresholds=st.sampled_from(["odd", "few", "many", "any bits"]),
)


def model_text(shape: Shape) -> tuple[str, Floats]:
    """A text of LightGBM's format 4, and every threshold in it."""
    random = np.random.default_rng(shape.seed)
    pool = threshold_pool(shape, random)
    trees = [
        tree_text(shape, random, pool, number) for number in range(shape.classes * shape.rounds)
    ]
    sizes = " ".join(str(len(tree) + 1) for tree in trees)
    objective = f"multiclass num_class:{shape.classes}" if shape.classes > 1 else "regression"
    names = " ".join(f"x{n}" for n in range(shape.features))
    head = (
        f"tree\nversion=v4\nnum_class={shape.classes}\nnum_tree_per_iteration={shape.classes}\n"
        f"label_index=0\nmax_feature_idx={shape.features - 1}\nobjective={objective}\n"
        f"feature_names={names}\nfeature_infos={' '.join(['none'] * shape.features)}\n"
        f"tree_sizes={sizes}\n\n"
    )
    return head + "".join(tree + "\n" for tree in trees) + "\nend of trees\n", pool


def threshold_pool(shape: Shape, random: np.random.Generator) -> Floats:
    if shape.thresholds == "odd":
        return np.array(FINITE)
    if shape.thresholds == "few":
        return random.normal(size=7)
    if shape.thresholds == "many":
        return random.normal(size=3000)
    bits = random.integers(0, 2**63 - 1, 500, dtype=np.int64) * random.choice([-1, 1], 500)
    values: Floats = bits.view(np.float64)
    finite: Floats = values[np.isfinite(values)]
    return finite


def tree_text(shape: Shape, random: np.random.Generator, pool: Floats, number: int) -> str:
    """One tree, grown by splitting a leaf at a time as LightGBM numbers nodes."""
    nodes = shape.leaves - 1
    left, right = [0] * nodes, [0] * nodes
    slots: list[tuple[list[int], int]] = []
    for node in range(nodes):
        # The leaf that is split keeps its number on the left; the new one goes right.
        if slots:
            at = len(slots) - 1 if shape.lopsided else int(random.integers(len(slots)))
            side, place = slots.pop(at)
            split_leaf = ~side[place]
            side[place] = node
        else:
            split_leaf = 0
        left[node], right[node] = ~split_leaf, ~(node + 1)
        slots += [(left, node), (right, node)]
    categorical = random.random(nodes) < shape.categorical_share
    missing, default_left = random.integers(0, 3, nodes), random.integers(0, 2, nodes)
    decision = missing << 2 | default_left << 1 | categorical
    sets = np.cumsum(categorical) - 1
    threshold = [
        str(sets[n]) if categorical[n] else repr(float(random.choice(pool))) for n in range(nodes)
    ]
    lengths = random.integers(1, 4, int(categorical.sum()))
    words = random.integers(0, 2**32, int(lengths.sum()))
    values = random.choice([0.1, -0.3, 1e-9, 1e16, -1e16, 3.0], shape.leaves) * random.random(
        shape.leaves
    )
    lines = [f"Tree={number}", f"num_leaves={shape.leaves}", f"num_cat={len(lengths)}"]
    if nodes:
        lines += [
            f"split_feature={spaced(random.integers(0, shape.features, nodes))}",
            f"split_gain={spaced(np.ones(nodes, int))}",
            f"threshold={' '.join(threshold)}",
            f"decision_type={spaced(decision)}",
            f"left_child={spaced(left)}",
            f"right_child={spaced(right)}",
        ]
    lines.append("leaf_value=" + " ".join(repr(float(value)) for value in values))
    if nodes:
        lines += [
            f"leaf_weight={spaced(np.ones(shape.leaves, int))}",
            f"leaf_count={spaced(np.ones(shape.leaves, int))}",
            f"internal_value={spaced(np.zeros(nodes, int))}",
            f"internal_weight={spaced(np.ones(nodes, int))}",
            f"internal_count={spaced(np.ones(nodes, int))}",
        ]
    if len(lengths):
        lines += [
            f"cat_boundaries={spaced(np.concatenate([[0], np.cumsum(lengths)]))}",
            f"cat_threshold={spaced(words)}",
        ]
    return "\n".join([*lines, "is_linear=0", "shrinkage=1", "", ""])


def spaced(numbers: object) -> str:
    return " ".join(map(str, np.asarray(numbers).tolist()))


@settings(max_examples=2_000, deadline=None)
@given(shapes)
@example(Shape(1, 1, 6, 200, 1, 0.0, False, "many"))  # over 255 thresholds on one feature
@example(Shape(2, 3, 6, 65, 2, 0.3, True, "odd"))
@example(Shape(3, 1, 2, 3_000, 2, 0.0, False, "many"))  # over 256 bytes of leaves a tree
def test_any_forest_scores_any_row_as_lightgbm_does(shape: Shape) -> None:
    text, thresholds = model_text(shape)
    booster = lightgbm.Booster(model_str=text)
    forest = Forest.from_model_text(text)
    assert booster.num_trees() == forest.trees == shape.classes * shape.rounds
    random = np.random.default_rng(shape.seed + 1)
    values = np.concatenate(
        [*with_neighbours(random.choice(thresholds, 300)), ODD_VALUES, np.arange(-2.0, 100.0)]
    )
    matrix = random.choice(values, (140, shape.features))
    # One feature that is the same for all rows takes a way of its own.
    matrix[:, 0] = np.where(shape.seed % 3, matrix[:, 0], matrix[0, 0])
    assert_same_bits(booster, forest, matrix)
    # Of one type, so that no model has the kernel compiled while it serves.
    typeof: Callable[[object], object] = numba.typeof
    assert typeof(forest.splits) == typeof(ONE_SPLIT.splits)
