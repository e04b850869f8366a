"""One model on KuaiRand beside the yardstick's, judged on the same rows as DATA.md says.

Ours: the events of the adapter, replayed through the tables that serve, and one LightGBM head by
`ranker.training.fitting.PARAMETERS` on the requests that start by 1 May. The rows and the outcomes
that both are judged on are asserted to be the same. Without FULL=1 only `click` is learnt.
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.plan import FeatureRepo
from features.spec import Plan
from ranker.training.evaluation import auc, request_gauc
from ranker.training.fitting import PARAMETERS
from ranker.training.rows import RowMaker, TrainingRows
from streaming.adapters import kuairand
from streaming.replay import Request, Timeline
from tests.benchmarks.ground import KUAIRAND, SERVICE, applied, scratch
from tests.benchmarks.report import Result
from tests.benchmarks.yardstick_kuairand import TREES, judged_rows, yardstick

LABELS = {"click": "is_click", "long_view": "long_view"}
NO_REDIS = 1
"""A port that nothing is asked of: replay needs the registry alone."""


def run(full: bool) -> Result:
    actions = list(LABELS) if full else ["click"]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the yardstick's process: there are two on two cores
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as beside:
        theirs = {action: beside.submit(yardstick, LABELS[action]) for action in actions}
        rows, test = replayed(declared_plan(), actions)
        ours = {action: judge(rows, test, action) for action in actions}
        yardsticks = {action: future.result() for action, future in theirs.items()}
    figures, reference = (
        {f"{action}_{name}": value for action in actions for name, value in of[action].items()}
        for of in (ours, yardsticks)
    )
    return Result(
        benchmark="quality_kuairand",
        ours=figures | {"test_rows": float(test.sum()), "columns": float(len(rows.columns))},
        yardstick=reference,
        ratio={name: figures[name] / value for name, value in reference.items()},
    )


def declared_plan() -> Plan:
    """The plan of our feature repository, from a registry that `feast apply` wrote."""
    with scratch() as folder, applied(folder, NO_REDIS) as apply:
        return FeatureRepo(apply()).open().read()


def replayed(plan: Plan, actions: Sequence[str]) -> tuple[TrainingRows, NDArray[np.bool_]]:
    """Rows of all requests by the code that serves, and which of them are the yardstick's test."""
    timeline = Timeline(plan, kuairand.events(KUAIRAND))
    maker = RowMaker(plan, SERVICE, timeline.tables, actions)
    made: list[tuple[str, str]] = []

    def make(request: Request) -> None:
        maker.add(request.now, request.user_id, request.surface, request.items, request.outcomes)
        made.extend((request.request_id, item) for item in request.items)

    timeline.run(make)
    rows = maker.rows()
    return rows, _matched(rows, made)


def judge(rows: TrainingRows, test: NDArray[np.bool_], action: str) -> dict[str, float]:
    """AUC and request GAUC on the test rows, of a model trained on the others."""
    late = rows.part(test)
    score = fit(rows.part(~test), action).predict(late.matrix)
    label = late.labels[action]
    return {"auc": auc(label, score), "request_gauc": request_gauc(label, score, late.request)}


def fit(rows: TrainingRows, action: str) -> lightgbm.Booster:
    """One binary head, as `headrace train` makes it."""
    return lightgbm.train(
        PARAMETERS | {"objective": "binary", "seed": 1, "num_threads": 1},
        lightgbm.Dataset(rows.matrix, rows.labels[action], feature_name=list(rows.columns)),
        num_boost_round=TREES,
    )


def _matched(rows: TrainingRows, made: Sequence[tuple[str, str]]) -> NDArray[np.bool_]:
    """Whether each of our rows is a test row, after checking that the rows are the yardstick's."""
    judged = judged_rows()
    frame = judged.rows
    request = [
        f"{user}-{tab}-{start}"
        for user, tab, start in zip(
            frame["user_id"].tolist(), frame["tab"].tolist(), judged.start_ms.tolist(), strict=True
        )
    ]
    theirs = np.argsort(np.array(request), kind="stable")
    ours = np.argsort(np.array([request_id for request_id, _ in made]), kind="stable")
    items = frame["video_id"].astype(str).tolist()
    assert [made[i] for i in ours] == [(request[i], items[i]) for i in theirs]
    for action, label in rows.labels.items():
        assert np.array_equal(label[ours], frame[LABELS[action]].to_numpy()[theirs]), action
    test = np.zeros(len(made), np.bool_)
    test[ours] = judged.test[theirs]
    assert len(np.unique(rows.request[test])) == len(np.unique(judged.request[judged.test]))
    return test
