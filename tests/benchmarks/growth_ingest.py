"""What an event costs as things grow: processor time of all processes together, by the event.

The base is one partition. It is asked with ten times the rate, with ten times the items, with ten
times the items and the users, with two partitions and with four. Every user and item has a row
before the clock starts; then impressions with clicks come at a steady rate. The cost is the
processor time of `route`, `aggregate`, broker and Valkey.

The yardstick is stock `FeatureStore.push` (its process and Valkey's) to ten times the rows.
"""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import psutil
import redis

from deploy.ports import HOST
from features.events import EngagementEvent, Event, ImpressionEvent, ShownItem
from tests.benchmarks.ground import START_MS, scratch
from tests.benchmarks.live import Servers, emptied, grounded, keyed, working
from tests.benchmarks.report import Result
from tests.benchmarks.stock_feast import StockWriter

MORE = 10
SECONDS = 2.0
FEWEST_EVENTS = 3_200
"""A slow load is measured for longer: over two seconds its cost moves by a tenth."""
PUSHED_ROWS = 2_000
VIEW = "user_activity"


@dataclass(frozen=True)
class Load:
    """What comes in."""

    users: int
    items: int
    per_s: int
    partitions: int = 1


BASE = Load(users=2_000, items=500, per_s=800)
FULL_BASE = Load(users=20_000, items=5_000, per_s=800)


def run(full: bool) -> Result:
    base = FULL_BASE if full else BASE
    loads = {
        "base": base,
        "rate": replace(base, per_s=MORE * base.per_s),
        "items": replace(base, items=MORE * base.items),
        "users": replace(base, items=MORE * base.items, users=MORE * base.users),
        "partitions_2": replace(base, partitions=2),
        "partitions_4": replace(base, partitions=4),
    }
    with scratch() as folder, grounded(folder) as ground:
        cost = {name: cost_us(ground, name, load) for name, load in loads.items()}
        again = cost_us(ground, "base_again", base)  # all are held against it: it counts twice
        cost["base"] = {child: (us + again[child]) / 2 for child, us in cost["base"].items()}
        pushed = pushed_us(ground, StockWriter(ground.repo, folder, ground.plan), base.users)
    base_us = cost.pop("base")
    factor = {name: _times(us, base_us) for name, us in cost.items()}
    apart = {name: _times(_apart(us), _apart(base_us)) for name, us in cost.items()}
    ours = {
        "worst_cost_factor": max(factor.values()),
        "worst_cost_factor_without_broker": max(apart.values()),
        **{f"cost_factor_{name}": times for name, times in factor.items()},
        **{f"cost_factor_{name}_without_broker": times for name, times in apart.items()},
        "us_per_event_base": sum(base_us.values()),
    }
    yardstick = {
        "us_per_row_base": pushed[0],
        "us_per_row_users": pushed[1],
        "worst_cost_factor": pushed[1] / pushed[0],
    }
    ratio = {"worst_cost_factor": yardstick["worst_cost_factor"] / ours["worst_cost_factor"]}
    return Result("growth_ingest", ours, yardstick, ratio)


def cost_us(ground: Servers, name: str, load: Load) -> dict[str, float]:
    """Processor microseconds per event of each process under a load.

    On empty Redis, new topics and new workers, so that all loads have the same past: what our trial
    broker takes for a fetch grows with the batches that its topic holds.
    """
    ground = emptied(ground, f"{ground.topic}.{name}", load.partitions)
    known, flow = list(_everyone(name, load)), list(_flow(name, load))
    with working(ground, together=True) as pipeline:
        ground.send(keyed(known))
        wanted = ground.updates(known)
        pipeline.wait(wanted)
        before = pipeline.cpu_s()
        ground.send_paced(keyed(flow), load.per_s)
        pipeline.wait(wanted + ground.updates(flow))
        used = pipeline.cpu_s()
        return {child: (used[child] - before[child]) / len(flow) * 1e6 for child in used}


def _times(cost: Mapping[str, float], base: Mapping[str, float]) -> float:
    return sum(cost.values()) / sum(base.values())


def _apart(cost: Mapping[str, float]) -> dict[str, float]:
    """The cost of our workers and Valkey; the trial broker is no part of production."""
    return {child: us for child, us in cost.items() if child != "broker"}


def pushed_us(ground: Servers, stock: StockWriter, users: int) -> tuple[float, float]:
    """Processor microseconds per row that stock Feast pushes, to some users and to ten times."""
    with redis.Redis(HOST, ground.redis_port) as client:
        server = psutil.Process(int(client.info("server")["process_id"]))
    row = stock.rows(VIEW, "user_id", ["u1"])  # every pushed row is like that of a known user
    found = []
    for count in (users, MORE * users):
        rng = random.Random(count)
        ids = [f"u{rng.randrange(count)}" for _ in range(PUSHED_ROWS)]
        frame = row.loc[[0] * PUSHED_ROWS].assign(user_id=ids)
        stock.push(VIEW, frame, 500)
        used = time.process_time() + sum(server.cpu_times()[:2])
        stock.push(VIEW, frame, 500)
        used = time.process_time() + sum(server.cpu_times()[:2]) - used
        found.append(used / PUSHED_ROWS * 1e6)
    return found[0], found[1]


def _everyone(name: str, load: Load) -> Iterator[Event]:
    """One event for each user, on all items in turn, and for each item."""
    for number in range(max(load.users, load.items)):
        yield _click(f"{name}-{number}", number, number % load.users, number % load.items)


def _flow(name: str, load: Load) -> Iterator[Event]:
    """Impressions of one item, each followed by a click in one case of three."""
    rng = random.Random(7)
    made, count = 0, max(int(load.per_s * SECONDS), FEWEST_EVENTS)
    while made < count:
        user, item = rng.randrange(load.users), rng.randrange(load.items)
        yield ImpressionEvent(
            event_id=f"{name}-shown-{made}",
            event_time=START_MS + 10_000_000 + made,
            request_id=f"r{made}",
            user_id=f"u{user}",
            surface="home",
            items=[ShownItem(item_id=f"i{item}", author_id=f"a{item % 97}", categories=["c"])],
        )
        made += 1
        if made < count and rng.random() < 1 / 3:
            yield _click(f"{name}-clicked-{made}", made, user, item)
            made += 1


def _click(event_id: str, number: int, user: int, item: int) -> Event:
    return EngagementEvent(
        event_id=event_id,
        event_time=START_MS + number % 10_000_000,
        user_id=f"u{user}",
        item_id=f"i{item}",
        action="click",
        author_id=f"a{item % 97}",
        categories=["c"],
        surface="home",
    )
