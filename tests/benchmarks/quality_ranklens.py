"""NDCG@10 on RankLens beside the yardstick's, on the same rankings: the last fifth of the clicked.

Ours: the adapter's events, with an embedding of each film's words (a fixed function of the film,
made before anything is shown), replayed through the tables that serve; the default declarations and
those of `ranklens_films.py`; one lambdarank head of three averaged boosters.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.events import Event, ItemEvent
from features.plan import FeatureRepo
from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.evaluation import ndcg
from ranker.training.resampling import interval
from ranker.training.rows import RowMaker, TrainingRows
from streaming.adapters import ranklens
from streaming.replay import Request, Timeline
from tests.benchmarks.ground import applied, scratch
from tests.benchmarks.report import Result
from tests.benchmarks.yardstick_ranklens import (
    DATA,
    TEST_SHARE,
    clicked_rankings,
    records,
    yardstick_scores,
)

DIMENSIONS = 32
SEEDS = (1, 11, 21)
NO_REDIS = 1
DECLARED = Path(__file__).parent / "ranklens_films.py"
FITTING = Fitting(
    trees=150,
    average=3,
    parameters={
        "num_leaves": 15,
        "learning_rate": 0.05,
        "feature_fraction": 0.4,
        "num_threads": 1,
    },
)


def run(full: bool) -> Result:
    rows = replayed()
    requests = np.unique(rows.request)
    first = requests[int(len(requests) * (1 - TEST_SHARE))]
    early, late = rows.part(rows.request < first), rows.part(rows.request >= first)
    label, request = late.labels["click"], late.request
    mine = [
        raw_scores(fit(early, "click", "lambdarank", replace(FITTING, seed=s)).text, late.matrix)
        for s in SEEDS
    ]
    theirs = [yardstick_scores(seed) for seed in SEEDS]
    ours, reference = ([ndcg(label, s, request, 10) for s in side] for side in (mine, theirs))
    each = _each(label, mine[0], request) - _each(label, theirs[0], request)
    span = interval(lambda drawn: float(drawn @ each / drawn.sum()), len(each))
    return Result(
        benchmark="quality_ranklens",
        ours={
            "ndcg10": float(np.mean(ours)),
            "ndcg10_spread": float(np.ptp(ours)),
            "ndcg10_lead": span.value,
            "ndcg10_lead_low": span.low,
            "ndcg10_lead_high": span.high,
            "test_rankings": float(len(each)),
            "columns": float(len(rows.columns)),
        },
        yardstick={"ndcg10": float(np.mean(reference)), "ndcg10_spread": float(np.ptp(reference))},
        ratio={"ndcg10": float(np.mean(ours) / np.mean(reference))},
    )


def replayed() -> TrainingRows:
    """Rows of the clicked rankings, asserted to be the yardstick's items and clicks in order."""
    with scratch() as folder, applied(folder, NO_REDIS, DECLARED) as apply:
        plan = FeatureRepo(apply()).open().read()
    timeline = Timeline(plan, embedded(ranklens.events(DATA.parent)))
    maker = RowMaker(plan, "films", timeline.tables, ["click"])
    wanted = {ranking.id: ranking for ranking in clicked_rankings()}
    made: list[str] = []

    def make(request: Request) -> None:
        ranking = wanted.get(request.request_id)
        if ranking is None:
            return
        assert request.items == ranking.items
        assert [int("click" in happened) for happened in request.outcomes] == ranking.clicked
        maker.add(request.now, request.user_id, request.surface, request.items, request.outcomes)
        made.append(request.request_id)

    timeline.run(make)
    assert made == list(wanted)
    return maker.rows()


def embedded(events: Iterator[Event]) -> Iterator[Event]:
    """The events, each film with an embedding of its words."""
    vectors = word_vectors()
    for event in events:
        if isinstance(event, ItemEvent):
            yield event.model_copy(update={"embedding": vectors[event.item_id].tolist()})
        else:
            yield event


def word_vectors() -> dict[str, NDArray[np.float64]]:
    """Latent semantic analysis of tags, actors, genres, director and description."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    _, films = records()
    texts = [
        " ".join(
            [
                *("_".join(word.split()) for kind in ("tags", "actors", "genres")
                  for word in film.get(kind, ())),
                "_".join(film.get("director", "").split()),
                film.get("description", ""),
            ]
        )
        for film in films.values()
    ]  # fmt: skip
    words = TfidfVectorizer(min_df=2, sublinear_tf=True, stop_words="english").fit_transform(texts)
    dense = TruncatedSVD(DIMENSIONS, random_state=1).fit_transform(words)
    return dict(zip(films, normalize(dense), strict=True))


def _each(
    label: NDArray[np.int8], score: NDArray[np.float64], request: NDArray[np.int64]
) -> NDArray[np.float64]:
    """NDCG@10 of each ranking."""
    begins = np.flatnonzero(np.concatenate([[True], np.diff(request) != 0]))
    spans = zip(begins, [*begins[1:], len(request)], strict=True)
    return np.array([ndcg(label[a:b], score[a:b], request[a:b], 10) for a, b in spans])
