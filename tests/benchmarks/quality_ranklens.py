"""Models on RankLens beside the yardstick's: NDCG@10 on the last fifth of the clicked rankings.

Ours: the adapter's events, replayed through the tables that serve, read as `films/films.py`
declares, and a lambdarank head of averaged boosters as `headrace train` fits it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.plan import FeatureRepo
from features.spec import Plan
from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.evaluation import ndcg
from ranker.training.rows import RowMaker, TrainingRows
from streaming.adapters import ranklens
from streaming.replay import Request, Timeline
from tests.benchmarks.ground import applied, scratch
from tests.benchmarks.report import Result
from tests.benchmarks.yardstick_ranklens import SHOWN, clicked, yardstick_scores
from tests.data import FOLDER

FILMS = Path(__file__).parent / "films"
NO_REDIS = 1
"""A port that nothing is asked of: replay needs the registry alone."""
SEEDS = (1, 11, 21)
TRAINED = 0.8
"""The share of the clicked rankings, the oldest, that is learnt from."""
FITTING = Fitting(
    trees=150,
    average=3,
    parameters={
        "num_leaves": 15,
        "learning_rate": 0.05,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "lambda_l2": 5.0,
        "lambdarank_truncation_level": 10,
        "num_threads": 1,
    },
)
"""Chosen on the first 80 % of the clicked rankings."""


def run(full: bool) -> Result:
    rows = replayed(declared_plan())
    rankings = len(rows) // SHOWN
    train = int(TRAINED * rankings)
    ours = _figures(rows, train, [scores(rows, train, seed) for seed in SEEDS])
    theirs = _figures(rows, train, [yardstick_scores(train, seed) for seed in SEEDS])
    return Result(
        benchmark="quality_ranklens",
        ours=ours | {"test_rankings": float(rankings - train), "columns": float(len(rows.columns))},
        yardstick=theirs,
        ratio={"ndcg10": ours["ndcg10"] / theirs["ndcg10"]},
    )


def declared_plan() -> Plan:
    """The plan of `films/`, from a registry that `feast apply` wrote."""
    with scratch() as folder, applied(folder, NO_REDIS, FILMS) as apply:
        return FeatureRepo(apply()).open().read()


def replayed(plan: Plan) -> TrainingRows:
    """Rows of the clicked rankings by the code that serves: the yardstick's, in its order."""
    timeline = Timeline(plan, ranklens.events(FOLDER / "ranklens"))
    maker = RowMaker(plan, "films", timeline.tables, ["click"])
    made: list[str] = []
    films: list[str] = []

    def make(request: Request) -> None:
        if any(request.outcomes):
            maker.add(
                request.now, request.user_id, request.surface, request.items, request.outcomes
            )
            made.append(request.request_id)
            films.extend(request.items)

    timeline.run(make)
    rows, theirs = maker.rows(), clicked()
    assert made == theirs.ids
    assert films == theirs.films
    assert np.array_equal(rows.labels["click"], theirs.label)
    return rows


def scores(rows: TrainingRows, train: int, seed: int) -> NDArray[np.float64]:
    """Raw scores of all rows by a model of the first `train` rankings."""
    early = rows.part(np.arange(len(rows)) < train * SHOWN)
    fitting = Fitting(FITTING.trees, seed, FITTING.average, parameters=FITTING.parameters)
    return raw_scores(fit(early, "click", "lambdarank", fitting).text, rows.matrix)


def _figures(rows: TrainingRows, train: int, found: list[NDArray[np.float64]]) -> dict[str, float]:
    """Mean of NDCG@10 over the seeds, on the rankings after the first `train`."""
    late = slice(train * SHOWN, None)
    label, request = rows.labels["click"][late], rows.request[late]
    each = [ndcg(label, score[late], request, 10) for score in found]
    return {
        "ndcg10": float(np.mean(each)),
        "ndcg10_spread": float(np.max(each) - np.min(each)),
    }
