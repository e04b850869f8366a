"""Training: rows into LightGBM heads and a model folder."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from features.errors import BadInput
from features.spec import Plan
from ranker.scoring.calibration import Isotonic, Platt, sigmoid
from ranker.scoring.model import HEAD_NAME, DataSpan, Manifest, Objective, TrainedHead, save_model
from ranker.training.calibrating import Method, fit_calibration
from ranker.training.evaluation import auc, log_loss, ndcg, request_gauc
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


_HEAD_NAME = re.compile(HEAD_NAME)


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What one head is to predict: whether an action follows, or the best order by it."""

    name: str
    objective: Objective
    action: str

    @classmethod
    def parse(cls, text: str) -> "HeadSpec":
        """`click`, or `rank=lambdarank:click`: name = objective : action."""
        name, given, rest = text.partition("=")
        objective, _, action = (rest if given else f"binary:{name}").partition(":")
        named = _HEAD_NAME.fullmatch(name)
        if objective not in ("binary", "lambdarank") or not action or not named:
            raise BadInput(
                f"head {text!r}: write an action (`click`) or name=objective:action "
                "(`rank=lambdarank:click`), the objective being binary or lambdarank, the name "
                "of small letters, digits and underscores"
            )
        return cls(name, "binary" if objective == "binary" else "lambdarank", action)


def train_heads(
    rows: TrainingRows,
    heads: Sequence[HeadSpec],
    *,
    trees: int = 300,
    seed: int = 1,
    held_back: float = 0.1,
    calibration: Method = "auto",
    progress: Callable[[str, int], None] = lambda head, tree: None,
) -> list[TrainedHead]:
    """Train each head on all rows; its metrics are of a twin that did not see the newest
    `held_back` of the requests (split by time, never at random), and so is its calibration.
    """
    cut = int(np.quantile(rows.now, 1 - held_back)) if len(rows) else 0
    trained = []
    for head in heads:
        label = rows.labels[head.action]
        if len(np.unique(label)) < 2:
            raise BadInput(
                f"head {head.name!r}: action {head.action!r} follows {int(label.sum())} of "
                f"{len(label)} training rows, so there is nothing to learn; choose another action, "
                "or a longer span"
            )
        metrics, calibrated = _judged(rows, head, cut, trees, seed, calibration)
        booster = _fit(rows, head, trees, seed, progress)
        text = booster.model_to_string()
        trained.append(
            TrainedHead(head.name, head.objective, head.action, text, metrics, calibrated)
        )
    return trained


def write_model(
    folder: Path,
    heads: Sequence[TrainedHead],
    rows: TrainingRows,
    plan: Plan,
    service: str,
    events: int,
) -> Manifest:
    """Write the model folder."""
    return save_model(
        folder,
        heads,
        feature_service=service,
        features=rows.columns,
        data_span=DataSpan(
            from_ms=int(rows.now.min()),
            to_ms=int(rows.now.max()),
            events=events,
            requests=len(np.unique(rows.request)),
        ),
        code_version=version("headrace"),
        plan=plan.version,
        created_at=datetime.now(UTC),
    )


def _fit(
    rows: TrainingRows,
    head: HeadSpec,
    trees: int,
    seed: int,
    progress: Callable[[str, int], None] = lambda head, tree: None,
) -> Any:
    _, sizes = np.unique(rows.request, return_counts=True)
    ranking = head.objective == "lambdarank"
    data = lightgbm.Dataset(
        rows.matrix,
        rows.labels[head.action],
        group=sizes if ranking else None,
        feature_name=list(rows.columns),
    )
    return lightgbm.train(
        {**PARAMETERS, "objective": head.objective, "seed": seed},
        data,
        trees,
        callbacks=[lambda env: progress(head.name, env.iteration + 1)],
    )


def _judged(
    rows: TrainingRows, head: HeadSpec, cut: int, trees: int, seed: int, method: Method
) -> tuple[dict[str, float], Platt | Isotonic | None]:
    """AUC, request GAUC and NDCG@10 on the requests after the cut, those that are defined; and
    for a binary head what its raw scores came to mean there.

    The log loss with and without a calibration is of the newer half, calibrated by the older.
    """
    early, late = rows.part(rows.now < cut), rows.part(rows.now >= cut)
    if not len(late) or len(np.unique(early.labels[head.action])) < 2:
        return {}, None
    score = np.asarray(_fit(early, head, trees, seed).predict(late.matrix, raw_score=True))
    label = late.labels[head.action]
    found = {
        "held_back_auc": auc(label, score),
        "held_back_request_gauc": request_gauc(label, score, late.request),
        "held_back_ndcg10": ndcg(label, score, late.request, 10),
    }
    calibrated = None
    if head.objective == "binary":
        calibrated = fit_calibration(score, label, method)
        older = late.now < np.median(late.now)
        trial = fit_calibration(score[older], label[older], method)
        if trial is not None:
            newer, chance = label[~older], trial.probability(score[~older])
            found["held_back_log_loss"] = log_loss(newer, chance)
            found["held_back_log_loss_uncalibrated"] = log_loss(newer, sigmoid(score[~older]))
    return {name: value for name, value in found.items() if np.isfinite(value)}, calibrated
