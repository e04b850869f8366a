"""Models on KuaiRand beside the yardstick's, judged on the same rows as DATA.md says.

Ours: the events of the adapter, replayed through the tables that serve, and heads of averaged
boosters as `headrace train --average` fits them, three times from other seeds, on the requests that
start by 1 May. The rows and the outcomes that all are judged on are asserted to be the same. The
lead over the mean of three yardsticks is drawn anew by user. Clicks alone; FULL=1 adds long views
and likes, the single yardstick, and what each group of features gives.
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.evaluation import auc, request_gauc
from ranker.training.resampling import interval, lead, weighted_auc, weighted_gauc
from ranker.training.rows import TrainingRows
from tests.benchmarks.kuairand_rows import LABELS, declared_plan, rows_of
from tests.benchmarks.report import Result
from tests.benchmarks.yardstick_kuairand import (
    AVERAGED,
    SINGLE,
    judged_rows,
    yardstick_scores,
)

Floats: TypeAlias = NDArray[np.float64]

COMPARED = ("click", "long_view")
"""Actions that the yardsticks learn as well."""
SEEDS = (1, 11, 21)
FITTING = Fitting(
    trees=150,
    average=4,
    parameters={
        "num_leaves": 31,
        "learning_rate": 0.05,
        "feature_fraction": 0.4,
        "max_bin": 63,
        "num_threads": 1,
    },
)
"""What features were chosen with, before 2 May. It costs no more than 300 trees × 63 leaves."""
DRAWS = 1000


def run(full: bool) -> Result:
    os.environ["OMP_NUM_THREADS"] = "1"  # of the yardstick's process: there are two on two cores
    actions = tuple(LABELS) if full else ("click",)
    compared = [action for action in COMPARED if action in actions]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as beside:
        theirs = {
            (action, sort): beside.submit(yardstick_scores, LABELS[action], sort)
            for sort in ((AVERAGED, SINGLE) if full else (AVERAGED,))
            for action in compared
        }
        rows, test, place = rows_of(declared_plan())
        ours = {action: scores(rows, test, action) for action in actions}
        late = rows.part(test)
        figures, reference = _figures(late, ours), _reference(late, place, theirs)
        figures |= _leads(late, place, ours, theirs, compared)
    if full:
        print_ablation(rows, test)
    shared = {name for name in figures if name in reference}
    return Result(
        benchmark="quality_kuairand",
        ours=figures | {"test_rows": float(test.sum()), "columns": float(len(rows.columns))},
        yardstick=reference,
        ratio={name: figures[name] / reference[name] for name in sorted(shared)},
    )


def scores(rows: TrainingRows, test: NDArray[np.bool_], action: str) -> list[Floats]:
    """Raw scores of the test rows by a model of each seed, trained on the other rows."""
    early, late = rows.part(~test), rows.part(test)
    return [
        raw_scores(fit(early, action, "binary", _seeded(seed)).text, late.matrix) for seed in SEEDS
    ]


def print_ablation(rows: TrainingRows, test: NDArray[np.bool_]) -> None:
    """What the click figures lose without each group of features: on the last two days of training,
    learnt from those before them."""
    before = rows.part(~test)
    day_ms = 24 * 3_600_000
    cut = int(before.now.max()) - 2 * day_ms
    early, late = before.part(before.now < cut), before.part(before.now >= cut)
    groups = [name.partition("__")[0] for name in rows.columns]
    table = Table("without", "columns", "click AUC", "request GAUC", title="ablation, before 2 May")
    for group in ("–", *dict.fromkeys(groups)):
        kept = [place for place, of in enumerate(groups) if of != group]
        label, score = late.labels["click"], _of_columns(early, late, kept)
        table.add_row(
            group,
            str(len(groups) - len(kept)),
            f"{auc(label, score):.4f}",
            f"{request_gauc(label, score, late.request):.4f}",
        )
    Console().print(table)


def _of_columns(early: TrainingRows, late: TrainingRows, kept: list[int]) -> Floats:
    names = tuple(early.columns[place] for place in kept)
    narrow = TrainingRows(names, early.matrix[:, kept], early.labels, early.request, early.now)
    return raw_scores(fit(narrow, "click", "binary", FITTING).text, late.matrix[:, kept])


def _seeded(seed: int) -> Fitting:
    return replace(FITTING, seed=seed)


def _figures(late: TrainingRows, ours: dict[str, list[Floats]]) -> dict[str, float]:
    """Mean over the seeds of AUC and request GAUC, and how far the seeds lie apart."""
    found = {}
    for action, of_seeds in ours.items():
        label = late.labels[action]
        for name, values in (
            ("auc", [auc(label, score) for score in of_seeds]),
            ("gauc", [request_gauc(label, score, late.request) for score in of_seeds]),
        ):
            found[f"{action}_{name}"] = float(np.mean(values))
            found[f"{action}_{name}_spread"] = float(np.max(values) - np.min(values))
    return found


def _reference(
    late: TrainingRows,
    place: NDArray[np.int64],
    theirs: dict[tuple[str, str], "Future[Floats]"],
) -> dict[str, float]:
    """The figures of the averaged yardstick under our names, and of the single one."""
    found = {}
    for (action, sort), future in theirs.items():
        label, score = late.labels[action], future.result()[place]
        stem = action if sort == AVERAGED else f"{action}_single"
        found[f"{stem}_auc"] = auc(label, score)
        found[f"{stem}_gauc"] = request_gauc(label, score, late.request)
    return found


def _leads(
    late: TrainingRows,
    place: NDArray[np.int64],
    ours: dict[str, list[Floats]],
    theirs: dict[tuple[str, str], "Future[Floats]"],
    compared: Sequence[str],
) -> dict[str, float]:
    """Lower bounds of the leads over the averaged yardstick, by users drawn with replacement: of
    the first seed, as nobody serves a mean of seeds."""
    users = judged_rows()
    of_row = users.rows["user_id"].to_numpy()[users.test][place]
    owner = np.unique(of_row, return_inverse=True)[1].astype(np.int64)
    found = {}
    for action in compared:
        label, mine = late.labels[action], ours[action][0]
        other = theirs[action, AVERAGED].result()[place]
        pairs = {
            "auc": (weighted_auc(label, mine, owner), weighted_auc(label, other, owner)),
            "gauc": (
                weighted_gauc(label, mine, late.request, owner),
                weighted_gauc(label, other, late.request, owner),
            ),
        }
        for name, (figure, of_other) in pairs.items():
            span = interval(lead(figure, of_other), int(owner.max()) + 1, DRAWS)
            found[f"{action}_{name}_lead"] = span.value
            found[f"{action}_{name}_lead_low"] = span.low
            found[f"{action}_{name}_lead_high"] = span.high
    return found
