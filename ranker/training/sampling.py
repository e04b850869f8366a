"""Which rows are learnt from: each shown item once, and of many negatives a share."""

from collections.abc import Collection, Sequence

import numpy as np

from features.errors import BadInput
from ranker.training.rows import TrainingRows


def once(
    items: Sequence[str], outcomes: Sequence[Collection[str]]
) -> tuple[list[str], list[set[str]]]:
    """The items of a request, each where it was shown first, with all that followed any showing."""
    found: dict[str, set[str]] = {}
    for item, happened in zip(items, outcomes, strict=True):
        found.setdefault(item, set()).update(happened)
    return list(found), list(found.values())


def thinned(rows: TrainingRows, keep: float, seed: int) -> TrainingRows:
    """Every row that some action followed, and a share `keep` of the others, which weigh as many
    as they stand for: probabilities stay what they were. BadInput unless 0 < keep ≤ 1."""
    if not 0 < keep <= 1:
        raise BadInput(f"a share of {keep} of the negatives cannot be kept: above 0, at most 1")
    followed = np.zeros(len(rows), np.bool_)
    for label in rows.labels.values():
        followed |= label > 0
    kept = followed | (np.random.default_rng(seed).random(len(rows)) < keep)
    part = rows.part(kept)
    weight = np.where(followed[kept], 1.0, 1.0 / keep)
    return TrainingRows(part.columns, part.matrix, part.labels, part.request, part.now, weight)
