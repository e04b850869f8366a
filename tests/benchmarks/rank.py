"""A request of 500 candidates, through our pipeline and through stock Feast, on rows of the same.

Ours: from the parsed request to the response object, as the ranker process does it (no HTTP): the
user's row from Valkey, every feature of `home_feed` for all candidates, the model, the page.
The yardstick: stock `get_online_features` of what those features are computed from, as typed
fields, 40 of them for each candidate, then `Booster.predict`; see `stock_feast.StockRanker` for
what it is spared. They take turns of thirty requests after ten that are not counted: a ranker under
load has its own code and rows at hand, which a second of the other one takes out of the caches, and
the threads of `Booster.predict` spin for a while.
"""

from collections import defaultdict

import numpy as np
import redis

from features.plan import FeatureRepo
from ranker.request import RankResponse
from tests.benchmarks.ground import SERVICE, applied, events, scratch, valkey
from tests.benchmarks.report import Result, percentiles
from tests.benchmarks.serving import (
    CANDIDATES,
    Asked,
    Rank,
    fill,
    in_turn,
    peopled,
    ranker,
    requests,
    train,
)
from tests.benchmarks.stock_feast import StockRanker, typed_project
from tests.benchmarks.timing import IN_A_ROW, SETTLING, paired_ms

EVENTS, FULL_EVENTS = 50_000, 200_000
RUNS, FULL_RUNS = 300, 1_000
HEADS = ("click", "long_view", "like")


def run(full: bool) -> Result:
    with scratch() as folder, valkey(folder) as port, applied(folder, port) as apply:
        recorded = peopled(events(FULL_EVENTS if full else EVENTS))
        repo = apply()
        plan = FeatureRepo(repo).open().read()
        url = f"redis://127.0.0.1:{port}/0"
        fill(plan, recorded, url)
        trained = train(plan, recorded, HEADS)
        one = trained.write(folder / "one", HEADS[:1])
        three = trained.write(folder / "three", HEADS)
        asked = requests(recorded)
        with ranker(url, repo, one) as rank, ranker(url, repo, three) as rank_three:
            matrix = served_matrix(rank, asked[0])
            with redis.Redis.from_url(url) as client:
                typed = typed_project(repo, folder, plan, client)
            stock = StockRanker(typed, plan, SERVICE, trained.boosters[HEADS[0]], matrix)
            assert stock.found(asked[0].ids) == CANDIDATES
            rank_next = in_turn(lambda one: rank.timed(one.request)[1], asked)
            taken_ms = paired_ms(
                {
                    "ours": rank_next,
                    "three_heads": in_turn(lambda one: rank_three.timed(one.request)[1], asked),
                    "feast": in_turn(
                        lambda one: stock.rank(one.request.user_id, one.request.surface, one.ids),
                        asked,
                    ),
                },
                runs=FULL_RUNS if full else RUNS,
                in_a_row=IN_A_ROW,
                settling=SETTLING,
            )
            stages = stages_ms(rank, asked)
    ours, yardstick = percentiles(taken_ms["ours"]), percentiles(taken_ms["feast"])
    three_heads = percentiles(taken_ms["three_heads"])
    return Result(
        benchmark="rank",
        ours=ours
        | {f"three_heads_{name}": ms for name, ms in three_heads.items()}
        | stages
        | {"columns": float(matrix.shape[1])},
        yardstick=yardstick
        | {"columns": float(len(stock.of_request) + len(stock.of_candidate))}
        | {"columns_per_candidate": float(len(stock.of_candidate))},
        ratio={
            "p50": yardstick["p50_ms"] / ours["p50_ms"],
            "p99": yardstick["p99_ms"] / ours["p99_ms"],
            "three_heads_p50": yardstick["p50_ms"] / three_heads["p50_ms"],
            "three_heads_p99": yardstick["p99_ms"] / three_heads["p99_ms"],
        },
    )


def served_matrix(rank: Rank, asked: Asked) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Every feature of as many rows as candidates, from an answer that names all that it may show:
    filters take some away."""
    everything = {"limit": CANDIDATES, "features": True}
    response = whole(rank(asked.request.model_copy(update=everything)))
    rows = [list((item.features or {}).values()) for item in response.items]
    assert len(rows) > 0.8 * CANDIDATES
    return np.resize(np.array(rows, np.float64), (CANDIDATES, len(rows[0])))


def stages_ms(rank: Rank, asked: list[Asked], runs: int = 100) -> dict[str, float]:
    """The median of each stage, as answers tell it."""
    found = defaultdict(list)
    for run in range(runs):
        request = asked[run % len(asked)].request
        response = whole(rank(request.model_copy(update={"explain_time": True})))
        for stage, taken in (response.timings_ms or {}).items():
            found[stage].append(taken)
    return {f"{stage}_ms": float(np.median(taken)) for stage, taken in found.items()}


def whole(response: RankResponse) -> RankResponse:
    """The answer, of which no stage may be missing."""
    assert not response.degraded, response.degraded
    assert response.freshness.user_updated_at is not None
    return response
