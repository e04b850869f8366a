"""One run of the simulation; `tests.chaos.simulator` says what it is."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from features.errors import HeadraceError
from features.events import dump_event
from features.row_store import Checkpoint, MemoryRows
from features.spec import Plan
from streaming.aggregate import INCARNATIONS_MAX
from streaming.aggregate_worker import AggregateWorker
from streaming.metrics import Observer
from streaming.records import Outgoing, Record
from streaming.route import RouteSettings
from streaming.route_worker import RouteWorker
from streaming.store_link import Opened
from tests.chaos.actor import Actor
from tests.chaos.history import (
    APPEND_TIME,
    HORIZON,
    MAX_AHEAD_MS,
    NOISE,
    PLAN,
    history_of,
    recount,
)
from tests.chaos.simulated_kafka import Group, SimulatedSink, SimulatedSource, Topic
from tests.chaos.simulated_redis import SimulatedRedis, SimulatedRows
from tests.pipeline import unmarked

SOURCES: Final = 2
TARGETS: Final = 2
STEPS_MAX: Final = 20_000
ROWS_MAX: Final = 4
"""Cached rows; fewer than there are, so that they are dropped and read again."""
SETTINGS: Final = RouteSettings(
    events="events",
    updates="updates",
    dead_letters="dead-letters",
    targets=TARGETS,
    horizon=HORIZON,
    max_ahead_ms=MAX_AHEAD_MS,
)

ROUTE: Final = Observer("route")
AGGREGATE: Final = Observer("aggregate")


class FixedPlan:
    """A registry that never changes."""

    def read(self) -> Plan:
        """The plan."""
        return PLAN


@dataclass(frozen=True)
class Rules:
    """What the workers are made of; tests take one rule out."""

    route: type[RouteWorker] = RouteWorker
    aggregate: type[AggregateWorker] = AggregateWorker
    rows: Callable[[], MemoryRows] = MemoryRows
    seals_lie: bool = False


DEFAULT = Rules()


@dataclass
class Outcome:
    """How one run ended; no fault means that it was right."""

    seed: int
    fault: str | None = None
    steps: int = 0
    made: Counter[str] = field(default_factory=Counter)


class Simulation:
    """One run."""

    def __init__(self, seed: int, rules: Rules, trace: bool = False) -> None:
        self.seed, self.rules = seed, rules
        self.rng = random.Random(seed)
        self.now = 0.0
        self.calm = False
        self.made: Counter[str] = Counter()
        self._trace = trace
        self._rate = self.rng.choice((0.0, 0.005, 0.02, 0.05))
        """Chance that a call fails."""
        self._wildness = self.rng.choice((0.01, 0.03, 0.06))
        """Chance of a larger fault per step."""
        self._drowsiness = self.rng.choice((0.0, 0.02, 0.06))
        """Chance that a process falls asleep in the middle of a call."""
        self._histories = [history_of(self.rng, number) for number in range(SOURCES)]
        logs = [
            [
                Record(p, o, None, NOISE if e is None else dump_event(e), APPEND_TIME)
                for o, e in enumerate(h)
            ]
            for p, h in enumerate(self._histories)
        ]
        self.events, self.updates = Topic(logs, [0] * SOURCES), Topic.empty(TARGETS)
        self.letters: list[Outgoing] = []
        self.redis = SimulatedRedis(rules.rows, rules.seals_lie)
        self.groups = {"route": Group(self.events), "aggregate": Group(self.updates)}
        self.actors: dict[str, list[Actor]] = {"route": [], "aggregate": []}
        self.sinks: list[SimulatedSink] = []
        self._checkpoints: dict[int, tuple[int, Checkpoint | None]] = {}
        self._asleep: dict[Actor, int] = {}
        self._running: Actor | None = None
        self._born = 0
        self._steps = 0

    def run(self) -> Outcome:
        """Faults, then calm, then the verdict."""
        try:
            for kind in self.actors:
                for _ in range(self.rng.randint(1, 2)):
                    self._start(kind)
            fault = self._wild() or self._settle() or self._verdict()
        finally:
            for actor in self._all():
                actor.kill()
        return Outcome(self.seed, fault, self._steps, self.made)

    def _wild(self) -> str | None:
        length = self.rng.randint(80, 350)
        while self._steps < length:
            self._step()
            if self.rng.random() < self._wildness:
                self._mischief()
            fault = self._broken()
            if fault:
                return fault
        return None

    def _settle(self) -> str | None:
        """No more faults; everything there is arrives, and the stream comes to rest."""
        self._note("calm")
        self.calm = True
        self._rate = 0.0
        self._asleep.clear()
        for kind in self.groups:
            self._rebalance(kind)
        self.redis.end_isolation()
        self.events.shown = [len(log) for log in self.events.logs]
        while not self._at_rest():
            self._step()
            fault = self._broken()
            if fault:
                return fault
            if self._steps > STEPS_MAX:
                return "it does not come to rest"
        return None

    def _step(self) -> None:
        """One worker runs until it pauses, or the world moves on."""
        self._steps += 1
        self.now += self.rng.random() * 0.02
        rng = self.rng
        if not self.calm and rng.random() < 0.3:
            p = rng.randrange(SOURCES)
            self.events.shown[p] = min(
                self.events.shown[p] + rng.randint(1, 6), len(self._histories[p])
            )
        for kind, actors in self.actors.items():
            if not any(not a.ended and a not in self._asleep for a in actors):
                self._start(kind)
            elif rng.random() < 0.1:
                self._notice_deaths(kind)
        if not self.redis.is_quiet and rng.random() < 0.05 + 0.5 * self.calm:
            self.redis.arrive(rng)
        if self.sinks and rng.random() < 0.1:
            rng.choice(self.sinks).arrive()
        for actor in [a for a, until in self._asleep.items() if until <= self._steps]:
            del self._asleep[actor]
            self._note(f"{actor.name} wakes")
        awake = [a for a in self._all() if not a.ended and a not in self._asleep]
        self._running = rng.choice(awake)
        self._running.resume()
        self._running = None

    def _mischief(self) -> None:
        rng = self.rng
        kind = rng.choice(("route", "aggregate"))
        living = [a for a in self.actors[kind] if not a.ended]
        if not living:
            return
        what = rng.choice(("crash", "sleep", "rebalance", "join", "failover", "isolation ends"))
        self.made[what] += 1
        match what:
            case "crash":
                actor = rng.choice(living)
                self._note(f"{actor.name} dies")
                actor.kill()
                self._start(kind)
            case "sleep":
                self._sleep(rng.choice(living))
            case "rebalance":
                self._rebalance(kind)
            case "join" if len(living) < 4:
                self._start(kind)
            case "failover":
                self._note("failover")
                self.redis.fail_over(rng)
            case "isolation ends":
                self.redis.end_isolation()

    def _sleep(self, actor: Actor) -> None:
        """Others take its partitions; when it wakes it does not know."""
        self._asleep[actor] = self._steps + self.rng.randint(5, 300)
        self._note(f"{actor.name} sleeps")
        self._rebalance(actor.name.partition("-")[0])

    def _rebalance(self, kind: str) -> None:
        members = [a.name for a in self.actors[kind] if not a.ended and a not in self._asleep]
        self.groups[kind].rebalance(members, self.rng)
        self._note(f"{kind} partitions go to {self.groups[kind].owners}")

    def _notice_deaths(self, kind: str) -> None:
        """The partitions of one that ended go to others, or to a new one."""
        living = {a.name for a in self.actors[kind] if not a.ended}
        if not living.issuperset(self.groups[kind].owners.values()):
            if self.rng.random() < 0.5:
                self._start(kind)
            else:
                self._rebalance(kind)

    def _start(self, kind: str) -> None:
        self._born += 1
        build = self._route if kind == "route" else self._aggregate
        actor = Actor(f"{kind}-{self._born}", partial(self._live, build))
        self.actors[kind] = [a for a in self.actors[kind] if not a.ended or a.fault]
        self.actors[kind].append(actor)
        self._note(f"{actor.name} starts")
        self._rebalance(kind)

    def _live(self, build: Callable[[Actor], RouteWorker | AggregateWorker], actor: Actor) -> None:
        try:
            build(actor).run(lambda: False, 0)
        except HeadraceError as error:
            self._note(f"{actor.name} ends: {error}")

    def _route(self, actor: Actor) -> RouteWorker:
        sink = SimulatedSink(
            self.updates, self.letters, self.rng, partial(self._pause, actor), lambda: self._rate
        )
        self.sinks.append(sink)
        return self.rules.route(
            self._source(actor, "route"),
            sink,
            partial(self._connect, actor, "events"),
            FixedPlan(),
            SETTINGS,
            ROUTE,
            60_000,
            incarnation=actor.name,
            clock=lambda: self.now,
        )

    def _aggregate(self, actor: Actor) -> AggregateWorker:
        return self.rules.aggregate(
            self._source(actor, "aggregate"),
            partial(self._connect, actor, "updates"),
            PLAN,
            AGGREGATE,
            100,
            ROWS_MAX,
            clock=lambda: self.now,
        )

    def _source(self, actor: Actor, kind: str) -> SimulatedSource:
        pause = partial(self._pause, actor)
        return SimulatedSource(self.groups[kind], actor.name, self.rng, pause, lambda: self._rate)

    def _connect(self, actor: Actor, topic: str) -> Opened:
        pause = partial(self._pause, actor)
        store = SimulatedRows(self.redis, self.rng, pause, lambda: self._rate)
        return Opened(store, store.generation(topic, f"id of {topic}"))

    def _pause(self, actor: Actor, surely: bool = False) -> None:
        """A call: others may run before it, and the caller may die."""
        if surely or self.rng.random() < 0.3:
            if not surely and not self.calm and self.rng.random() < self._drowsiness:
                self.made["sleep"] += 1
                self._sleep(actor)
            actor.pause()

    def _all(self) -> Iterator[Actor]:
        for actors in self.actors.values():
            yield from actors

    def _at_rest(self) -> bool:
        ends = {p: len(log) for p, log in enumerate(self.events.logs)}
        if not self.redis.is_quiet or self.groups["route"].committed != ends:
            return False
        if not all(sink.arrived for sink in self.sinks):
            return False
        for partition, log in enumerate(self.updates.logs):
            _, saved = self.redis.checkpoint(partition)
            if log and (saved is None or saved.offset < len(log)):
                return False
        return True

    def _broken(self) -> str | None:
        """What must hold at every step."""
        for actor in self._all():
            if actor.fault is not None:
                return f"{actor.name}: {actor.fault!r}"
        for partition in range(TARGETS):
            epoch, saved = self.redis.checkpoint(partition)
            if saved is not None and not _bounded(saved):
                return f"the checkpoint of {partition} grows without bound"
            was_epoch, was = self._checkpoints.get(partition, (epoch, None))
            if epoch == was_epoch and was is not None and was.after(saved):
                return f"the checkpoint of {partition} went back"
            self._checkpoints[partition] = epoch, saved
        return None

    def _verdict(self) -> str | None:
        expected, dead = recount(self._histories)
        rows = unmarked(self.redis.rows())
        buried = set(map(_origin, self.letters))
        if buried != dead:
            return f"dead letters are {sorted(buried)}, not {sorted(dead)}"
        wrong = [k for k in {*rows, *expected} if rows.get(k) != expected.get(k)]
        if wrong:
            return f"{len(wrong)} of {len(expected)} rows differ from the recount: {min(wrong)!r}"
        return None

    def _note(self, what: str) -> None:
        if self._trace:
            print(f"{self._steps:5} {what}")


def _bounded(saved: Checkpoint) -> bool:
    most = max(map(len, saved.sequences.values()), default=0)
    return most <= INCARNATIONS_MAX and len(saved.high_water) <= SOURCES


def _origin(letter: Outgoing) -> tuple[int, int]:
    """Partition and offset of the record that a dead letter buries."""
    headers = dict(letter.headers)
    return int(headers["partition"]), int(headers["offset"])
