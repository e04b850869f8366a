"""The value model: one number per candidate from the heads' predictions."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from features.as_of_kernels import Floats
from features.errors import Refused


class ValueWeights(BaseModel):
    """Weight of each head, by surface; negative weights push down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: dict[str, FiniteFloat]
    surfaces: dict[str, dict[str, FiniteFloat]] = {}


class ValueModel:
    """Utility = Σ weight(head) · prediction(head). Heads that a model lacks weigh nothing."""

    def __init__(self, weights: ValueWeights, heads: list[str]) -> None:
        self._weights = weights
        for surface, given in {"default": weights.default, **weights.surfaces}.items():
            if not any(given.get(head) for head in heads):
                raise Refused(
                    f"value weights of {surface!r} name {', '.join(given) or 'nothing'}, the model "
                    f"has heads {', '.join(heads)}: give one of them a weight other than 0"
                )

    def value(self, heads: Mapping[str, Floats], surface: str) -> Floats:
        """[candidate]: its utility on a surface."""
        weights = self._weights.surfaces.get(surface, self._weights.default)
        total = np.zeros(len(next(iter(heads.values()))))
        for head, prediction in heads.items():
            weight = weights.get(head, 0.0)
            if weight:
                total += weight * prediction
        return total


def read_weights(path: Path) -> ValueWeights:
    """The weights in a YAML file."""
    try:
        return ValueWeights.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise Refused(f"value weights {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise Refused(
            f"value weights {path}: {error}; it holds `default:` and optionally `surfaces:`, "
            "each a map from head to weight"
        ) from error
