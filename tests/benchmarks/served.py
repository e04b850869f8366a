"""A world of rows and a model, and ranker processes that serve it."""

import http.client
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import psutil
from prometheus_client.parser import text_string_to_metric_families

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.probes import is_ready
from deploy.processes import Child, Program, running
from features.plan import FeatureRepo
from features.spec import Plan
from tests.benchmarks.ground import applied, events, scratch, valkey
from tests.benchmarks.serving import Asked, fill, peopled, requests, train

START_TIMEOUT_S = 120
HEAD = "click"


@dataclass(frozen=True)
class World:
    """Folded events in Valkey, a broker, a model, and requests just after the last event."""

    folder: Path
    repo: Path
    plan: Plan
    redis: str
    kafka: str
    model: Path
    booster: lightgbm.Booster
    asked: list[Asked]


@dataclass(frozen=True)
class Served:
    """A ranker, of one process or several."""

    child: Child
    http_port: int
    grpc: str

    def metric(self, kind: str) -> float:
        """A gauge of the ranker's state."""
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("kind") == kind:
                    return sample.value
        raise KeyError(kind)

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return cpu_s(self.child)


@contextmanager
def world(limit: int) -> Iterator[World]:
    """The world after so many events."""
    with scratch() as folder, valkey(folder) as port, applied(folder, port) as apply:
        broker = servers.broker(free_port())
        with running(broker, folder / "broker.log") as kafka:
            recorded = peopled(events(limit))
            repo = apply()
            plan = FeatureRepo(repo).open().read()
            url = f"redis://{HOST}:{port}/0"
            fill(plan, recorded, url)
            trained = train(plan, recorded, [HEAD])
            model = trained.write(folder / "model", [HEAD])
            address = f"{HOST}:{kafka.port}"
            asked = requests(recorded)
            yield World(folder, repo, plan, url, address, model, trained.boosters[HEAD], asked)


@contextmanager
def ranker(
    of: World, processes: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """`headrace ranker` over the world, warm; its settings as the environment names them."""
    http_port, grpc_port = free_port(), free_port()
    environment: Mapping[str, str] = {
        "HEADRACE_KAFKA": of.kafka,
        "HEADRACE_REDIS": of.redis,
        "HEADRACE_REPO": str(of.repo),
        "HEADRACE_MODEL": str(of.model),
        "HEADRACE_HTTP_PORT": str(http_port),
        "HEADRACE_GRPC_PORT": str(grpc_port),
        "HEADRACE_RANKER_PROCESSES": str(processes),
        "HEADRACE_LOG_LEVEL": "WARNING",
        **(settings or {}),
    }
    command = [sys.executable, "-P", "-m", "deploy.cli", "ranker"]
    program = Program("ranker", command, http_port, is_ready, environment)
    with running(program, of.folder / "ranker.log", START_TIMEOUT_S) as child:
        yield Served(child, http_port, f"{HOST}:{grpc_port}")


def cpu_s(child: Child) -> float:
    """Processor seconds of a process and its children, so far."""
    process = psutil.Process(child.pid)
    taken = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        taken += times.user + times.system
    return taken
