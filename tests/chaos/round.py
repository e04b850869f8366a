"""One round of kills: at random moments, at a rate the machine bears, then the comparison."""

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from features.spec import Plan
from streaming.dead_letters import read_dead_letter
from streaming.kafka import Broker
from tests.chaos.ground import HORIZON_OFFSETS, KAFKA, VALKEY, Ground
from tests.chaos.recount import Recount, recount
from tests.chaos.traffic import Traffic, probes
from tests.workers import PARTITIONS, difference

MAX_AHEAD_MS = 300_000
VISIBLE_S = 180.0
"""The stream must move again by itself within this time, whatever was killed."""
FINAL_S = 180.0
ZOMBIE_S = (7.0, 11.0)
"""How long a worker is stopped: past its session of 6 s, so that it is fenced."""
PROBE_S = 0.05


@dataclass(frozen=True)
class Settings:
    """What a round is made of."""

    workers: tuple[str, ...] = ("route-1", "route-2", "aggregate-1", "aggregate-2")
    per_second: float = 300.0
    pause_s: tuple[float, float] = (0.0, 1.5)
    restart_s: tuple[float, float] = (0.0, 1.5)
    overlap: float = 0.2
    """Share of kills after which the next does not wait for the stream to move."""
    zombies: float = 0.12
    """Share of blows that stop a worker instead of killing something."""
    servers: float = 0.25
    """Share of kills that hit the broker or Redis."""


class Round:
    """The kills of one seed over one ground."""

    def __init__(self, ground: Ground, plan: Plan, seed: str, settings: Settings) -> None:
        self._ground, self._plan, self._settings = ground, plan, settings
        self._seed = seed
        self._rng = random.Random(seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.kills: Counter[str] = Counter()
        self.zombies: Counter[str] = Counter()
        self.without_service: list[tuple[str, float]] = []
        self.found = Recount()
        stream = ground.stream
        self._broker = Broker(stream.broker, {})
        self._traffic = Traffic(self._broker, stream.events, seed, settings.per_second)

    def close(self) -> None:
        """Send no more, once all that was handed over is acknowledged."""
        self._traffic.close()

    def run(self, kills: int, zombies_at_least: int = 0) -> None:
        """So many kills, then the comparison; raises AssertionError when anything is wrong."""
        try:
            self.move("start")
            while self.kills.total() < kills:
                self._wait(self._rng.uniform(*self._settings.pause_s))
                left = kills - self.kills.total()
                behind = self.zombies.total() < zombies_at_least and left <= 2
                self._blow(behind or self._rng.random() < self._settings.zombies)
            while self._due:
                self._wait(0.1)
            self.move("end")
        finally:
            self.close()
        self.compare()

    def account(self) -> dict[str, Any]:
        """What happened, as it goes into the progress file."""
        return {
            "kills": self.kills.total(),
            "zombies": self.zombies.total(),
            "victims": dict(self.kills + self.zombies),
            "records": self.found.accepted + self.found.repeated + len(self.found.dead),
            "accepted": self.found.accepted,
            "repeated": self.found.repeated,
            "dead": len(self.found.dead),
            "resent": self._traffic.resent,
            "rows": len(self.found.rows),
            "out": [(victim, round(s, 2)) for victim, s in self.without_service],
        }

    def _blow(self, zombie: bool) -> None:
        """Hit one process, and have what was hit come back in a while."""
        ground, rng = self._ground, self._rng
        if zombie:
            victim = self._worker()
            ground.hold(victim)
            self._later(rng.uniform(*ZOMBIE_S), lambda: ground.go_on(victim))
            self.zombies[f"zombie {_kind(victim)}"] += 1
            self._waited(f"zombie {_kind(victim)}")
            return
        hit_server = rng.random() < self._settings.servers
        victim = rng.choice((KAFKA, VALKEY)) if hit_server else self._worker()
        if ground.child(victim) is None:
            return  # it is down already
        ground.kill(victim)
        self._later(rng.uniform(*self._settings.restart_s), lambda: ground.start(victim))
        self.kills[_kind(victim)] += 1
        self._waited(_kind(victim))

    def _worker(self) -> str:
        """A worker that runs now."""
        ground = self._ground
        while True:
            running = [name for name in ground.stream.alive if name not in ground.stopped]
            if running:
                return self._rng.choice(sorted(running))
            self._wait(0.1)

    def _waited(self, victim: str) -> None:
        if self._rng.random() >= self._settings.overlap:
            self.without_service.append((victim, self.move(victim)))

    def move(self, why: str) -> float:
        """Seconds until events sent now, one for every partition, are visible in Redis."""
        self._number += 1
        wanted = probes(f"probe-{self._seed}-{self._number}", self._plan.project, PARTITIONS)
        self._traffic.probe(list(wanted.values()))
        began = time.monotonic()
        while not self._visible(list(wanted)):
            self._wait(PROBE_S)
            waited = time.monotonic() - began
            assert waited < VISIBLE_S, f"after {why} the stream stood for {waited:.0f} s"
        return time.monotonic() - began

    def _visible(self, keys: list[bytes]) -> bool:
        try:
            with redis.Redis.from_url(self._ground.stream.redis, socket_timeout=5) as client:
                return int(client.exists(*keys)) == len(keys)
        except redis.RedisError:
            return False

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._number, action))

    def _wait(self, seconds: float) -> None:
        """Let time pass, doing what is due meanwhile."""
        until = time.monotonic() + seconds
        while True:
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            fallen = self._ground.fallen()
            tails = "".join(
                f"\n{name}:{child.log_tail()}"
                for name in fallen
                if (child := self._ground.child(name))
            )
            assert not fallen, f"{fallen} ended although nobody killed them{tails}"
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.05))

    def compare(self) -> None:
        """The rows equal the recount of the log, the dead letters too, and nothing is missing."""
        stream = self._ground.stream
        log = list(self._broker.scan(stream.events))
        ends = self._broker.ends(stream.events)
        assert len(log) == sum(ends.values()), f"read {len(log)} records of {ends}"
        self.found = recount(log, self._plan, HORIZON_OFFSETS, MAX_AHEAD_MS)
        lost = self._traffic.acknowledged - self.found.ids
        assert not lost, f"{len(lost)} acknowledged events are not in the log: {sorted(lost)[:3]}"
        deadline = time.monotonic() + FINAL_S
        while (rows := stream.rows()) != self.found.rows:
            assert time.monotonic() < deadline, (
                f"seed {self._seed}: {difference(rows, self.found.rows)}"
            )
            self._wait(0.5)
        self._wait(1.0)
        late = stream.rows()
        assert late == self.found.rows, f"written later: {difference(late, self.found.rows)}"
        letters = self._broker.scan(stream.dead_letters)
        buried = {(letter.partition, letter.offset) for letter in map(read_dead_letter, letters)}
        assert buried == self.found.dead, f"dead letters differ: {buried ^ self.found.dead}"


def _kind(name: str) -> str:
    return name.partition("-")[0]
