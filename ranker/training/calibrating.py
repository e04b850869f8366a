"""Fitting a calibration, with scikit-learn; a model that has one is served without it."""

from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from features.errors import Refused
from ranker.scoring.calibration import KNOTS_MAX, Isotonic, Platt

Method = Literal["auto", "isotonic", "platt", "none"]

ISOTONIC_ROWS_MIN = 1_000
ISOTONIC_POSITIVES_MIN = 50
POSITIVES_MIN = 5
"""With fewer rows of either label there is nothing to go by."""


def fit_calibration(
    raw: Floats, label: NDArray[np.int8], method: Method = "auto"
) -> Platt | Isotonic | None:
    """What raw scores [row] mean, by what followed; None when there is too little to tell.

    "auto" is isotonic where there are rows enough for it, else Platt, and none without
    scikit-learn. Raises Refused when another is asked for and scikit-learn is missing.
    """
    rare = min(int(label.sum()), int(len(label) - label.sum()))
    if method == "none" or rare < POSITIVES_MIN:
        return None
    if find_spec("sklearn") is None:
        if method == "auto":
            return None
        raise Refused("calibration needs scikit-learn: pip install 'headrace[train]'")
    many = len(label) >= ISOTONIC_ROWS_MIN and rare >= ISOTONIC_POSITIVES_MIN
    if method == "isotonic" or (method == "auto" and many):
        return _isotonic(raw, label)
    return _platt(raw, label)


def _platt(raw: Floats, label: NDArray[np.int8]) -> Platt | None:
    from sklearn.linear_model import LogisticRegression

    # Platt's own targets keep a small sample from promising 0 or 1: a row of weight t is positive
    # and one of weight 1 − t is negative.
    positives, negatives = int(label.sum()), int(len(label) - label.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    target = np.where(label == 1, high, low)
    both = np.concatenate([raw, raw])[:, None]
    model = LogisticRegression(C=1e6).fit(
        both,
        np.repeat([1, 0], len(raw)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Platt(slope=slope, intercept=intercept) if slope > 0 else None


def _isotonic(raw: Floats, label: NDArray[np.int8]) -> Isotonic | None:
    from sklearn.isotonic import IsotonicRegression

    steps = IsotonicRegression().fit_transform(raw, label)
    _, step = np.unique(steps, return_inverse=True)
    rows = np.bincount(step)
    knots = np.bincount(step, raw) / rows
    # One half of a row more of either label: no step promises 0 or 1.
    chances = (np.bincount(step, label) + 0.5) / (rows + 1.0)
    rising = [0]
    for place in range(1, len(knots)):
        if knots[place] > knots[rising[-1]] and chances[place] > chances[rising[-1]]:
            rising.append(place)
    kept = np.array(rising)[np.unique(np.linspace(0, len(rising) - 1, KNOTS_MAX).astype(int))]
    if len(kept) < 2:
        return None
    return Isotonic(raw=knots[kept].tolist(), chance=chances[kept].tolist())
