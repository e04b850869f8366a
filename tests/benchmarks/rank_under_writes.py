"""The time of a request while events stream into the same Redis, beside that while none do.

Events go at a steady rate, sent by a process of its own, through a broker, `route` and `aggregate`
into the Valkey that the ranker reads and follows. Stretches with and without them take turns, so
that the machine treats both alike; requests come at a steady rate too.

The yardstick is stock `get_online_features` and `Booster.predict` in stretches of the same kind.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection

import numpy as np
import redis
from numpy.typing import NDArray

from deploy.ports import HOST
from deploy.processes import give_way
from streaming.kafka import open_sink
from streaming.records import Outgoing
from tests.benchmarks.ground import SERVICE, events, scratch
from tests.benchmarks.ingest import distinct
from tests.benchmarks.live import BURST_S, Keyed, Live, grounded, keyed, working
from tests.benchmarks.report import Result, percentiles
from tests.benchmarks.serving import in_turn, peopled, ranker, requests, train
from tests.benchmarks.stock_feast import StockRanker, typed_project

EVENTS_PER_S = 2_000
REQUESTS_PER_S = 50
WARM_EVENTS = 30_000
ROUNDS, FULL_ROUNDS = 3, 10
STRETCH_S, FEAST_STRETCH_S, SETTLE_S = 4.0, 3.0, 1.0

Floats = NDArray[np.float64]


def run(full: bool) -> Result:
    rounds = FULL_ROUNDS if full else ROUNDS
    per_round = int(EVENTS_PER_S * (STRETCH_S + FEAST_STRETCH_S + 2 * SETTLE_S))
    recorded = peopled(distinct(events(WARM_EVENTS + rounds * per_round)))
    warm = len(recorded) - rounds * per_round
    with scratch() as folder, grounded(folder, give_way=True) as ground:
        ground.send(keyed(recorded[:warm]))
        trained = train(ground.plan, recorded[:warm], ["click"])
        model = trained.write(folder / "model", ["click"])
        asked = requests(recorded[:warm])
        url = f"redis://{HOST}:{ground.redis_port}/0"
        with working(ground) as pipeline:
            pipeline.wait(ground.updates(recorded[:warm]))
            with ranker(url, ground.repo, model) as rank:
                with redis.Redis.from_url(url) as client:
                    typed = typed_project(ground.repo, folder, ground.plan, client)
                stock = StockRanker(
                    typed,
                    ground.plan,
                    SERVICE,
                    trained.boosters["click"],
                    trained.rows.matrix[: len(asked[0].ids)],
                )
                degraded: list[bool] = []
                ours = in_turn(lambda one: degraded.append(bool(rank(one.request).degraded)), asked)
                feast = in_turn(
                    lambda one: stock.rank(one.request.user_id, one.request.surface, one.ids), asked
                )
                flow = iter(keyed(recorded[warm:]))
                taken: dict[str, list[Floats]] = {}
                rates = []
                for way in (ours, feast):
                    at_a_rate(way, STRETCH_S)  # warm
                for _ in range(rounds):
                    for name, way, stretch_s in (
                        ("ours", ours, STRETCH_S),
                        ("feast", feast, FEAST_STRETCH_S),
                    ):
                        time.sleep(SETTLE_S)
                        taken.setdefault(f"{name}_quiet", []).append(at_a_rate(way, stretch_s))
                        with streaming(pipeline, flow, stretch_s + SETTLE_S) as rate:
                            time.sleep(SETTLE_S)
                            taken.setdefault(name, []).append(at_a_rate(way, stretch_s))
                        rates.append(rate())
    figures = {name: percentiles(np.concatenate(parts)) for name, parts in taken.items()}
    sides = {
        name: figures[name]
        | {f"{figure}_quiet": ms for figure, ms in figures[f"{name}_quiet"].items()}
        | {"p99_factor": figures[name]["p99_ms"] / figures[f"{name}_quiet"]["p99_ms"]}
        for name in ("ours", "feast")
    }
    return Result(
        "rank_under_writes",
        sides["ours"]
        | {"events_per_s": float(np.median(rates)), "degraded": float(np.mean(degraded))},
        sides["feast"],
        {name: sides["feast"][name] / sides["ours"][name] for name in sides["ours"]},
    )


def at_a_rate(way: Callable[[], object], seconds: float) -> Floats:
    """Milliseconds of requests at a rate, or one after the other where they take longer."""
    taken_ms = []
    began = time.perf_counter()
    while (begin := time.perf_counter()) < began + seconds:
        way()
        taken_ms.append((time.perf_counter() - begin) * 1000)
        time.sleep(max(0.0, 1 / REQUESTS_PER_S - (time.perf_counter() - begin)))
    return np.array(taken_ms)


@contextmanager
def streaming(
    pipeline: Live, flow: Iterator[Keyed], seconds: float
) -> Iterator[Callable[[], float]]:
    """Events at their rate for so long, from another process; at the end all are folded.

    The call it gives tells the rate at which they went, once they have.
    """
    ground = pipeline.servers
    records = list(islice(flow, int(seconds * EVENTS_PER_S)))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    sender = context.Process(
        target=send, args=(f"{HOST}:{ground.broker.port}", ground.topic, records, there)
    )
    sender.start()
    rate = 0.0
    try:
        here.recv()  # it is connected
        here.send("go")
        yield lambda: rate
        rate = here.recv()
    finally:
        sender.join(timeout=30)
        if sender.is_alive():
            sender.kill()
    done = -1.0
    while (now := pipeline.done()["folded_updates"]) > done:  # until none are left
        done = now
        time.sleep(0.3)


def send(address: str, topic: str, records: Sequence[Keyed], answer: Connection) -> None:
    """Send records at the rate, a few every burst; answer with the rate that it was.

    Who sends events has a machine of their own: here they give way, as the workers do.
    """
    os.setsid()
    give_way(os.getpid())
    sink = open_sink(address)
    try:
        answer.send("ready")
        answer.recv()
        sent, began = 0, time.perf_counter()
        while sent < len(records):
            due = min(len(records), 1 + int((time.perf_counter() - began) * EVENTS_PER_S))
            for key, value in records[sent:due]:
                sink.send(Outgoing(topic, key, value))
            sent = due
            time.sleep(BURST_S)
        answer.send(sent / (time.perf_counter() - began))
        sink.flush()
    finally:
        sink.close()
