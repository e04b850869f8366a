"""Events per second through the whole pipeline, and through `FeatureStore.push`.

Ours: `route` and `aggregate` as processes, a broker, Valkey with its append-only file; the time
runs from the first record sent until the last update is folded and its row written. The sender
shares the machine. A warm-up before it lets the workers join, compile and fetch what they cache.

The yardstick pushes a sample of the final rows in batches of 1,000; who computes them is left out.
Its events per second are those rows over the rows that ours wrote per event, as if it too were
given one row for many updates of it; `row_per_update` is over the updates per event, which is what
it would have to push to be as fresh at every event.
"""

import http.client
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.probes import is_healthy
from deploy.processes import Program, running
from features.codec import entity_id
from features.events import Event, ItemEvent, UserEvent, dump_event, record_key
from features.plan import FeatureRepo
from features.project import Projection
from features.spec import Plan
from features.updates import Columns
from streaming.kafka import KafkaSink, open_sink
from streaming.records import Outgoing
from tests.benchmarks.ground import applied, events, scratch, valkey
from tests.benchmarks.report import Result
from tests.benchmarks.stock_feast import StockWriter

WARM_UP = 10_000
EVENTS = 60_000
BATCH_ROWS = 1_000
PUSHED_ROWS, FULL_PUSHED_ROWS = 5_000, 40_000
TIMEOUT_S = 300.0


def run(full: bool) -> Result:
    ratio: dict[str, float] = {}
    with (
        scratch() as folder,
        valkey(folder) as redis,
        broker(folder) as kafka,
        applied(folder, redis) as apply,
    ):
        recorded = distinct(events(None if full else WARM_UP + EVENTS))
        repo = apply()
        plan = FeatureRepo(repo).open().read()
        with workers(folder, repo, kafka, redis) as counted:
            ours = ingest(plan, recorded, kafka, counted)
        most = FULL_PUSHED_ROWS if full else PUSHED_ROWS
        yardstick = push(StockWriter(repo, folder), plan, recorded, most)
    for figure, rows_per_event in (
        ("events_per_s", ours["rows_per_event"]),
        ("events_per_s_row_per_update", ours["updates_per_event"]),
    ):
        yardstick[figure] = yardstick["rows_per_s"] / rows_per_event
        ratio[figure] = ours["events_per_s"] / yardstick[figure]
    return Result("ingest", ours, yardstick, ratio)


def ingest(
    plan: Plan, recorded: Sequence[Event], kafka: str, counted: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Send a warm-up (items, users, and the first of what was shown), the rest by the clock."""
    first = next(i for i, e in enumerate(recorded) if not isinstance(e, ItemEvent | UserEvent))
    cut = first + WARM_UP
    sink = open_sink(kafka)
    try:
        feed(sink, plan, recorded[:cut], counted)
        before = counted()
        took_s = feed(sink, plan, recorded[cut:], counted)
    finally:
        sink.close()
    after, sent = counted(), float(len(recorded) - cut)
    updates, rows = (after[kind] - before[kind] for kind in ("folded_updates", "rows_written"))
    return {
        "events_per_s": sent / took_s,
        "updates_per_s": updates / took_s,
        "rows_per_s": rows / took_s,
        "events": sent,
        "updates_per_event": updates / sent,
        "rows_per_event": rows / sent,
    }


def feed(
    sink: KafkaSink, plan: Plan, part: Sequence[Event], counted: Callable[[], dict[str, float]]
) -> float:
    """Seconds from the first record sent until every update of these events is in a row."""
    records = [(record_key(event), dump_event(event)) for event in part]
    wanted = counted()["folded_updates"] + len(Projection(plan).updates(enumerate(part)))
    began = time.perf_counter()
    send(sink, plan.topic, records)
    until(lambda: counted()["folded_updates"] >= wanted)
    took_s = time.perf_counter() - began
    assert counted()["folded_updates"] == wanted
    return took_s


def push(stock: StockWriter, plan: Plan, recorded: Sequence[Event], most: int) -> dict[str, float]:
    """Rows per second that stock Feast pushes, over a sample of all rows of all views."""
    columns = Columns.of(Projection(plan).updates(enumerate(recorded)))
    pairs = sorted(set(zip(columns.view.tolist(), columns.key.tolist(), strict=True)))
    chosen: dict[int, list[str]] = defaultdict(list)
    for number, key in random.Random(5).sample(pairs, min(most, len(pairs))):
        join_key = plan.views[number].entity.join_key
        found = entity_id(join_key, columns.keys[key], plan.project)
        assert found is not None
        chosen[number].append(found)
    took_s, rows = 0.0, 0
    for number, ids in chosen.items():
        view = plan.views[number]
        frame = stock.rows(view.name, view.entity.join_key, ids)
        stock.push(view.name, frame[:1], 1)  # its first call does more
        took_s += stock.push(view.name, frame, BATCH_ROWS)
        rows += len(frame)
        assert not stock.differs(view.name, view.entity.join_key, frame[:100])
    return {"rows_per_s": rows / took_s, "rows": float(rows)}


def distinct(recorded: Sequence[Event]) -> list[Event]:
    """Each event once: the pipeline drops repeats, which would not be fair to count."""
    return list({event.event_id: event for event in recorded}.values())


def send(sink: KafkaSink, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Send all, and wait until all are acknowledged."""
    for key, value in records:
        sink.send(Outgoing(topic, key, value))
    sink.flush()


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The address of a broker."""
    with running(servers.broker(free_port()), folder / "broker.log") as child:
        yield f"{HOST}:{child.port}"


@contextmanager
def workers(
    folder: Path, repo: Path, kafka: str, redis_port: int
) -> Iterator[Callable[[], dict[str, float]]]:
    """`route` and `aggregate` as processes; the call tells what `aggregate` has done."""
    programs = [
        Program(
            name,
            [sys.executable, "-P", "-m", "deploy.cli", name],
            port := free_port(),
            is_healthy,
            {
                "HEADRACE_KAFKA": kafka,
                "HEADRACE_REDIS": f"redis://{HOST}:{redis_port}/0",
                "HEADRACE_REPO": str(repo),
                "HEADRACE_METRICS_PORT": str(port),
            },
        )
        for name in ("route", "aggregate")
    ]
    with (
        running(programs[0], folder / "route.log", 120),
        running(programs[1], folder / "aggregate.log", 120) as aggregate,
    ):
        yield lambda: totals(aggregate.port)


def totals(port: int) -> dict[str, float]:
    """A worker's totals by kind, from its /metrics."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.findall(r'^headrace_events_total{kind="(\w+)",.*} (\S+)$', text, re.MULTILINE)
    return {"folded_updates": 0.0, "rows_written": 0.0} | {k: float(v) for k, v in found}


def until(reached: Callable[[], bool]) -> None:
    """Look every few milliseconds until it is so."""
    deadline = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {TIMEOUT_S} s"
        time.sleep(0.02)
