"""Why an item stands where it stands: the trees' own contributions, by group of features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from features.as_of_kernels import Floats
from ranker.model import Model
from ranker.request import Reason

SAYS: Mapping[str, str] = {
    "item_rates": "how people react to this item",
    "author_rates": "how people react to its author",
    "category_rates": "how people react to its category",
    "surface_rates": "how people react on this surface",
    "user_rates": "how this user reacts in general",
    "user_item": "this user's recent actions on like items",
    "item_facts": "what the item is",
    "user_facts": "what is known of the user",
    "request_facts": "where and when it is shown",
}
"""Plain words for the default product's groups; others go by their own names."""


class Explainer:
    """Contributions of the first head, per as-of view; they and the base sum to its raw score."""

    def __init__(self, model: Model, folder: Path) -> None:
        head = model.manifest.heads[0]
        self._booster: Any = lightgbm.Booster(model_file=str(folder / head.file))
        groups = [name.partition("__")[0] for name in model.manifest.features]
        self._groups = tuple(dict.fromkeys(groups))
        self._members = [
            [i for i, group in enumerate(groups) if group == wanted] for wanted in self._groups
        ]

    def reasons(self, matrix: Floats) -> list[list[Reason]]:
        """Per row of the matrix, the groups that moved its score, strongest first."""
        if not len(matrix):
            return []
        contributions: Floats = np.asarray(self._booster.predict(matrix, pred_contrib=True))
        sums = np.stack([contributions[:, m].sum(axis=1) for m in self._members], axis=1)
        return [self._row(row) for row in sums]

    def _row(self, sums: Sequence[float] | Floats) -> list[Reason]:
        order = np.argsort(-np.abs(sums), kind="stable")
        return [
            Reason(
                group=self._groups[i],
                says=SAYS.get(self._groups[i], self._groups[i]),
                contribution=float(sums[i]),
            )
            for i in order.tolist()
        ]
