"""A LightGBM model as flat arrays, scored by a compiled kernel without the GIL.

No tree is walked. A split that goes right rules out the leaves of its left subtree; of the leaves
still standing after all splits, the leftmost is the one a walk reaches (QuickScorer, Lucchese
et al., SIGIR 2015). Values become their ranks among the thresholds once a request, so that a split
is one comparison and one AND of bytes over many rows at once, with no branch and no indirect load
(RapidScorer, Ye et al., KDD 2018). The cost is that of the number of leaves, whatever the depth.

The scores equal `Booster.predict(raw_score=True)` to the bit: trees are added in the model's
order, and splits decide as `Tree::NumericalDecision` and `Tree::CategoricalDecision` of LightGBM.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from ranker.scoring.forest_splits import (
    LEAVES_PER_BYTE,
    RANKS,
    ZERO_THRESHOLD,
    Bytes,
    Floats,
    Splits,
    flatten,
)
from ranker.scoring.lightgbm_text import parse_model_text

Leaves = NDArray[np.uint16]
Ranks = NDArray[np.uint32]

ROWS_PER_BLOCK = 512
LANES = 64
"""Rows are scored in whole numbers of so many, the last ones for nothing."""
BITS_PER_SET_WORD = 32
EVERY_LEAF, NO_LEAF = np.uint8(255), np.uint8(0)
NONE_BELOW, ONE = np.uint32(0), np.uint32(1)
HERE, PAST_BYTE = np.uint16(0), np.uint16(LEAVES_PER_BYTE)


@dataclass(frozen=True)
class Forest:
    """All trees of a model; `predict` may be called from many threads at once."""

    objective: str  # as LightGBM writes it: "binary sigmoid:1", "lambdarank"
    feature_names: list[str]
    classes: int
    splits: Splits

    @classmethod
    def from_model_text(cls, text: str) -> Self:
        """The forest of `Booster.model_to_string()`; Refused when it cannot be scored exactly."""
        model = parse_model_text(text)
        return cls(model.objective, model.feature_names, model.classes, flatten(model.trees))

    @property
    def trees(self) -> int:
        return len(self.splits.kind_bounds)

    def predict(self, matrix: Floats) -> Floats:
        """Raw scores of the rows of `matrix` [n, features], columns as `feature_names`: [n], or
        [n, classes] where the model has several."""
        rows, columns = matrix.shape
        if columns != len(self.feature_names):
            raise ValueError(f"{columns} columns for a model of {len(self.feature_names)}")
        scores = np.zeros((self.classes, rows))
        # One memory layout, so that the kernel is compiled once and never during a request.
        add_scores(np.require(matrix, np.float64, ["C", "A", "W"]), self.splits, scores)
        return scores[0] if self.classes == 1 else scores.T


@kernel
def add_scores(matrix: Floats, splits: Splits, scores: Floats) -> None:
    """Add every tree's leaf value, in order, to `scores` [class, row], a block of rows at a time;
    the trees of the classes take turns."""
    classes = len(scores)
    codes = np.zeros((len(splits.column_first), ROWS_PER_BLOCK), np.uint8)
    standing = np.empty((np.max(splits.byte_counts), ROWS_PER_BLOCK), np.uint8)
    first_byte, leaf = np.empty(ROWS_PER_BLOCK, np.uint8), np.empty(ROWS_PER_BLOCK, np.uint16)
    for first in range(0, len(matrix), ROWS_PER_BLOCK):
        rows = matrix[first : first + ROWS_PER_BLOCK]
        width = (len(rows) + LANES - 1) // LANES * LANES
        fill_codes(codes, rows, splits)
        for tree in range(len(splits.kind_bounds)):
            count = splits.byte_counts[tree]
            standing[:count, :width] = EVERY_LEAF
            begin, categorical, end = splits.kind_bounds[tree]
            rule_out(standing, codes, width, splits, begin, categorical)
            if categorical < end:
                rule_out_categorical(standing, rows, splits, categorical, end)
            find_leaves(standing[:count], width, first_byte, leaf)
            values = splits.leaf_value[splits.leaf_bounds[tree] :]
            sums = scores[tree % classes, first:]
            for row in range(len(rows)):
                sums[row] += values[leaf[row]]


@kernel
def fill_codes(codes: Bytes, rows: Floats, splits: Splits) -> None:
    """The bytes [column, row] of values: ranks among the thresholds of their column."""
    values, ranks = np.empty(len(rows)), np.empty(len(rows), np.uint32)
    for source in range(len(splits.source_feature)):
        zero_is_missing = splits.source_zero_is_missing[source]
        alike = True
        for row in range(len(rows)):
            value = rows[row, splits.source_feature[source]]
            if zero_is_missing and abs(value) <= ZERO_THRESHOLD:
                value = np.nan
            values[row] = value
            alike &= value == values[0]
        begin, room = splits.source_edges[source]
        # What is said of the user is the same for all candidates: one search for all of them.
        searched = 1 if alike else len(rows)
        rank_values(values[:searched], splits.edges[begin : begin + room - 1], ranks)
        for column in range(splits.columns_of[source], splits.columns_of[source + 1]):
            first, nan = splits.column_first[column], splits.column_nan[column]
            for row in range(searched):
                rank = min(max(int(np.int64(ranks[row])) - first, 0), RANKS)
                codes[column, row] = nan if np.isnan(values[row]) else np.uint8(rank)
            if alike:
                codes[column, :] = codes[column, 0]


@kernel
def rank_values(values: Floats, edges: Floats, ranks: Ranks) -> None:
    """How many edges are below each value; their number is one less than a power of two."""
    ranks[: len(values)] = NONE_BELOW
    # Unsigned, or every look-up would ask whether it counts from the end.
    step = np.uint32((len(edges) + 1) // 2)
    while step > NONE_BELOW:
        for row in range(len(values)):
            more = ranks[row] + step
            ranks[row] = more if edges[more - ONE] < values[row] else ranks[row]
        step >>= ONE


@kernel
def rule_out(
    standing: Bytes, codes: Bytes, width: int, splits: Splits, begin: int, end: int
) -> None:
    """Take from `standing` [byte, row] the leaves to the left of numeric splits that go right."""
    for split in range(begin, end):
        values, leaves = codes[splits.column[split]], standing[splits.place[split]]
        rank, survivors = splits.rank[split], splits.survivors[split]
        for row in range(width):
            leaves[row] &= survivors if values[row] > rank else EVERY_LEAF


@kernel
def rule_out_categorical(
    standing: Bytes, rows: Floats, splits: Splits, begin: int, end: int
) -> None:
    """The same of categorical splits."""
    for split in range(begin, end):
        feature, leaves = splits.column[split], standing[splits.place[split]]
        category_set = splits.category_set[split]
        set_begin = splits.category_bounds[category_set]
        categories = (splits.category_bounds[category_set + 1] - set_begin) * BITS_PER_SET_WORD
        for row in range(len(rows)):
            # Truncation makes -0.5 category 0, as LightGBM's cast to int does.
            value = np.trunc(rows[row, feature])
            goes_left = False
            if value >= 0 and value < categories:
                word, bit = divmod(int(value), BITS_PER_SET_WORD)
                goes_left = (splits.category_words[set_begin + word] >> bit) & 1 == 1
            if not goes_left:
                leaves[row] &= splits.survivors[split]


@kernel
def find_leaves(standing: Bytes, width: int, first_byte: Bytes, leaf: Leaves) -> None:
    """The first leaf of each row that stands: by arithmetic, because that is done for many rows at
    once and a look-up is not."""
    first_byte[:width], leaf[:width] = NO_LEAF, HERE
    for byte in range(len(standing)):
        leaves = standing[byte]
        for row in range(width):
            here = leaves[row] if first_byte[row] == NO_LEAF else first_byte[row]
            leaf[row] += PAST_BYTE if here == NO_LEAF else HERE
            first_byte[row] = here
    for row in range(width):
        lowest = first_byte[row] & -first_byte[row]
        odd, second, fourth = lowest & 0b10101010, lowest & 0b11001100, lowest & 0b11110000
        bit = (1 if odd else 0) + (2 if second else 0) + (4 if fourth else 0)
        leaf[row] += np.uint16(bit)
