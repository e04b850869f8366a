"""`route` and `aggregate` as real processes, over a broker and a Redis that a test owns."""

import contextlib
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis
from kafka import KafkaConsumer
from kafka.structs import OffsetAndMetadata

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.probes import is_healthy
from deploy.processes import Child, Program, running, spawn, stop, wait_until_ready
from features.entities import Hash
from features.events import Event, dump_event, record_key
from streaming.dead_letters import DeadLetter, distinct, read_dead_letter
from streaming.kafka import Broker
from streaming.records import Outgoing
from tests.pipeline import unmarked
from tests.redis_cluster import client_of
from tests.waiting import until

PARTITIONS = 4
CAUGHT_UP_S = 60.0
_OURS = re.compile(rb"(\{\d+\})?headrace:")
"""What is no row: checkpoints, facts, indexes; in a Cluster behind a hash tag."""
Keyed = tuple[bytes | None, bytes]
"""Key and value of a record to send."""


@dataclass
class Stream:
    """One test's stream: its topics, its rows, and the workers between them."""

    broker: str
    redis: str
    repo: Path
    logs: Path
    unique: str
    settings: Mapping[str, str] = field(default_factory=dict)
    alive: dict[str, Child] = field(default_factory=dict)
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    """Settings of one worker, or of all of a role, beside those of the stream."""

    @property
    def events(self) -> str:
        """The topic of events."""
        return f"events-{self.unique}"

    @property
    def dead_letters(self) -> str:
        """The topic of dead letters."""
        return f"dead-letters-{self.unique}"

    def start(self, *names: str) -> None:
        """Start workers and wait until each has joined its group."""
        programs = [self._program(name) for name in names]
        started = [(p, spawn(p, self.logs / f"{p.name}.log")) for p in programs]
        self.alive |= {program.name: child for program, child in started}
        wait_until_ready(started, 180)

    def kill(self, name: str) -> None:
        """End a worker as a power cut would."""
        child = self.alive.pop(name)
        os.killpg(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)

    def spawn(self, name: str) -> None:
        """Start a worker, and wait for nothing."""
        self.alive[name] = spawn(self._program(name), self.logs / f"{name}.log")

    def rewind_route(self, project: str, offsets_back: int) -> None:
        """Take back the last commits of a dead route, as if it had died before making them."""
        consumer = KafkaConsumer(
            self.events,
            bootstrap_servers=self.broker,
            group_id=f"{project}.route",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=6000,
        )
        try:
            deadline = time.monotonic() + CAUGHT_UP_S
            while len(consumer.assignment()) < PARTITIONS:
                consumer.poll(timeout_ms=100)
                assert time.monotonic() < deadline, "the group did not take this member in"
            wanted = {
                tp: OffsetAndMetadata(max(0, (consumer.committed(tp) or 0) - offsets_back), "", -1)
                for tp in consumer.assignment()
            }
            consumer.commit(wanted)
        finally:
            consumer.close(autocommit=False)

    def is_alive(self, name: str) -> bool:
        """Whether the worker that was started last still runs."""
        return self.alive[name].process() is not None

    def close(self) -> None:
        """Stop what runs."""
        stop(self.alive.values())

    def send(self, events: Iterable[Event]) -> None:
        """Send events, and return once the broker has them."""
        self.send_values((record_key(event), dump_event(event)) for event in events)

    def send_values(self, records: Iterable[Keyed]) -> None:
        """Send records, good or bad, keyed as their senders would."""
        reached = Broker(self.broker, {})
        reached.topics({self.events: PARTITIONS})
        sink = reached.sink()
        try:
            for number, (key, value) in enumerate(records):
                sink.send(Outgoing(self.events, key, value))
                if number % 2000 == 1999:
                    sink.flush()
            sink.flush()
        finally:
            sink.close()

    def rows(self) -> dict[bytes, Hash]:
        """All rows as they stand in Redis, without their markers."""
        with client_of(self.redis) as client:
            keys = [k for k in client.scan_iter(count=5000) if not _OURS.match(k)]
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.hgetall(key)
            return unmarked(dict(zip(keys, pipe.execute(), strict=True)))

    def row_count(self) -> int:
        """How many rows there are, nearly."""
        with client_of(self.redis) as client:
            return sum(1 for _ in client.scan_iter(count=5000))  # a Cluster's DBSIZE is one node's

    def letters(self) -> list[DeadLetter]:
        """The dead letters so far, each once."""
        return list(
            distinct(map(read_dead_letter, Broker(self.broker, {}).scan(self.dead_letters)))
        )

    def wait_for(self, expected: Mapping[bytes, Hash]) -> None:
        """Return once Redis holds exactly these rows; say what differs when it never does."""
        deadline = time.monotonic() + CAUGHT_UP_S
        while (rows := self.rows()) != expected:
            if time.monotonic() > deadline:
                raise AssertionError(difference(rows, expected) + self.tails())
            time.sleep(0.1)

    def wait_until_folding(self, rows: int) -> None:
        """Return once there are some rows: the stream runs."""
        until(lambda: self.row_count() >= rows, CAUGHT_UP_S, f"for {rows} rows", pause_s=0.02)

    def wait_until_idle(self) -> None:
        """Return once nothing has been written for longer than a checkpoint takes to be due."""
        with redis.Redis.from_url(self.redis) as client:
            seen, since = -1, time.monotonic()
            deadline = since + CAUGHT_UP_S
            while time.monotonic() < since + 2.5:
                writes = int(client.info("commandstats").get("cmdstat_set", {}).get("calls", 0))
                if writes != seen:
                    seen, since = writes, time.monotonic()
                assert since < deadline, "the stream does not come to rest"
                time.sleep(0.05)

    def environment(self) -> dict[str, str]:
        """What points a `headrace` command at this stream."""
        return self._settings()

    def _program(self, name: str) -> Program:
        port = free_port()
        role = name.partition("-")[0]  # `route-2` is another `route`
        environment = self._settings() | self.own.get(role, {}) | self.own.get(name, {})
        environment["HEADRACE_METRICS_PORT"] = str(port)
        command = [sys.executable, "-m", "deploy.cli", role]
        return Program(name, command, port, is_healthy, environment)

    def _settings(self) -> dict[str, str]:
        return {
            "HEADRACE_KAFKA": self.broker,
            "HEADRACE_REDIS": self.redis,
            "HEADRACE_REPO": str(self.repo),
            "HEADRACE_EVENTS_TOPIC": self.events,
            "HEADRACE_UPDATES_TOPIC": f"updates-{self.unique}",
            "HEADRACE_DEAD_LETTERS_TOPIC": self.dead_letters,
            "HEADRACE_EVENTS_PARTITIONS": str(PARTITIONS),
            **self.settings,
        }

    def tails(self) -> str:
        return "".join(f"\n{name}:{child.log_tail()}" for name, child in self.alive.items())


@contextlib.contextmanager
def stream(
    broker: str,
    redis: str,
    repo: Path,
    logs: Path,
    unique: str,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Stream]:
    """A stream whose workers are gone when the `with` ends."""
    made = Stream(broker, redis, repo, logs, unique, settings or {})
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def stream_of_its_own(redis: str, repo: Path, folder: Path) -> Iterator[Stream]:
    """A stream over a broker that is for it alone, whose logs are in the folder too."""
    with running(servers.broker(free_port()), folder / "broker.log") as broker:
        address, unique = f"{HOST}:{broker.port}", uuid.uuid4().hex[:8]
        with stream(address, redis, repo, folder, unique) as made:
            yield made


def difference(rows: Mapping[bytes, Hash], expected: Mapping[bytes, Hash]) -> str:
    """How some rows differ from those that are expected, with an example of each kind."""
    missing = [key for key in expected if key not in rows]
    extra = [key for key in rows if key not in expected]
    other = [key for key in expected if key in rows and rows[key] != expected[key]]
    first = [
        (key, field, rows[key].get(field), expected[key].get(field))
        for key in other[:1]
        for field in sorted({*rows[key], *expected[key]})
        if rows[key].get(field) != expected[key].get(field)
    ]
    return (
        f"of {len(expected)} rows {len(missing)} are missing, {len(other)} differ, "
        f"{len(extra)} are too many; missing {missing[:2]}, too many {extra[:2]}, differing {first}"
    )
