"""The request of `rank`, over gRPC and over HTTP to a ranker process, and `feast serve` beside it.

Ours: `ranker.client` and a plain HTTP connection, each kept alive, each given a `RankRequest` and
giving back a `RankResponse`, while the ranker writes its serving log to a broker. The yardstick:
`feast_serve.ServedStock`, on such an HTTP connection. They take turns, see `rank`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import redis
from numpy.typing import NDArray

from ranker.client import NO_RETRIES, Client
from ranker.request import RankRequest, RankResponse
from tests.benchmarks.feast_serve import KeptAlive, ServedStock, feast_serve
from tests.benchmarks.ground import SERVICE
from tests.benchmarks.offered import offer, saturation
from tests.benchmarks.rank import EVENTS, FULL_EVENTS
from tests.benchmarks.report import Result, drawn, percentiles
from tests.benchmarks.served import World, cpu_s, ranker, world
from tests.benchmarks.serving import CANDIDATES, Asked, in_turn
from tests.benchmarks.stock_feast import StockRanker, typed_project
from tests.benchmarks.timing import paired_ms

RUNS, FULL_RUNS = 100, 400
CPU_REQUESTS, FEAST_CPU_REQUESTS = 300, 20
FACES = ("grpc", "http")
WARM_UP_S, SECONDS = 5.0, 10.0
LOADS = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


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
            scored = kept(connection, asked)
            like = StockRanker(typed, of.plan, SERVICE, of.booster, matrix)
            stock = ServedStock(feast.port, like, of.booster, matrix)
            assert stock.found(asked[0].ids) == CANDIDATES
            calls["feast"] = lambda one: stock.rank(
                one.request.user_id, one.request.surface, one.ids
            )
            turns = {name: in_turn(call, asked) for name, call in calls.items()}
            taken_ms = paired_ms(turns, runs=FULL_RUNS if full else RUNS, in_a_row=10, settling=3)
            feast_cpu_ms = cpu_ms(lambda: cpu_s(feast), turns["feast"], FEAST_CPU_REQUESTS)
            stock.close()
        ours_cpu_ms = {face: cpu_ms(served.cpu_s, turns[face], CPU_REQUESTS) for face in FACES}
        assert served.metric("serving_log_dropped") == 0
        assert served.metric("serving_log_sent") > CPU_REQUESTS
        connection.close()
        grpc.close()
        most = two_processes(of) if full else None
    found = result(taken_ms, ours_cpu_ms, feast_cpu_ms, scored)
    if most is not None:
        found.ours["saturation_per_s_2_processes"] = most
    return found


def two_processes(of: World) -> float:
    """Answers a second that two processes on one port give, and the latency below that, drawn."""
    with ranker(of, processes=2) as served:
        saturation(served.grpc, of.asked, WARM_UP_S)
        most = saturation(served.grpc, of.asked, SECONDS)
        outcomes = [offer(served.grpc, of.asked, load * most, SECONDS) for load in LOADS]
    with drawn("rank_rpc", 1) as (axes,):
        offered = [one.offered_per_s for one in outcomes]
        for part in (50, 99):
            taken_ms = [one.percentile_ms(part) for one in outcomes]
            axes.plot(offered, taken_ms, "o-", label=f"p{part}")
        axes.axvline(most, color="grey", linestyle=":", label="answers a second at most")
        axes.set(xlabel="requests a second, two processes", ylabel="ms", ylim=(0, None))
        axes.legend()
    return most


def by_http(connection: KeptAlive, request: RankRequest) -> RankResponse:
    """The feed for a request."""
    answer = connection.post("/v1/rank", request.model_dump_json().encode())
    return RankResponse.model_validate_json(answer)


def features(connection: KeptAlive, request: RankRequest) -> NDArray[np.float64]:
    """Every feature of the request's candidates; rows of those that were filtered are others'."""
    wanted = request.model_copy(update={"features": True, "limit": CANDIDATES})
    items = by_http(connection, wanted).items
    assert len(items) > CANDIDATES / 2
    rows = np.array([list((item.features or {}).values()) for item in items], dtype=np.float64)
    return np.resize(rows, (CANDIDATES, rows.shape[1]))


def kept(connection: KeptAlive, asked: Sequence[Asked]) -> float:
    """How many of a request's candidates pass the filters, on average."""
    wanted = [one.request.model_copy(update={"limit": CANDIDATES}) for one in asked]
    return float(np.mean([len(by_http(connection, one).items) for one in wanted]))


def cpu_ms(spent_s: Callable[[], float], call: Callable[[], object], count: int) -> float:
    """Milliseconds of processor time that each of so many calls in turn costs."""
    before = spent_s()
    for _ in range(count):
        call()
    return 1000 * (spent_s() - before) / count


def result(
    taken_ms: dict[str, NDArray[np.float64]],
    ours_cpu_ms: dict[str, float],
    feast_cpu_ms: float,
    scored: float,
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
        | {f"{face}_cpu_ms": x for face, x in ours_cpu_ms.items()}
        | {"candidates_scored": scored},
        yardstick={f"{face}_{name}": x for face in FACES for name, x in feast.items()}
        | {"cpu_ms_per_request": feast_cpu_ms, "candidates_scored": CANDIDATES},
        ratio={
            f"{face}_{name.removesuffix('_ms')}": x / ours[f"{face}_{name}"]
            for face in FACES
            for name, x in feast.items()
        }
        | {"cpu_ms_per_request": feast_cpu_ms / worst_cpu_ms},
    )
