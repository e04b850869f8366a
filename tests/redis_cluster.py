"""A Redis Cluster for tests: primaries and a replica of each, on loopback, from the wheel."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import Child, Program, spawn, stop, wait_until_ready
from tests.waiting import until

PRIMARIES = 3
READY_S = 60.0
NODE_TIMEOUT_MS = 1000


@dataclass
class Cluster:
    """Six servers: the first three began as primaries, the others as their replicas."""

    folder: Path
    programs: list[Program]
    alive: dict[int, Child] = field(default_factory=dict)
    """By port."""

    @property
    def url(self) -> str:
        """All nodes, so that any of them may be gone."""
        return f"redis://{','.join(f'{HOST}:{p.port}' for p in self.programs)}/0"

    def start(self, *ports: int) -> None:
        """Start servers, all of them unless ports are named, on the data they had."""
        wanted = [p for p in self.programs if not ports or p.port in ports]
        started = [(p, spawn(p, self.folder / f"{p.port}.log")) for p in wanted]
        self.alive |= {p.port: child for p, child in started}
        wait_until_ready(started, 30)

    def mend(self) -> None:
        """Start again what was killed, and wait for the cluster to be whole."""
        if gone := [p.port for p in self.programs if p.port not in self.alive]:
            self.start(*gone)
            self.wait_until_whole()

    def kill(self, port: int) -> None:
        """End a server as a power cut would."""
        child = self.alive.pop(port)
        os.killpg(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)

    def ask(self, port: int, *command: str) -> Any:
        """One command to one server."""
        with contextlib.closing(redis.Redis(HOST, port, decode_responses=True)) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def role(self, port: int) -> str:
        """What a living server says it is, and its replication offset's state: `slave online`."""
        with contextlib.closing(redis.Redis(HOST, port, decode_responses=True)) as client:
            known: dict[str, Any] = client.info("replication")  # type: ignore[assignment]
        return f"{known['role']} {known.get('master_link_status', 'up')}"

    def primaries(self) -> list[int]:
        """The ports of living primaries that hold slots."""
        nodes = self.ask(next(iter(self.alive)), "CLUSTER NODES")
        return [
            int(address.partition(":")[2])
            for address, node in nodes.items()
            if "master" in node["flags"] and "fail" not in node["flags"] and node["slots"]
        ]

    def replica_of(self, port: int) -> int:
        """The port of the replica of a primary."""
        nodes = self.ask(port, "CLUSTER NODES")
        own = nodes[f"{HOST}:{port}"]["node_id"]
        (found,) = [a for a, node in nodes.items() if node["master_id"] == own]
        return int(found.partition(":")[2])

    def client(self) -> RedisCluster:
        """A client of the whole Cluster."""
        nodes = [ClusterNode(HOST, port) for port in self.alive]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes)

    def keys(self) -> dict[int, list[bytes]]:
        """The keys on each living primary, by its port."""
        found = {}
        for port in self.primaries():
            with contextlib.closing(redis.Redis(HOST, port)) as client:
                found[port] = list(client.scan_iter(count=5000))
        return found

    def clear(self) -> None:
        """Empty every primary."""
        for port in self.primaries():
            self.ask(port, "FLUSHALL")

    def form(self) -> None:
        """Make the servers one cluster, each primary followed by a replica that is in step."""
        ports = [p.port for p in self.programs]
        leading, following = ports[:PRIMARIES], ports[PRIMARIES:]
        for number, port in enumerate(ports):
            self.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for port in ports[1:]:
            bus = self.ask(port, "CONFIG GET", "cluster-port")["cluster-port"]
            self.ask(ports[0], "CLUSTER", "MEET", HOST, str(port), bus)
        share = REDIS_CLUSTER_HASH_SLOTS // PRIMARIES + 1
        for number, port in enumerate(leading):
            last = min((number + 1) * share, REDIS_CLUSTER_HASH_SLOTS) - 1
            self.ask(port, "CLUSTER", "ADDSLOTSRANGE", str(number * share), str(last))
        for primary, replica in zip(leading, following, strict=True):
            name = self.ask(primary, "CLUSTER", "MYID")
            until(lambda r=replica, n=name: self._follows(r, n), READY_S, "for MEET", 0.05)  # type: ignore[misc]
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Return once all slots are served and every replica is in step with its primary."""
        until(self._is_whole, READY_S, "for the cluster to be whole", 0.05)

    def _is_whole(self) -> bool:
        roles = [self.role(port) for port in self.alive]
        states = [self.ask(port, "CLUSTER INFO")["cluster_state"] for port in self.alive]
        return (
            len(self.primaries()) == PRIMARIES
            and all(role in ("master up", "slave up") for role in roles)
            and set(states) == {"ok"}
        )

    def _follows(self, replica: int, primary: str) -> bool:
        """Whether a server took its primary; it must have met it first."""
        try:
            self.ask(replica, "CLUSTER", "REPLICATE", primary)
        except redis.ResponseError:
            return False
        return True


def client_of(url: str) -> "redis.Redis | RedisCluster":
    """A client of one server, or of the Cluster whose nodes a URL names."""
    nodes = urlsplit(url).netloc.split(",")
    if len(nodes) == 1:
        return redis.Redis.from_url(url)
    addresses = [node.partition(":") for node in nodes]
    return RedisCluster(startup_nodes=[ClusterNode(h, int(p)) for h, _, p in addresses])  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def redis_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is whole, and gone when the `with` ends."""
    made = Cluster(folder, [_node(folder) for _ in range(2 * PRIMARIES)])
    try:
        made.start()
        made.form()
        yield made
    finally:
        stop(made.alive.values())


def _node(folder: Path) -> Program:
    port = free_port()
    options = {
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(NODE_TIMEOUT_MS),
        "cluster-port": str(free_port()),
        "repl-diskless-sync-delay": "0",
        "repl-ping-replica-period": "1",
    }
    return servers.valkey(port, folder / str(port), options)
