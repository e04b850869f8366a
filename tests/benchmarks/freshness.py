"""Milliseconds from an event's sending until a reader of Redis sees it, at a steady rate.

Events of KuaiRand are sent at a rate; among them, evenly, go probes: engagements of users who are
new, whose rows another process waits for in Redis. It asks every millisecond or so, which is part
of what it measures, as is the sender's own queue.

The yardstick is what one would assemble: a consumer that pushes with stock `FeatureStore.push`
what each poll brought, a row an event, to a single view, with values made before. It is given
nothing to compute, and one row an event where ours are five.

FULL=1 walks up the rates until the pipeline can follow no more, and draws the curve.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import redis
from numpy.typing import NDArray

from deploy.ports import HOST
from features.codec import STRING_TYPE, entity_key
from features.events import EngagementEvent, ImpressionEvent, dump_event
from streaming.kafka import Broker
from tests.benchmarks.ground import events, scratch
from tests.benchmarks.ingest import distinct, measured_from
from tests.benchmarks.live import Keyed, Live, Servers, grounded, keyed, until, working
from tests.benchmarks.report import Result
from tests.benchmarks.stock_feast import StockWriter

RATE = 2_000
SECONDS, WARM_UP_S = 8, 2
RATES = (500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 14_000)
CURVE_S, CURVE_WARM_UP_S = 4, 1
EVERY = 20
"""One event in so many is a probe."""
WINDOW = 64
"""Rows that are asked for at a time: a few times those on their way, of which 100 a second come."""
GIVE_UP_S = 30.0
VIEW, PAUSE_S = "user_activity", 0.0005
CURVE = Path(".headrace") / "freshness.png"

Floats = NDArray[np.float64]


def run(full: bool) -> Result:
    recorded = distinct(events(None if full else (SECONDS + WARM_UP_S) * RATE + 20_000))
    curve: dict[int, dict[str, float]] = {}
    with scratch() as folder, grounded(folder) as ground:
        first = measured_from(recorded)
        ground.send(keyed(recorded[:first]))
        with working(ground) as pipeline:
            warmed = ground.updates(recorded[:first])
            until(lambda: pipeline.done()["folded_updates"] >= warmed)
            flow = iter(keyed(recorded[first:]))
            ours = _figures(visible_ms(pipeline, flow, RATE, WARM_UP_S, SECONDS))
            for rate in RATES if full else ():
                taken_ms = visible_ms(pipeline, flow, rate, CURVE_WARM_UP_S, CURVE_S)
                curve[rate] = _figures(taken_ms)
        known = next(e.user_id for e in recorded[first:] if isinstance(e, ImpressionEvent))
        stock = StockWriter(ground.repo, folder, ground.plan)
        yardstick = _figures(pushed_ms(ground, stock, stock.rows(VIEW, "user_id", [known])))
    ratio = {name: yardstick[name] / ours[name] for name in yardstick}
    for rate, found in curve.items():
        ours |= {f"{name}_at_{rate}": value for name, value in found.items()}
    if full:
        draw(curve, CURVE)
    return Result("freshness", ours, yardstick, ratio)


def _figures(taken_ms: Floats) -> dict[str, float]:
    return {
        "p50_ms": float(np.percentile(taken_ms, 50)),
        "p99_ms": float(np.percentile(taken_ms, 99)),
    }


def visible_ms(
    pipeline: Live, flow: Iterator[Keyed], per_s: int, warm_up_s: int, seconds: int
) -> Floats:
    """Milliseconds [probe] from sending to visibility, after a warm-up at the same rate."""
    ground = pipeline.servers
    run_id = f"probe-{per_s}-{seconds}"
    records = list(islice(flow, (warm_up_s + seconds) * per_s))
    places = range(warm_up_s * per_s, len(records), EVERY)
    for number, place in enumerate(places):
        records[place] = _probe(f"{run_id}-{number}")
    keys = [_row_key(ground, f"{run_id}-{number}") for number in range(len(places))]
    return _watched(ground, keys, lambda: ground.send_paced(records, per_s), list(places))


def pushed_ms(ground: Servers, stock: StockWriter, frame: pd.DataFrame) -> Floats:
    """The same of a loop of poll and push, on a topic of its own; every row is like `frame`."""
    topic = f"{ground.topic}.pushed"
    broker = Broker(f"{HOST}:{ground.broker.port}", {})
    broker.topics({topic: 1})
    count = RATE * SECONDS
    records = [_probe(f"pushed-{number}") for number in range(count)]
    places = list(range(0, count, EVERY))
    keys = [_row_key(ground, f"pushed-{place}", stock.PROJECT) for place in places]
    stopping = threading.Event()
    pushing = threading.Thread(target=_push, args=(broker, topic, stock, frame, stopping))
    pushing.start()
    try:
        return _watched(ground, keys, lambda: ground.send_paced(records, RATE, topic), places)
    finally:
        stopping.set()
        pushing.join()


def _push(
    broker: Broker, topic: str, stock: StockWriter, frame: pd.DataFrame, stopping: threading.Event
) -> None:
    """Poll, then push a row an event."""

    class FromStart:
        def gained(self, partitions: Sequence[int]) -> None:
            for partition in partitions:
                source.seek(partition, 0)

        def lost(self, partitions: Sequence[int]) -> None:
            """Nothing is kept of them."""

    source = broker.source(topic, f"{topic}.group")
    try:
        source.subscribe(FromStart())
        while not stopping.is_set():
            polled = source.poll(10)
            records = [record for part in polled.values() for record in part]
            users = [(record.key or b"").decode() for record in records]
            if users:
                rows = pd.concat([frame] * len(users), ignore_index=True)
                stock.push(VIEW, rows.assign(user_id=users), len(rows))
    finally:
        source.close()


def _watched(
    ground: Servers, keys: list[bytes], send: Callable[[], list[float]], places: Sequence[int]
) -> Floats:
    """Send while another process waits for rows to appear; milliseconds of each that was due."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    watcher = context.Process(target=watch, args=(ground.redis_port, keys, there))
    watcher.start()
    try:
        here.recv()  # it is connected
        sent_at = send()
        seen_at = np.array(here.recv())
    finally:
        watcher.join(timeout=GIVE_UP_S + 5)
        if watcher.is_alive():
            watcher.kill()
    taken_ms: Floats = (seen_at - np.array(sent_at)[places]) * 1000
    return taken_ms


def watch(port: int, keys: list[bytes], answer: Connection) -> None:
    """Say when each key was first seen in Redis, in seconds of the system's clock.

    A row that has not come by the end counts as seen then. The commands are made beforehand: what
    is watched shares two cores with who watches.
    """
    seen = np.zeros(len(keys))
    waiting = list(range(len(keys)))
    with redis.Redis(HOST, port) as client:
        connection = client.connection_pool.get_connection()
        commands = [b"".join(connection.pack_command("EXISTS", key)) for key in keys]
        answer.send("ready")
        last = time.perf_counter()
        while waiting and time.perf_counter() - last < GIVE_UP_S:
            asked = waiting[:WINDOW]
            connection.send_packed_command([b"".join(commands[place] for place in asked)])
            found = [connection.read_response() for _ in asked]
            now = time.perf_counter()
            for place, there in zip(asked, found, strict=True):
                if there:
                    seen[place], last = now, now
            if any(found):
                waiting = [place for place in waiting if seen[place] == 0.0]
            time.sleep(PAUSE_S)
        seen[waiting] = time.perf_counter()
    answer.send(seen.tolist())


def draw(figures: dict[int, dict[str, float]], path: Path) -> None:
    """The curve to saturation."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(exist_ok=True)
    plot, axes = plt.subplots(figsize=(7, 4))
    for name in ("p50_ms", "p99_ms"):
        axes.plot(list(figures), [found[name] for found in figures.values()], "o-", label=name)
    axes.set(xlabel="events per second", ylabel="sent to visible, ms", yscale="log")
    axes.axhline(100, color="grey", linestyle=":")
    axes.legend()
    plot.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(plot)
    print(f"the curve: {path}")


def _probe(user_id: str) -> Keyed:
    event = EngagementEvent(
        event_id=user_id,
        event_time=1_700_000_000_000,
        user_id=user_id,
        item_id="probed",
        action="click",
    )
    return user_id.encode(), dump_event(event)


def _row_key(ground: Servers, user_id: str, project: str = "") -> bytes:
    return entity_key("user_id", STRING_TYPE, user_id, project or ground.plan.project)
