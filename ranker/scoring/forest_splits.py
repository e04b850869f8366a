"""The splits of a forest as flat arrays: which leaves still stand when a split goes right.

A value is compared with thresholds by its rank among them, which fits a byte. A *source* is a
feature as splits read it; its *columns* are its ranks as bytes, one for each run of RANKS
thresholds and for each side that NaN goes to.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranker.scoring.lightgbm_text import MISSING_NONE, MISSING_ZERO, Tree

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAVES_PER_BYTE: Final = 8
RANKS: Final = 255
"""Thresholds that one column tells apart."""
# LightGBM takes a value this close to zero for zero (kZeroThreshold, a float32 constant).
ZERO_THRESHOLD = float(np.float32(1e-35))


class Splits(NamedTuple):
    """A forest of T trees; a tree's leaves, numbered left to right, are the bits of its bytes.

    A split that rules out leaves of several bytes stands once for each of them. Numbers are as
    narrow as they may be: between two requests everything else passes through the caches.
    """

    source_feature: Ints  # [sources]
    source_zero_is_missing: Bools  # [sources]
    source_edges: Ints  # [sources, 2] where its thresholds begin; 2^n, which is 1 more than they
    edges: Floats  # the thresholds of every source, ascending, then +inf to fill up
    columns_of: Ints  # [sources + 1] where the columns of each source begin
    column_first: Ints  # [columns] the first threshold of its run
    column_nan: Bytes  # [columns] the byte of NaN
    kind_bounds: Ints  # [T, 3] where a tree's splits begin, its categorical ones, and the end
    column: NDArray[np.int32]  # [splits] of a categorical split: its feature
    rank: Bytes  # [splits] a greater byte goes right
    place: NDArray[np.uint16]  # [splits] the byte of its tree that the split can change
    survivors: Bytes  # [splits] the leaves there that it leaves standing when it goes right
    category_set: Ints  # [splits] of a categorical split
    category_bounds: Ints  # [sets + 1]
    category_words: Ints  # the categories that go left, 32 bits a word
    byte_counts: Ints  # [T] bytes that hold a tree's leaves
    leaf_bounds: Ints  # [T] where its leaf values begin
    leaf_value: Floats


class _Nodes(NamedTuple):
    """The splits of all trees as LightGBM has them, with the leaves [start, stop) to their left."""

    tree: Ints
    source_key: Ints  # feature * 2 + zero_is_missing
    nan_left: Bools
    categorical: Bools
    threshold: Floats
    start: Ints
    stop: Ints


def flatten(trees: Sequence[Tree]) -> Splits:
    """The splits of `trees`, tree after tree."""
    ranges = [_leaf_ranges(tree) for tree in trees]
    nodes = _nodes(trees, ranges)
    sources, first, nan, columns_of, column, rank = _columns(nodes)
    node, place, survivors = _bytes_touched(nodes)
    order = np.lexsort((column[node], place, nodes.categorical[node], nodes.tree[node]))
    node = node[order]
    # Three places a tree: where its numeric splits begin, its categorical ones, and both end.
    key = 2 * nodes.tree[node] + nodes.categorical[node]
    bounds = np.searchsorted(key, np.arange(2 * len(trees) + 1))
    kind_bounds = np.lib.stride_tricks.sliding_window_view(bounds, 3)[::2]
    leaves = np.array([len(tree.leaf_value) for tree in trees], np.int64)
    leaf_value = [np.empty(count) for count in leaves]
    for values, tree, (_, _, position) in zip(leaf_value, trees, ranges, strict=True):
        values[position] = tree.leaf_value
    words = np.cumsum([0] + [len(tree.category_words) for tree in trees])
    sets = [tree.category_bounds[1:] + words[i] for i, tree in enumerate(trees)]
    return Splits(
        source_feature=sources.key >> 1,
        source_zero_is_missing=(sources.key & 1) > 0,
        source_edges=sources.bounds,
        edges=sources.edges,
        columns_of=columns_of,
        column_first=first,
        column_nan=nan,
        kind_bounds=np.array(kind_bounds),
        column=column[node].astype(np.int32),
        rank=rank[node],
        place=place[order].astype(np.uint16),
        survivors=survivors[order],
        category_set=np.where(nodes.categorical, nodes.threshold, 0).astype(np.int64)[node],
        category_bounds=np.concatenate([np.zeros(1, np.int64), *sets]),
        category_words=np.concatenate([tree.category_words for tree in trees]),
        byte_counts=(leaves - 1) // LEAVES_PER_BYTE + 1,
        leaf_bounds=np.cumsum(leaves) - leaves,
        leaf_value=np.concatenate(leaf_value),
    )


def _nodes(trees: Sequence[Tree], ranges: Sequence[tuple[Ints, Ints, Ints]]) -> _Nodes:
    sets = np.cumsum([0] + [len(tree.category_bounds) - 1 for tree in trees])
    parts = []
    for number, (tree, (start, stop, _)) in enumerate(zip(trees, ranges, strict=True)):
        categorical = tree.categorical
        zero_is_missing = (tree.missing == MISSING_ZERO) & ~categorical
        # Without a side of its own, NaN is read as zero.
        none = tree.missing == MISSING_NONE
        parts.append(
            _Nodes(
                tree=np.full(len(start), number, np.int64),
                source_key=tree.feature * 2 + zero_is_missing,
                nan_left=np.where(none, tree.threshold >= 0, tree.default_left),
                categorical=categorical,
                threshold=np.where(
                    categorical, tree.threshold + sets[number], _past_zero(tree.threshold)
                ),
                start=start,
                stop=stop,
            )
        )
    return _Nodes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class _Sources(NamedTuple):
    key: Ints
    bounds: Ints
    edges: Floats


def _columns(nodes: _Nodes) -> tuple[_Sources, Ints, Bytes, Ints, Ints, Bytes]:
    """Sources; of each column its first threshold and its byte of NaN; where the columns of each
    source begin; of each node its column (its feature where it is categorical) and its rank."""
    column, rank = nodes.source_key >> 1, np.zeros(len(nodes.tree), np.uint8)
    numeric = ~nodes.categorical
    keys = np.unique(nodes.source_key[numeric])
    bounds, edges = np.zeros((len(keys), 2), np.int64), []
    first: list[int] = []
    nan: list[int] = []
    columns_of = [0]
    at = 0
    for source, key in enumerate(keys.tolist()):
        chosen = np.flatnonzero(numeric & (nodes.source_key == key))
        thresholds, ranks = np.unique(nodes.threshold[chosen], return_inverse=True)
        room = 1 << len(thresholds).bit_length()
        edges.append(np.concatenate([thresholds, np.full(room - 1 - len(thresholds), np.inf)]))
        bounds[source] = at, room
        at += room - 1
        runs = 2 * (ranks // RANKS) + nodes.nan_left[chosen]
        for run in np.unique(runs).tolist():
            column[chosen[runs == run]] = len(first)
            first.append(run // 2 * RANKS)
            nan.append(0 if run % 2 else RANKS)
        rank[chosen] = ranks % RANKS
        columns_of.append(len(first))
    found = _Sources(keys, bounds, np.concatenate([np.zeros(0), *edges]))
    return (
        found,
        np.array(first, np.int64),
        np.array(nan, np.uint8),
        np.array(columns_of, np.int64),
        column,
        rank,
    )


def _bytes_touched(nodes: _Nodes) -> tuple[Ints, Ints, Bytes]:
    """Each split once for each byte of its tree that it can change: its node, the place of the
    byte, and the leaves there that survive it."""
    first, last = nodes.start // LEAVES_PER_BYTE, (nodes.stop - 1) // LEAVES_PER_BYTE
    touched = last - first + 1
    node = np.repeat(np.arange(len(touched)), touched)
    place = first[node] + np.arange(len(node)) - (np.cumsum(touched) - touched)[node]
    low = np.maximum(nodes.start[node] - place * LEAVES_PER_BYTE, 0)
    high = np.minimum(nodes.stop[node] - place * LEAVES_PER_BYTE, LEAVES_PER_BYTE)
    survivors = ~((1 << high) - (1 << low)) & 0xFF
    return node, place, survivors.astype(np.uint8)


def _leaf_ranges(tree: Tree) -> tuple[Ints, Ints, Ints]:
    """The leaves of each node's left subtree, [start, stop), and the position of each leaf."""
    nodes = len(tree.feature)
    left, right = tree.left.tolist(), tree.right.tolist()
    under = [1] * nodes  # leaves under a node
    for node in reversed(range(nodes)):
        under[node] = sum(under[child] if child >= 0 else 1 for child in (left[node], right[node]))
    start, stop = [0] * nodes, [0] * nodes
    position = [0] * (nodes + 1)
    for node in range(nodes):
        stop[node] = start[node] + (under[left[node]] if left[node] >= 0 else 1)
        for child, begins in ((left[node], start[node]), (right[node], stop[node])):
            if child >= 0:
                start[child] = begins
            else:
                position[~child] = begins
    return np.array(start, np.int64), np.array(stop, np.int64), np.array(position, np.int64)


def _past_zero(threshold: Floats) -> Floats:
    """Thresholds moved off the values that LightGBM reads as zero, so that no value need be."""
    moved = np.where(np.abs(threshold) <= ZERO_THRESHOLD, ZERO_THRESHOLD, threshold)
    below_zero = (threshold < 0) & (threshold >= -ZERO_THRESHOLD)
    return np.where(below_zero, np.nextafter(-ZERO_THRESHOLD, -np.inf), moved)
