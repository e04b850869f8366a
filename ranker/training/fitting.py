"""Training: rows into heads that are judged on later requests, and a model folder."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from features.errors import BadInput
from features.spec import Plan
from ranker.scoring.calibration import Isotonic, Platt, sigmoid
from ranker.scoring.model import HEAD_NAME, DataSpan, Manifest, Objective, TrainedHead, save_model
from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.calibrating import fit_calibration
from ranker.training.evaluation import auc, log_loss, ndcg, request_gauc
from ranker.training.growing import Ground, Here
from ranker.training.rows import TrainingRows

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
    fitting: Fitting = Fitting(),  # noqa: B008  (frozen)
    progress: Callable[[str, int], None] = lambda head, tree: None,
    ground: Ground = Here(),  # noqa: B008  (stateless)
) -> list[TrainedHead]:
    """Train each head on all rows; its metrics are of a twin that did not see the newest
    `held_back` of the requests (split by time, never at random), and so are its calibration and,
    with patience, its number of trees. They grow on the given ground; BadInput when their
    parameters ask for what it cannot do.
    """
    ground.refuse(fitting.parameters)
    cut = int(np.quantile(rows.now, 1 - fitting.held_back)) if len(rows) else 0
    trained = []
    for head in heads:
        label = rows.labels[head.action]
        if len(np.unique(label)) < 2:
            raise BadInput(
                f"head {head.name!r}: action {head.action!r} follows {int(label.sum())} of "
                f"{len(label)} training rows, so there is nothing to learn; choose another action, "
                "or a longer span"
            )
        twin = _judged(rows, head, cut, fitting, ground)
        fitted = fit(
            rows,
            head.action,
            head.objective,
            fitting,
            trees=twin.trees,
            progress=partial(progress, head.name),
            ground=ground,
        )
        trained.append(
            TrainedHead(
                head.name,
                head.objective,
                head.action,
                fitted.text,
                twin.metrics,
                twin.calibration,
                fitted.gain,
            )
        )
    return trained


def write_model(
    folder: Path,
    heads: Sequence[TrainedHead],
    rows: TrainingRows,
    plan: Plan,
    service: str,
    events: int,
    fitting: Fitting | None = None,
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
        fitting=None if fitting is None else asdict(fitting),
    )


@dataclass(frozen=True, slots=True)
class _Twin:
    """What a twin of a head, fitted on the older requests, told of it on the newer."""

    metrics: dict[str, float]
    calibration: Platt | Isotonic | None = None
    trees: int | None = None


def _judged(
    rows: TrainingRows, head: HeadSpec, cut: int, fitting: Fitting, ground: Ground
) -> _Twin:
    """AUC, request GAUC and NDCG@10 on the requests after the cut, those that are defined; and
    for a binary head what its raw scores came to mean there.

    The log loss with and without a calibration is of the newer half, calibrated by the older. So
    are all metrics when the older half has chosen the number of trees.
    """
    early, late = rows.part(rows.now < cut), rows.part(rows.now >= cut)
    if not len(late) or any(len(np.unique(p.labels[head.action])) < 2 for p in (early, late)):
        return _Twin({})
    older = late.now < np.median(late.now)
    stop_on = late.part(older) if fitting.patience is not None and older.any() else None
    fitted = fit(early, head.action, head.objective, fitting, stop_on=stop_on, ground=ground)
    score, label = raw_scores(fitted.text, late.matrix), late.labels[head.action]
    shown = ~older if stop_on is not None else np.ones(len(late), np.bool_)
    if len(np.unique(label[shown])) < 2:
        return _Twin({}, trees=fitted.trees)
    found = {
        "held_back_auc": auc(label[shown], score[shown]),
        "held_back_request_gauc": request_gauc(label[shown], score[shown], late.request[shown]),
        "held_back_ndcg10": ndcg(label[shown], score[shown], late.request[shown], 10),
    }
    calibrated = None
    if head.objective == "binary":
        calibrated = fit_calibration(score, label, fitting.calibration)
        trial = fit_calibration(score[older], label[older], fitting.calibration)
        if trial is not None:
            newer, chance = label[~older], trial.probability(score[~older])
            found["held_back_log_loss"] = log_loss(newer, chance)
            found["held_back_log_loss_uncalibrated"] = log_loss(newer, sigmoid(score[~older]))
    defined = {name: value for name, value in found.items() if np.isfinite(value)}
    return _Twin(defined, calibrated, fitted.trees)
