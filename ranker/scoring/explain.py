"""Why an item stands where it stands: the trees' own contributions, by group of features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np

from features.as_of_kernels import Floats
from ranker.request import Reason
from ranker.scoring.model import Model

SAYS: Final[Mapping[str, str]] = {
    "item_rates": "how people react to this item",
    "author_rates": "how people react to its author",
    "category_rates": "how people react to its category",
    "surface_rates": "how people react on this surface",
    "user_rates": "how this user reacts in general",
    "user_item": "this user's recent actions on like items",
    "item_facts": "what the item is",
    "user_facts": "what is known of the user",
    "request_facts": "where and when it is shown",
    "base": "what an item gets before anything is known of it",
}
"""Plain words for the default product's groups; others go by their own names."""

BASE: Final = "base"
TINY: Final = 1e-9


class Explainer:
    """Shares of a score, per as-of view; with the base they sum to it.

    The trees' path contributions (Lundberg et al., 2020) and the trees' expectation sum to a
    head's raw score. What the raw score gains on that expectation moves the prediction from the
    expectation's own to the item's, and each group is given its share of this move, times the
    head's weight (the rescale rule of DeepLIFT, Shrikumar et al., 2017).
    """

    def __init__(self, model: Model, folder: Path) -> None:
        self._heads = model.manifest.heads
        self._boosters: dict[str, Any] = {
            head.name: lightgbm.Booster(model_file=str(folder / head.file)) for head in self._heads
        }
        groups = [name.partition("__")[0] for name in model.manifest.features]
        self._groups = (*dict.fromkeys(groups), BASE)
        self._members = [
            [i for i, group in enumerate(groups) if group == wanted] for wanted in self._groups[:-1]
        ]

    def reasons(self, matrix: Floats, weights: Mapping[str, float]) -> list[list[Reason]]:
        """Per row of the matrix, the groups that moved Σ weight · prediction, strongest first,
        and the base last; they sum to it."""
        if not len(matrix):
            return []
        return [self._row(row) for row in self._shares(matrix, weights)]

    def _shares(self, matrix: Floats, weights: Mapping[str, float]) -> Floats:
        """[row, group] of the utility, the base being the last group."""
        total = np.zeros((len(matrix), len(self._groups)))
        for head in self._heads:
            weight = weights.get(head.name, 0.0)
            if not weight:
                continue
            # One thread: LightGBM's own go on spinning after they are done.
            found = self._boosters[head.name].predict(matrix, pred_contrib=True, num_threads=1)
            contributions: Floats = np.asarray(found)
            base = contributions[:, -1]
            raw = contributions.sum(axis=1)
            low, high = head.prediction(base), head.prediction(raw)
            moved = raw - base
            near = np.abs(moved) < TINY
            per_raw = np.where(near, 0.0, (high - low) / np.where(near, 1.0, moved))
            for place, members in enumerate(self._members):
                total[:, place] += weight * per_raw * contributions[:, members].sum(axis=1)
            total[:, -1] += weight * np.where(near, high, low)
        return total

    def _row(self, shares: Floats) -> list[Reason]:
        order = np.argsort(-np.abs(shares[:-1]), kind="stable").tolist()
        return [
            Reason(
                group=self._groups[i],
                says=SAYS.get(self._groups[i], self._groups[i]),
                contribution=float(shares[i]),
            )
            for i in (*order, len(shares) - 1)
        ]
