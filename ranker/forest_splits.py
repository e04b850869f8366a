"""The splits of a forest as flat arrays: which leaves still stand when a split goes right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranker.lightgbm_text import MISSING_NONE, MISSING_ZERO, Tree

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

LEAVES_PER_WORD = 64
NAN_GOES_RIGHT, NAN_GOES_LEFT, CATEGORICAL, KINDS = 0, 1, 2, 3
# LightGBM takes a value this close to zero for zero (kZeroThreshold, a float32 constant).
ZERO_THRESHOLD = float(np.float32(1e-35))
# (lowest set bit) * DE_BRUIJN >> 58 differs for each of the 64 bits (Leiserson et al., 1998).
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
DE_BRUIJN_SHIFT = np.uint64(58)

BIT = np.uint64(1) << np.arange(LEAVES_PER_WORD, dtype=np.uint64)
BELOW = np.concatenate([BIT - np.uint64(1), np.array([2**64 - 1], dtype=np.uint64)])
CODE = ((BIT * DE_BRUIJN) >> DE_BRUIJN_SHIFT).astype(np.int64)


class Splits(NamedTuple):
    """A forest of T trees; a tree's leaves, numbered left to right, are the bits of its words.

    A split that rules out leaves of several words stands once for each of them.
    """

    column_feature: Ints  # [columns] the feature that a column copies
    column_zero_is_missing: Bools  # [columns]
    kind_bounds: Ints  # [T, 4] where a tree's splits of each kind begin, and where the last end
    column: Ints  # [splits]
    threshold: Floats  # [splits] of a categorical split: the index of its set
    word: Ints  # [splits] the word of its tree that the split can change
    survivors: Words  # [splits] the leaves of that word that stand when the split goes right
    word_bounds: Ints  # [T + 1] the words of each tree
    leaf_value: Floats  # [words * 64] by word and CODE of the leaf's bit
    category_bounds: Ints  # [sets + 1]
    category_words: Ints  # the categories that go left, 32 bits a word


class TreeSplits(NamedTuple):
    """One tree's share of `Splits`, its splits in order of kind and column for the cache."""

    kind: Ints
    column_key: Ints  # feature * 2 + zero_is_missing
    threshold: Floats
    word: Ints
    survivors: Words
    leaf_value: Floats


def flatten(trees: Sequence[Tree]) -> Splits:
    """The splits of `trees`, tree after tree."""
    parts = [_tree_splits(tree) for tree in trees]
    counts = [np.bincount(part.kind, minlength=KINDS) for part in parts]
    starts = np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))])
    kind_bounds = np.lib.stride_tricks.sliding_window_view(starts, KINDS + 1)[::KINDS]
    keys, column = np.unique(
        np.concatenate([part.column_key for part in parts]), return_inverse=True
    )
    kind = np.concatenate([part.kind for part in parts])
    threshold = np.concatenate([part.threshold for part in parts])
    sets = np.cumsum([0] + [len(tree.category_bounds) - 1 for tree in trees])
    words = np.cumsum([0] + [len(tree.category_words) for tree in trees])
    splits = [len(part.kind) for part in parts]
    threshold += np.where(kind == CATEGORICAL, np.repeat(sets[:-1], splits), 0)
    bounds = [tree.category_bounds[1:] + words[i] for i, tree in enumerate(trees)]
    tree_words = [len(part.leaf_value) // LEAVES_PER_WORD for part in parts]
    return Splits(
        column_feature=keys >> 1,
        column_zero_is_missing=(keys & 1) > 0,
        kind_bounds=np.ascontiguousarray(kind_bounds[: len(trees)]),
        column=column.astype(np.int64),
        threshold=threshold,
        word=np.concatenate([part.word for part in parts]),
        survivors=np.concatenate([part.survivors for part in parts]),
        word_bounds=np.cumsum([0, *tree_words]),
        leaf_value=np.concatenate([part.leaf_value for part in parts]),
        category_bounds=np.concatenate([np.zeros(1, dtype=np.int64), *bounds]),
        category_words=np.concatenate([tree.category_words for tree in trees]),
    )


def _tree_splits(tree: Tree) -> TreeSplits:
    start, stop, place = _leaf_ranges(tree)
    missing_left = np.where(tree.missing == MISSING_NONE, tree.threshold >= 0, tree.default_left)
    kind = np.where(missing_left, NAN_GOES_LEFT, NAN_GOES_RIGHT)
    kind = np.where(tree.categorical, CATEGORICAL, kind)
    zero_is_missing = (tree.missing == MISSING_ZERO) & ~tree.categorical
    threshold = np.where(tree.categorical, tree.threshold, _past_zero(tree.threshold))
    column_key = tree.feature * 2 + zero_is_missing
    first, last = start // LEAVES_PER_WORD, (stop - 1) // LEAVES_PER_WORD
    touched = last - first + 1
    node = np.repeat(np.arange(len(kind)), touched)
    node_begins = np.cumsum(touched) - touched
    word = first[node] + np.arange(len(node)) - node_begins[node]
    low = np.maximum(start[node] - word * LEAVES_PER_WORD, 0)
    high = np.minimum(stop[node] - word * LEAVES_PER_WORD, LEAVES_PER_WORD)
    survivors = ~(BELOW[high] & ~BELOW[low])
    order = np.lexsort((column_key[node], kind[node]))
    node = node[order]
    words = (len(tree.leaf_value) - 1) // LEAVES_PER_WORD + 1
    leaf_value = np.zeros(words * LEAVES_PER_WORD)
    leaf_value[place // LEAVES_PER_WORD * LEAVES_PER_WORD + CODE[place % LEAVES_PER_WORD]] = (
        tree.leaf_value
    )
    return TreeSplits(
        kind[node], column_key[node], threshold[node], word[order], survivors[order], leaf_value
    )


def _leaf_ranges(tree: Tree) -> tuple[Ints, Ints, Ints]:
    """The leaves of each node's left subtree, [start, stop), and the place of each leaf."""
    nodes = len(tree.feature)
    left, right = tree.left.tolist(), tree.right.tolist()
    under = [1] * nodes  # leaves under a node
    for node in reversed(range(nodes)):
        under[node] = sum(under[child] if child >= 0 else 1 for child in (left[node], right[node]))
    start, stop = [0] * nodes, [0] * nodes
    place = [0] * (nodes + 1)
    for node in range(nodes):
        stop[node] = start[node] + (under[left[node]] if left[node] >= 0 else 1)
        for child, begins in ((left[node], start[node]), (right[node], stop[node])):
            if child >= 0:
                start[child] = begins
            else:
                place[~child] = begins
    return np.array(start, np.int64), np.array(stop, np.int64), np.array(place, np.int64)


def _past_zero(threshold: Floats) -> Floats:
    """Thresholds moved off the values that LightGBM reads as zero, so that no value need be."""
    moved = np.where(np.abs(threshold) <= ZERO_THRESHOLD, ZERO_THRESHOLD, threshold)
    below_zero = (threshold < 0) & (threshold >= -ZERO_THRESHOLD)
    return np.where(below_zero, np.nextafter(-ZERO_THRESHOLD, -np.inf), moved)
