"""Boosting: the parameters of LightGBM, and one head fitted with them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightgbm
import numpy as np

from features.as_of_kernels import Floats
from features.errors import BadInput
from ranker.scoring.model import Objective
from ranker.training.averaging import averaged
from ranker.training.calibrating import Method
from ranker.training.growing import Ground, Grown, Here, Lesson
from ranker.training.rows import TrainingRows

PARAMETERS: dict[str, Any] = {
    "learning_rate": 0.03,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
    # One core stays free: OpenMP threads that wait for a busy core cost more than they give.
    "num_threads": max(1, (os.cpu_count() or 2) - 1),
}
"""Chosen on days before 2 May of the KuaiRand stream (see the README of `tests/benchmarks`)."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """How heads are fitted."""

    trees: int = 300
    """Of each booster; at most, where `patience` is given."""
    seed: int = 1
    average: int = 1
    """Boosters that differ in their seed alone and whose raw scores are averaged, in one model."""
    held_back: float = 0.1
    """The share of the instants, the newest, that judges a twin of each head."""
    patience: int | None = None
    """Trees that may follow without a gain on the older half of what is held back."""
    monotone: Mapping[str, int] = field(default_factory=dict)
    """Column → 1 where the score may only rise with it, −1 where it may only fall."""
    calibration: Method = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """LightGBM's own, over PARAMETERS."""
    workers: int = 1
    """That the rows were dealt out to: for the record, the ground has them."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of fitting one head."""

    text: str
    trees: int
    """Of each booster."""
    gain: dict[str, float]
    """Column → the share of all gain that its splits made."""


def fit(
    rows: TrainingRows,
    action: str,
    objective: Objective,
    fitting: Fitting,
    *,
    trees: int | None = None,
    stop_on: TrainingRows | None = None,
    progress: Callable[[int], None] = lambda tree: None,
    ground: Ground = Here(),  # noqa: B008  (stateless)
) -> Fitted:
    """One head of so many trees; with `stop_on` and patience, as many as still gain on its rows.

    BadInput when a constraint names no column.
    """
    parameters = booster_parameters(rows.columns, objective, fitting)
    length, patience = trees or fitting.trees, fitting.patience if stop_on is not None else None
    boosters: list[Grown] = []
    lesson = Lesson(rows, action, objective, None if patience is None else stop_on)
    with ground.lay(lesson) as grow:
        for number in range(fitting.average):
            seeded = {**parameters, "seed": fitting.seed + number}
            one = grow(seeded, length, patience, partial(_told, progress, number * length))
            boosters.append(one)
            length, patience = one.trees, None  # its twins are as long
    gain = np.sum([one.gain for one in boosters], axis=0)
    share = gain / max(gain.sum(), np.finfo(np.float64).tiny)
    return Fitted(
        averaged([one.text for one in boosters]),
        length,
        dict(zip(rows.columns, share.tolist(), strict=True)),
    )


def booster_parameters(
    columns: tuple[str, ...], objective: Objective, fitting: Fitting
) -> dict[str, Any]:
    """What LightGBM is given, but for the seed."""
    unknown = sorted(set(fitting.monotone) - set(columns))
    if unknown:
        raise BadInput(
            f"a monotone constraint names {unknown[0]!r}, which is no column; they are "
            f"{', '.join(columns)}"
        )
    parameters = {**PARAMETERS, "objective": objective, **fitting.parameters}
    if fitting.monotone:
        parameters["monotone_constraints"] = [fitting.monotone.get(c, 0) for c in columns]
    return parameters


def _told(progress: Callable[[int], None], before: int, tree: int) -> None:
    progress(before + tree)


def raw_scores(text: str, matrix: Floats) -> Floats:
    """The raw score of each row."""
    booster = lightgbm.Booster(model_str=text)
    threads = PARAMETERS["num_threads"]
    return np.asarray(booster.predict(matrix, raw_score=True, num_threads=threads))
