"""Calibration: what a head's raw score means as a probability, learnt on requests it did not see.

Both forms rise strictly, so they change what scores are worth and never the order of one head.
"""

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from features.as_of_kernels import Floats
from features.compiled import kernel

KNOTS_MAX = 1_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Platt(_Part):
    """p = sigmoid(slope · raw + intercept) (Platt, 1999)."""

    method: Literal["platt"] = "platt"
    slope: FiniteFloat = Field(gt=0)
    intercept: FiniteFloat

    def probability(self, raw: Floats) -> Floats:
        """[row]: the chance that the action follows."""
        return sigmoid(self.slope * raw + self.intercept)


class Isotonic(_Part):
    """Straight lines between knots: the centres of the steps of an isotonic regression.

    The steps themselves would make equal what the head holds apart; lines between their centres
    rise strictly (centred isotonic regression: Oron and Flournoy, 2017). Past the last knots the
    raw score goes on as log-odds.
    """

    method: Literal["isotonic"] = "isotonic"
    raw: list[FiniteFloat] = Field(min_length=1, max_length=KNOTS_MAX)
    chance: list[Annotated[float, Field(gt=0, lt=1)]] = Field(min_length=1, max_length=KNOTS_MAX)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.raw) != len(self.chance):
            raise ValueError("raw and chance are columns of one length")
        if (np.diff(self.raw) <= 0).any() or (np.diff(self.chance) <= 0).any():
            raise ValueError("raw and chance rise from knot to knot")
        return self

    def probability(self, raw: Floats) -> Floats:
        """[row]: the chance that the action follows."""
        knots, chances = np.array(self.raw), np.array(self.chance)
        found: Floats = np.interp(raw, knots, chances)
        for outside, end in ((raw < knots[0], 0), (raw > knots[-1], -1)):
            if outside.any():
                odds = math.log(chances[end] / (1 - chances[end]))
                found[outside] = sigmoid(raw[outside] - knots[end] + odds)
        return found


Calibration = Annotated[Platt | Isotonic, Field(discriminator="method")]


def sigmoid(raw: Floats) -> Floats:
    """1 / (1 + e^−raw), without overflow, and the same to the bit on every processor.

    numpy's `exp` is another approximation on each kind of processor.
    """
    return _sigmoid(np.require(raw, np.float64, ["C", "A", "W"]))


@kernel
def _sigmoid(raw: Floats) -> Floats:
    out = np.empty(len(raw))
    for i in range(len(raw)):
        decay = math.exp(-abs(raw[i]))
        out[i] = (1.0 if raw[i] >= 0 else decay) / (1.0 + decay)
    return out
