"""The value model: one number per candidate from the heads' predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from features.as_of_kernels import Floats
from features.errors import Refused
from ranker.rules import read_yaml


class ValueWeights(BaseModel):
    """Weight of each head, by surface; negative weights push down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: dict[str, FiniteFloat]
    surfaces: dict[str, dict[str, FiniteFloat]] = {}


class ValueModel:
    """Utility = Σ weight(head) · prediction(head). Heads that a model lacks weigh nothing."""

    def __init__(self, weights: ValueWeights, heads: Sequence[str]) -> None:
        self._weights = weights
        for surface, given in {"default": weights.default, **weights.surfaces}.items():
            if not any(given.get(head) for head in heads):
                raise Refused(
                    f"value weights of {surface!r} name {', '.join(given) or 'nothing'}, the model "
                    f"has heads {', '.join(heads)}: give one of them a weight other than 0"
                )

    def weights(self, surface: str) -> Mapping[str, float]:
        """Head → weight on a surface."""
        return self._weights.surfaces.get(surface, self._weights.default)

    def value(self, heads: Mapping[str, Floats], surface: str) -> Floats:
        """[candidate]: its utility on a surface."""
        weights = self.weights(surface)
        total = np.zeros(len(next(iter(heads.values()))))
        for head, prediction in heads.items():
            weight = weights.get(head, 0.0)
            if weight:
                total += weight * prediction
        return total


def read_weights(path: Path) -> ValueWeights:
    """The weights in a YAML file. Raises Refused."""
    holds = "`default:` and optionally `surfaces:`, each a map from head to weight"
    return read_yaml(path, ValueWeights, "value weights", holds)
