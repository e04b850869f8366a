"""The trees of a LightGBM model text (`Booster.model_to_string()`), parsed and checked."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import Refused

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MISSING_NONE, MISSING_ZERO, MISSING_NAN = 0, 1, 2
LEAVES_MAX: Final = 1 << 16
"""Of one tree: their numbers fit 16 bits while a forest is scored."""


@dataclass(frozen=True)
class Tree:
    """One tree: node i tests `feature[i]`; a child c >= 0 is a node, c < 0 is leaf ~c."""

    leaf_value: Floats
    feature: Ints
    threshold: Floats  # a categorical node holds the index of its bit set here
    categorical: NDArray[np.bool_]
    default_left: NDArray[np.bool_]
    missing: Ints
    left: Ints
    right: Ints
    category_bounds: Ints
    category_words: Ints


@dataclass(frozen=True)
class ModelText:
    """A model: its feature names in column order and its trees in adding order, in which those of
    its classes take turns."""

    objective: str
    feature_names: list[str]
    classes: int
    trees: list[Tree]


def parse_model_text(text: str) -> ModelText:
    """The model in `text`; Refused when it is none, or of a kind whose score is no plain sum."""
    body, end, _ = text.partition("\nend of trees")
    header_text, *tree_texts = body.split("\nTree=")
    header = _fields(header_text)
    if not end or not header_text.startswith("tree"):
        raise Refused(
            "this is not a whole LightGBM model text (no 'tree' line, or no 'end of trees'); "
            "write it again with Booster.save_model"
        )
    if "average_output" in header_text.splitlines():
        raise Refused(
            "the model averages its trees (boosting=rf); train with boosting=gbdt, dart or goss"
        )
    names = header.get("feature_names", "").split()
    if header.get("max_feature_idx") != str(len(names) - 1):
        raise Refused("feature_names and max_feature_idx of the model text do not agree")
    expected = len(header.get("tree_sizes", "").split())
    if len(tree_texts) != expected:
        raise Refused(f"the model text promises {expected} trees and holds {len(tree_texts)}")
    if expected == 0:
        raise Refused("the model holds no trees; train it for at least one round")
    classes = _classes(header)
    if expected % classes:
        raise Refused(f"the model holds {expected} trees, not as many of each of {classes} classes")
    trees = []
    for number, tree_text in enumerate(tree_texts):
        try:
            trees.append(_tree(_fields(tree_text), len(names)))
        except (KeyError, ValueError) as error:
            raise Refused(f"tree {number} of the model text: {error}") from error
    return ModelText(header.get("objective", "none"), names, classes, trees)


def _classes(header: dict[str, str]) -> int:
    """How many scores a row gets."""
    text = header.get("num_tree_per_iteration", "1")
    if not text.isdecimal() or text == "0":
        raise Refused(f"num_tree_per_iteration of the model text is {text!r}")
    return int(text)


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, equals, value in pairs if equals}


def _tree(fields: dict[str, str], features: int) -> Tree:
    leaves = int(fields["num_leaves"])
    if fields.get("is_linear", "0") != "0":
        raise ValueError("linear leaves are not supported; train with linear_tree=false")
    if leaves > LEAVES_MAX:
        raise ValueError(f"{leaves} leaves; train with num_leaves of at most {LEAVES_MAX}")
    nodes = leaves - 1

    def ints(key: str, length: int) -> Ints:
        return np.array(_words(fields, key, length), dtype=np.int64)

    decision = ints("decision_type", nodes)
    tree = Tree(
        leaf_value=_floats(fields, "leaf_value", leaves),
        feature=ints("split_feature", nodes),
        threshold=_floats(fields, "threshold", nodes),
        categorical=(decision & 1) > 0,
        default_left=(decision & 2) > 0,
        missing=(decision >> 2) & 3,
        left=ints("left_child", nodes),
        right=ints("right_child", nodes),
        category_bounds=ints("cat_boundaries", int(fields["num_cat"]) + 1)
        if fields["num_cat"] != "0"
        else np.zeros(1, dtype=np.int64),
        category_words=np.array(fields.get("cat_threshold", "").split(), dtype=np.int64),
    )
    _check(tree, features)
    return tree


def _words(fields: dict[str, str], key: str, length: int) -> list[str]:
    if length == 0:
        return []
    words = fields[key].split()
    if len(words) != length:
        raise ValueError(f"{key} has {len(words)} values, not {length}")
    return words


def _floats(fields: dict[str, str], key: str, length: int) -> Floats:
    return np.array([float(word) for word in _words(fields, key, length)], dtype=np.float64)


def _check(tree: Tree, features: int) -> None:
    """Raise ValueError unless the nodes form one tree over known features and bit sets."""
    nodes = len(tree.feature)
    parents = np.arange(nodes)
    children = np.concatenate([tree.left, tree.right])
    codes = np.concatenate([np.arange(~nodes, 0), np.arange(1, nodes)])
    # LightGBM numbers nodes as it makes them: a child before its parent would be a cycle.
    ascending = all(np.all((side < 0) | (side > parents)) for side in (tree.left, tree.right))
    if nodes and not (ascending and np.array_equal(np.sort(children), codes)):
        raise ValueError("the children do not form one tree")
    if np.any((tree.feature < 0) | (tree.feature >= features)):
        raise ValueError("a node tests a feature that the model does not name")
    if np.any(np.isnan(tree.threshold)):
        raise ValueError("a threshold is not a number")
    if np.any(tree.missing > MISSING_NAN):
        raise ValueError("a node has an unknown missing type")
    sets = tree.threshold[tree.categorical]
    bounds = tree.category_bounds
    rising = bounds[0] == 0 and np.all(np.diff(bounds) >= 0)
    if not rising or bounds[-1] != len(tree.category_words):
        raise ValueError("cat_boundaries and cat_threshold do not agree")
    if np.any((sets < 0) | (sets >= len(bounds) - 1)):
        raise ValueError("a categorical node names a set of categories that is not there")
