"""The pipeline that `ingest`, `freshness` and `growth_ingest` measure: real processes on loopback.

A broker, a Valkey with its append-only file, `route` and `aggregate`; what they have done is read
from their metrics, what it cost from the processor time of each process.
"""

import gc
import http.client
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import redis

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.probes import is_healthy
from deploy.processes import Child, Program, running, spawn, stop, wait_until_ready
from features.events import Event, dump_event, record_key
from features.plan import FeatureRepo
from features.project import Projection
from features.spec import Plan
from streaming.kafka import Broker, KafkaSink, open_sink
from streaming.records import Outgoing
from tests.benchmarks.ground import applied, valkey

TIMEOUT_S = 300.0
START_S = 30.0
BURST_S = 0.002
Keyed = tuple[bytes, bytes]


@dataclass(frozen=True)
class Servers:
    """A broker and a Valkey, an applied feature repository, and a sender; no workers yet."""

    folder: Path
    repo: Path
    plan: Plan
    redis_port: int
    broker: Child
    sink: KafkaSink
    topic: str
    partitions: int
    give_way: bool
    """Whether broker and workers do so for others, as those of `headrace up` do."""

    def send(self, records: Sequence[Keyed]) -> None:
        """Send all, and wait until all are acknowledged."""
        for key, value in records:
            self.sink.send(Outgoing(self.topic, key, value))
        self.sink.flush()

    def send_paced(
        self, records: Sequence[Keyed], per_s: float, topic: str | None = None
    ) -> list[float]:
        """Send records at a rate, a few every BURST_S; returns when each was handed over."""
        sent_at: list[float] = []
        # A collection that walks through all recorded events keeps the sender for a third of a
        # second, which would be taken for the pipeline's.
        gc.collect()
        gc.freeze()
        began = time.perf_counter()
        while len(sent_at) < len(records):
            due = min(len(records), 1 + int((time.perf_counter() - began) * per_s))
            for key, value in records[len(sent_at) : due]:
                sent_at.append(time.perf_counter())
                self.sink.send(Outgoing(topic or self.topic, key, value))
            time.sleep(BURST_S)
        self.sink.flush()
        gc.unfreeze()
        return sent_at

    def updates(self, part: Sequence[Event]) -> int:
        """How many updates these events make."""
        return len(Projection(self.plan).updates(enumerate(part)))


@dataclass(frozen=True)
class Live:
    """The workers over those servers."""

    servers: Servers
    children: Mapping[str, Child]

    def done(self) -> dict[str, float]:
        """What `aggregate` has done so far, by kind."""
        return totals(self.children["aggregate"].port)

    def routed(self) -> float:
        """How many events `route` has accepted so far."""
        return totals(self.children["route"].port).get("accepted", 0.0)

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds that each process has used so far."""
        return {name: _cpu_s(child.pid) for name, child in self.children.items()}

    def wait(self, updates: float) -> None:
        """Return once so many updates are folded in all."""
        until(lambda: self.done()["folded_updates"] >= updates)


@contextmanager
def grounded(folder: Path, partitions: int = 4, *, give_way: bool = False) -> Iterator[Servers]:
    """Servers with an applied copy of our feature repository and empty topics."""
    program = replace(servers.broker(free_port()), gives_way=give_way)
    with (
        valkey(folder) as redis_port,
        running(program, folder / "broker.log") as broker,
        applied(folder, redis_port) as apply,
    ):
        repo = apply()
        plan = FeatureRepo(repo).open().read()
        address = f"{HOST}:{broker.port}"
        Broker(address, {}).topics({plan.topic: partitions})
        sink = open_sink(address)
        try:
            started = folder, repo, plan, redis_port, broker, sink
            yield Servers(*started, plan.topic, partitions, give_way)
        finally:
            sink.close()


def emptied(ground: Servers, topic: str, partitions: int) -> Servers:
    """The same servers with no row in Redis, and a topic of events of its own."""
    with redis.Redis(HOST, ground.redis_port) as client:
        client.flushall()
    Broker(f"{HOST}:{ground.broker.port}", {}).topics({topic: partitions})
    return replace(ground, topic=topic, partitions=partitions)


@contextmanager
def working(ground: Servers, *, together: bool = False) -> Iterator[Live]:
    """`route` and `aggregate`, once both have joined their groups; begun `together` where nothing
    waits in the log, as to join takes seconds: else `aggregate` is there when `route` begins."""
    environment = {
        "HEADRACE_KAFKA": f"{HOST}:{ground.broker.port}",
        "HEADRACE_REDIS": f"redis://{HOST}:{ground.redis_port}/0",
        "HEADRACE_REPO": str(ground.repo),
        "HEADRACE_EVENTS_TOPIC": ground.topic,
        "HEADRACE_UPDATES_TOPIC": f"{ground.topic}.updates",
        "HEADRACE_EVENTS_PARTITIONS": str(ground.partitions),
        "HEADRACE_UPDATES_PARTITIONS": str(ground.partitions),
        **servers.BROKER_SETTINGS,
    }
    with redis.Redis(HOST, ground.redis_port) as client:
        process_id = int(client.info("server")["process_id"])
    valkey_ = Child("valkey", process_id, psutil.Process(process_id).create_time(), 0, "")
    begun: list[tuple[Program, Child]] = []
    try:
        for name in ("aggregate", "route"):
            program = _worker(name, environment, ground.give_way)
            begun.append((program, spawn(program, ground.folder / f"{name}.log")))
            if not together:
                wait_until_ready(begun, START_S)
        wait_until_ready(begun, START_S)
        children = (*(child for _, child in begun), ground.broker, valkey_)
        yield Live(ground, {child.name: child for child in children})
    finally:
        stop(child for _, child in begun)


def _worker(name: str, environment: Mapping[str, str], gives_way: bool) -> Program:
    """A worker that answers for its health on a port of its own."""
    command = [sys.executable, "-P", "-m", "deploy.cli", name]
    port = free_port()
    mine = {**environment, "HEADRACE_METRICS_PORT": str(port)}
    return Program(name, command, port, is_healthy, mine, gives_way)


def keyed(part: Sequence[Event]) -> list[Keyed]:
    """Events as they are sent."""
    return [(record_key(event), dump_event(event)) for event in part]


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
    """Look ten times a second until it is so: a look costs the worker it asks some milliseconds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {TIMEOUT_S} s"
        time.sleep(0.1)


def _cpu_s(process_id: int) -> float:
    times = psutil.Process(process_id).cpu_times()
    return float(times.user + times.system)
