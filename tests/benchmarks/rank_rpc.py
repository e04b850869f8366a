"""The request of `rank`, over gRPC and over HTTP to a ranker process, and `feast serve` beside it.

Ours: `ranker.client` and a plain HTTP connection, each kept alive, each given a `RankRequest` and
giving back a `RankResponse`, while the ranker writes its serving log to a broker. The yardstick:
`feast_serve.ServedStock`, on such an HTTP connection. One call between the yardstick and ours is
not counted: the threads of `Booster.predict` spin for a while after it.
"""

from collections.abc import Callable

import numpy as np
import redis
from numpy.typing import NDArray

from ranker.client import NO_RETRIES, Client
from ranker.request import RankRequest, RankResponse
from tests.benchmarks.feast_serve import KeptAlive, ServedStock, feast_serve
from tests.benchmarks.ground import SERVICE
from tests.benchmarks.rank import EVENTS, FULL_EVENTS
from tests.benchmarks.report import Result, percentiles
from tests.benchmarks.served import cpu_s, ranker, world
from tests.benchmarks.serving import CANDIDATES, Asked, in_turn
from tests.benchmarks.stock_feast import StockRanker, typed_project
from tests.benchmarks.timing import paired_ms

RUNS, FULL_RUNS = 100, 400
CPU_REQUESTS, FEAST_CPU_REQUESTS = 300, 20
FACES = ("grpc", "http")


def run(full: bool) -> Result:
    with world(FULL_EVENTS if full else EVENTS) as of, ranker(of) as served:
        asked = of.asked
        grpc = Client(served.grpc, timeout_s=10, retries=NO_RETRIES)
        connection = KeptAlive(served.http_port)
        calls: dict[str, Callable[[Asked], object]] = {
            "grpc": lambda one: grpc.rank(one.request),
            "http": lambda one: by_http(connection, one.request),
        }
        first = by_http(connection, asked[0].request)
        assert not first.degraded, first.degraded
        assert first.items == grpc.rank(asked[0].request).items
        with redis.Redis.from_url(of.redis) as client:
            typed = typed_project(of.repo, of.folder, of.plan, client)
        with feast_serve(of.repo, of.folder) as feast:
            matrix = features(connection, asked[0].request)
            like = StockRanker(typed, of.plan, SERVICE, of.booster, matrix)
            stock = ServedStock(feast.port, like, of.booster, matrix)
            assert stock.found(asked[0].ids) == CANDIDATES
            calls["feast"] = lambda one: stock.rank(
                one.request.user_id, one.request.surface, one.ids
            )
            turns = {name: in_turn(call, asked) for name, call in calls.items()}
            taken_ms = paired_ms(
                {"between": turns["grpc"], **turns}, runs=FULL_RUNS if full else RUNS
            )
            feast_cpu_ms = cpu_ms(lambda: cpu_s(feast), turns["feast"], FEAST_CPU_REQUESTS)
            stock.close()
        ours_cpu_ms = {face: cpu_ms(served.cpu_s, turns[face], CPU_REQUESTS) for face in FACES}
        assert served.metric("serving_log_dropped") == 0
        assert served.metric("serving_log_sent") > CPU_REQUESTS
        connection.close()
        grpc.close()
    return result(taken_ms, ours_cpu_ms, feast_cpu_ms)


def by_http(connection: KeptAlive, request: RankRequest) -> RankResponse:
    """The feed for a request."""
    answer = connection.post("/v1/rank", request.model_dump_json().encode())
    return RankResponse.model_validate_json(answer)


def features(connection: KeptAlive, request: RankRequest) -> NDArray[np.float64]:
    """Every feature of the request's candidates, as the ranker computes them."""
    wanted = request.model_copy(update={"features": True, "limit": CANDIDATES})
    items = by_http(connection, wanted).items
    assert len(items) == CANDIDATES
    rows = [list((item.features or {}).values()) for item in items]
    return np.array(rows, dtype=np.float64)


def cpu_ms(spent_s: Callable[[], float], call: Callable[[], object], count: int) -> float:
    """Milliseconds of processor time that each of so many calls in turn costs."""
    before = spent_s()
    for _ in range(count):
        call()
    return 1000 * (spent_s() - before) / count


def result(
    taken_ms: dict[str, NDArray[np.float64]], ours_cpu_ms: dict[str, float], feast_cpu_ms: float
) -> Result:
    """The figures; each face against the one yardstick."""
    ours = {
        f"{face}_{name}": x for face in FACES for name, x in percentiles(taken_ms[face]).items()
    }
    feast = percentiles(taken_ms["feast"])
    worst_cpu_ms = max(ours_cpu_ms.values())
    return Result(
        benchmark="rank_rpc",
        ours=ours
        | {"cpu_ms_per_request": worst_cpu_ms}
        | {f"{face}_cpu_ms": x for face, x in ours_cpu_ms.items()},
        yardstick={f"{face}_{name}": x for face in FACES for name, x in feast.items()}
        | {"cpu_ms_per_request": feast_cpu_ms},
        ratio={
            f"{face}_{name.removesuffix('_ms')}": x / ours[f"{face}_{name}"]
            for face in FACES
            for name, x in feast.items()
        }
        | {"cpu_ms_per_request": feast_cpu_ms / worst_cpu_ms},
    )
