"""The processes of one round: Apache Kafka, Valkey and workers, each killed and started by name."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy import servers
from deploy.feature_store import SETTINGS, applying, write_settings
from deploy.ports import HOST, free_port
from deploy.processes import Child, Program, spawn, stop, wait_until_ready
from tests.kafka_server import START_TIMEOUT_S, apache_kafka
from tests.workers import Stream, stream

KAFKA, VALKEY = "broker", "redis"
HORIZON_OFFSETS = 2_000
SETTINGS_OF_WORKERS = {
    "HEADRACE_DEDUP_HORIZON_OFFSETS": str(HORIZON_OFFSETS),
    "HEADRACE_CHECKPOINT_INTERVAL_MS": "300",
    "HEADRACE_DURABILITY": "aof",
    "PYTHONFAULTHANDLER": "1",
}


@dataclass
class Ground:
    """Servers and workers; a name is `broker`, `redis`, `route-1`, `aggregate-2` and so on."""

    stream: Stream
    programs: dict[str, Program]
    servers: dict[str, Child] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    """Workers that SIGSTOP holds now."""

    @classmethod
    @contextlib.contextmanager
    def made(cls, folder: Path, repo: Path, workers: Sequence[str]) -> Iterator["Ground"]:
        """All of them running, and gone when the `with` ends."""
        kafka = apache_kafka(free_port(), folder / "kafka")
        valkey = servers.valkey(free_port(), folder / "valkey")
        programs = {KAFKA: kafka, VALKEY: valkey}
        address, url = f"{HOST}:{kafka.port}", f"redis://{HOST}:{valkey.port}/0"
        with stream(address, url, repo, folder / "logs", "chaos", SETTINGS_OF_WORKERS) as workers_:
            made = cls(workers_, programs)
            try:
                for name in programs:
                    made.start(name)
                waited = [(programs[name], child) for name, child in made.servers.items()]
                wait_until_ready(waited, START_TIMEOUT_S)
                workers_.start(*workers)
                yield made
            finally:
                for name in list(made.stopped):
                    made.go_on(name)
                workers_.close()
                stop(made.servers.values())

    def child(self, name: str) -> Child | None:
        """The process of a name, unless it was killed."""
        return self.servers.get(name) or self.stream.alive.get(name)

    def start(self, name: str) -> None:
        """Start a server or a worker, and wait for nothing."""
        if name in self.programs:
            log = self.stream.logs / f"{name}.log"
            self.servers[name] = spawn(self.programs[name], log)
        else:
            self.stream.spawn(name)

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        if name in self.programs:
            child = self.servers.pop(name)
            os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        else:
            self.stream.kill(name)

    def hold(self, name: str) -> None:
        """Stop a worker in its tracks, wherever it is."""
        os.killpg(self.stream.alive[name].pid, signal.SIGSTOP)
        self.stopped.add(name)

    def go_on(self, name: str) -> None:
        """Let a stopped worker go on: by now it may be a zombie."""
        os.killpg(self.stream.alive[name].pid, signal.SIGCONT)
        self.stopped.discard(name)

    def fallen(self) -> list[str]:
        """Who ended although nobody killed it."""
        everyone = {**self.servers, **self.stream.alive}
        return [name for name, child in everyone.items() if child.process() is None]

    def dump(self) -> None:
        """Let every worker write its stacks into its log, which ends it."""
        for child in self.stream.alive.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)
                os.killpg(child.pid, signal.SIGABRT)


def applied(folder: Path) -> Path:
    """A copy of our feature repository that `feast apply` has been run on."""
    repo = folder / "repo"
    ours = Path(__file__).parents[2] / "feature_repo"
    shutil.copytree(ours, repo, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    write_settings(repo, repo / SETTINGS, free_port())
    with applying(repo, repo / SETTINGS, folder / "apply.log") as wait:
        wait()
    return repo
