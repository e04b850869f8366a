"""A LightGBM model as flat arrays, scored by a compiled kernel without the GIL.

No tree is walked. A split that goes right rules out the leaves of its left subtree; of the leaves
still standing after all splits, the leftmost is the one a walk reaches (QuickScorer, Lucchese
et al., SIGIR 2015). So a split is one comparison over many rows, with no branch and no indirect
load, and the cost is that of the number of leaves, whatever the depth.

The scores equal `Booster.predict(raw_score=True)` to the bit: trees are added in the model's
order, and splits decide as `Tree::NumericalDecision` and `Tree::CategoricalDecision` of LightGBM.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.compiled import kernel
from ranker.forest_splits import (
    DE_BRUIJN,
    DE_BRUIJN_SHIFT,
    LEAVES_PER_WORD,
    ZERO_THRESHOLD,
    Splits,
    flatten,
)
from ranker.lightgbm_text import parse_model_text

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

ROWS_PER_BLOCK = 128
BITS_PER_SET_WORD = 32
EVERY_LEAF = np.uint64(2**64 - 1)
NO_LEAF = np.uint64(0)
ONE = np.uint64(1)


@dataclass(frozen=True)
class Forest:
    """All trees of a model; `predict` may be called from many threads at once."""

    objective: str  # as LightGBM writes it: "binary sigmoid:1", "lambdarank"
    feature_names: list[str]
    splits: Splits

    @classmethod
    def from_model_text(cls, text: str) -> Self:
        """The forest of `Booster.model_to_string()`; Refused when it cannot be scored exactly."""
        model = parse_model_text(text)
        return cls(model.objective, model.feature_names, flatten(model.trees))

    @property
    def trees(self) -> int:
        return len(self.splits.kind_bounds)

    def predict(self, matrix: Floats) -> Floats:
        """Raw scores [n] of the rows of `matrix` [n, features], columns as `feature_names`."""
        rows, columns = matrix.shape
        if columns != len(self.feature_names):
            raise ValueError(f"{columns} columns for a model of {len(self.feature_names)}")
        scores = np.zeros(rows, dtype=np.float64)
        # One memory layout, so that the kernel is compiled once and never during a request.
        add_scores(np.require(matrix, np.float64, ["C", "A", "W"]), self.splits, scores)
        return scores


@kernel
def add_scores(matrix: Floats, splits: Splits, scores: Floats) -> None:
    """Add every tree's leaf value, in order, to `scores`, a block of rows at a time."""
    block = np.empty((len(splits.column_feature), ROWS_PER_BLOCK), dtype=np.float64)
    words = np.max(np.diff(splits.word_bounds))
    standing = np.empty((words, ROWS_PER_BLOCK), dtype=np.uint64)
    for first in range(0, len(scores), ROWS_PER_BLOCK):
        size = min(ROWS_PER_BLOCK, len(scores) - first)
        fill_block(block, matrix[first : first + size], splits)
        for tree in range(len(splits.kind_bounds)):
            first_word, next_word = splits.word_bounds[tree], splits.word_bounds[tree + 1]
            standing[: next_word - first_word, :size] = EVERY_LEAF
            begin, nan_left, categorical, end = splits.kind_bounds[tree]
            for split in range(begin, nan_left):
                values = block[splits.column[split], :size]
                leaves = standing[splits.word[split], :size]
                threshold, survivors = splits.threshold[split], splits.survivors[split]
                for row in range(size):
                    leaves[row] &= EVERY_LEAF if values[row] <= threshold else survivors
            for split in range(nan_left, categorical):
                values = block[splits.column[split], :size]
                leaves = standing[splits.word[split], :size]
                threshold, survivors = splits.threshold[split], splits.survivors[split]
                for row in range(size):
                    leaves[row] &= survivors if values[row] > threshold else EVERY_LEAF
            if categorical < end:
                rule_out_categorical(standing, block, size, splits, categorical, end)
            for row in range(size):
                word = 0
                while standing[word, row] == NO_LEAF:
                    word += 1
                leftmost = standing[word, row] & (~standing[word, row] + ONE)
                code = np.int64((leftmost * DE_BRUIJN) >> DE_BRUIJN_SHIFT)
                place = (first_word + word) * LEAVES_PER_WORD + code
                scores[first + row] += splits.leaf_value[place]


@kernel
def fill_block(block: Floats, rows: Floats, splits: Splits) -> None:
    """Copy the columns that are split on, so that the values of a column lie side by side."""
    for column in range(len(splits.column_feature)):
        feature = splits.column_feature[column]
        zero_is_missing = splits.column_zero_is_missing[column]
        for row in range(len(rows)):
            value = rows[row, feature]
            if zero_is_missing and abs(value) <= ZERO_THRESHOLD:
                value = np.nan
            block[column, row] = value


@kernel
def rule_out_categorical(
    standing: Words, block: Floats, size: int, splits: Splits, begin: int, end: int
) -> None:
    """Take from `standing` [words, rows] those to the left of categorical splits that go right."""
    for split in range(begin, end):
        values = block[splits.column[split], :size]
        leaves = standing[splits.word[split], :size]
        category_set = int(splits.threshold[split])
        set_begin = splits.category_bounds[category_set]
        categories = (splits.category_bounds[category_set + 1] - set_begin) * BITS_PER_SET_WORD
        for row in range(size):
            # Truncation makes -0.5 category 0, as LightGBM's cast to int does.
            value = np.trunc(values[row])
            goes_left = False
            if value >= 0 and value < categories:
                word, bit = divmod(int(value), BITS_PER_SET_WORD)
                goes_left = (splits.category_words[set_begin + word] >> bit) & 1 == 1
            if not goes_left:
                leaves[row] &= splits.survivors[split]
