"""Processes with a proxy on every link between them: what experiments are made on.

Kafka has a listener for each who speaks to it, whose advertised address is a proxy's. The tests
themselves speak to it and to Redis directly.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.probes import is_ready
from deploy.processes import Child, Program, spawn, stop, wait_until_ready
from tests.chaos.clock import Clock
from tests.chaos.ground import SETTINGS_OF_WORKERS, Ground
from tests.chaos.proxy import NONE, Proxy, Trouble
from tests.kafka_server import START_TIMEOUT_S, apache_kafka
from tests.waiting import until
from tests.workers import stream

OF_KAFKA = ("sender-kafka", "route-kafka", "aggregate-kafka", "ranker-kafka")
OF_REDIS = ("route-redis", "aggregate-redis", "ranker-redis")
OF_RANKERS = "caller-ranker"
LINKS = (*OF_KAFKA, *OF_REDIS, OF_RANKERS)
WORKERS = ("route-1", "route-2", "aggregate-1", "aggregate-2")
RANKERS = ("ranker-1", "ranker-2")
DISK_MB = 512


@dataclass
class Town(Ground):
    """Kafka, Valkey, four workers, two rankers, and the links between them."""

    links: dict[str, list[Proxy]] = field(default_factory=dict)
    rankers: dict[str, Program] = field(default_factory=dict)
    running: dict[str, Child] = field(default_factory=dict)
    """The rankers that run."""
    clocks: dict[str, Clock] = field(default_factory=dict)
    """By process: what it lives by."""
    disk: Path | None = None
    """Where Redis writes, if it is a file system of its own."""

    @property
    def address(self) -> str:
        """Both rankers, through their proxies, as gRPC takes them."""
        ports = ",".join(f"{HOST}:{proxy.port}" for proxy in self.links[OF_RANKERS])
        return f"ipv4:{ports}"

    def suffer(self, link: str, trouble: Trouble) -> None:
        """From now on a link is so."""
        for proxy in self.links[link]:
            proxy.suffer(trouble)

    def mend(self) -> None:
        """All links are well again, and all clocks right."""
        for link in self.links:
            self.suffer(link, NONE)
        for clock in self.clocks.values():
            clock.set(0)

    def restart(self, name: str, ahead_s: int = 0) -> None:
        """Stop a process as an orchestrator would, start it again, and wait until it is ready.

        Its clock is so many seconds ahead from then on.
        """
        running = self.running if name in self.rankers else self.stream.alive
        _gently(running.pop(name))
        self.clocks[name].set(ahead_s)
        if name in self.rankers:
            self.start_ranker(name)
        else:
            self.stream.start(name)

    def start_ranker(self, name: str) -> None:
        """Start a ranker, and wait until it may be asked."""
        program = self.rankers[name]
        child = self.running[name] = spawn(program, self.stream.logs / f"{name}.log")
        wait_until_ready([(program, child)], 180)

    def fallen(self) -> list[str]:
        """Who ended although nobody stopped it."""
        gone = [name for name, child in self.running.items() if child.process() is None]
        return [*super().fallen(), *gone]

    def child(self, name: str) -> Child | None:
        """The process of a name."""
        return self.running.get(name) or super().child(name)


def _gently(child: Child) -> None:
    os.killpg(child.pid, signal.SIGTERM)
    until(lambda: child.process() is None, 40, f"for {child.name} to end")
    _, status = os.waitpid(child.pid, 0)
    assert status == 0, f"{child.name} ended with {status}: {child.log_tail()}"


@contextlib.contextmanager
def town(folder: Path, repo: Path) -> Iterator[Town]:
    """All of it running, and gone at the end."""
    with contextlib.ExitStack() as undo:
        disk = undo.enter_context(_small_disk(folder / "valkey"))
        valkey = servers.valkey(free_port(), folder / "valkey" / "data")
        links: dict[str, list[Proxy]] = {}

        def link(name: str, upstream: int, port: int | None = None) -> int:
            proxy = Proxy(upstream, port)
            undo.callback(proxy.close)
            links.setdefault(name, []).append(proxy)
            return proxy.port

        kafka, kafka_ports = _kafka(folder / "kafka")
        at = {name: link(name, inner, outer) for name, (inner, outer) in kafka_ports.items()}
        at |= {name: link(name, valkey.port) for name in OF_REDIS}
        direct = f"redis://{HOST}:{valkey.port}/0"
        sender = f"{HOST}:{at['sender-kafka']}"
        made = stream(sender, direct, repo, folder / "logs", "chaos", SETTINGS_OF_WORKERS)
        workers = undo.enter_context(made)
        for role in ("route", "aggregate", "ranker"):
            workers.own[role] = {
                "HEADRACE_KAFKA": f"{HOST}:{at[f'{role}-kafka']}",
                "HEADRACE_REDIS": f"redis://{HOST}:{at[f'{role}-redis']}/0",
            }
        clocks = {name: Clock(folder / f"{name}.clock") for name in (*WORKERS, *RANKERS)}
        for name in WORKERS:
            workers.own[name] = clocks[name].environment()
        servers_ = {"broker": kafka, "redis": valkey}
        here = Town(workers, servers_, links=links, clocks=clocks, disk=disk)
        undo.callback(lambda: stop([*here.running.values(), *here.servers.values()]))
        for name in here.programs:
            here.start(name)
        waited = [(here.programs[name], child) for name, child in here.servers.items()]
        wait_until_ready(waited, START_TIMEOUT_S)
        workers.start(*WORKERS)
        for name in RANKERS:
            http, grpc = free_port(), free_port()
            link(OF_RANKERS, grpc)
            environment = workers.environment() | workers.own["ranker"]
            environment |= clocks[name].environment()
            environment |= {
                "HEADRACE_HTTP_PORT": str(http),
                "HEADRACE_GRPC_PORT": str(grpc),
                "HEADRACE_RANKINGS_TOPIC": "rankings-chaos",
            }
            command = [sys.executable, "-m", "deploy.cli", "ranker"]
            here.rankers[name] = Program(name, command, http, is_ready, environment)
            here.start_ranker(name)
        yield here


def _kafka(folder: Path) -> tuple[Program, dict[str, tuple[int, int]]]:
    """A broker, and for each link its own port and the one that it advertises."""
    plain = free_port()
    ports = {name: (free_port(), free_port()) for name in OF_KAFKA}
    names = {name: name.partition("-")[0].upper() for name in OF_KAFKA}
    listening = ",".join(f"{names[n]}://{HOST}:{inner}" for n, (inner, _) in ports.items())
    advertised = ",".join(f"{names[n]}://{HOST}:{outer}" for n, (_, outer) in ports.items())
    spoken = ",".join(f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", *names.values()))
    settings = {
        "listener.security.protocol.map": spoken,
        "listeners": f"PLAINTEXT://{HOST}:{plain},{listening},CONTROLLER://{HOST}:%controller%",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{plain},{advertised}",
    }
    return apache_kafka(plain, folder, settings), ports


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of some megabytes, which only root can make."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        yield None
        return
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is left on a disk, until the end."""
    filler = disk / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
            while True:
                out.write(bytes(1 << 16))
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextlib.contextmanager
def pressed(cores: int, memory_mb: int) -> Iterator[None]:
    """Others keep cores busy and take memory, until the end."""
    spin = "while True: pass"
    held = f"held = bytearray({memory_mb} << 20); held[::4096] = bytes(len(held[::4096]))"
    take = f"import time; {held}; time.sleep(999)"
    wanted = [spin] * cores + ([take] if memory_mb else [])
    others = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in wanted]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()
