"""A deterministic simulation of `route` and `aggregate` under every fault we can think of.

    python -m tests.chaos.simulator --seeds 20000 [--from S] [--workers 2]
    python -m tests.chaos.simulator --seed 123 --trace

The real workers run over a simulated broker, Redis and clock. A seed chooses the events (with
repeats and records that are none), who runs when, and what goes wrong: crashes at any call,
processes that sleep while others take their partitions (zombies), rebalances, sends and commits
that fail or arrive late or twice, calls to Redis that fail before or after they did their work or
do it much later, failovers that lose what was not sealed, old primaries that go on answering.
Then the faults stop, the stream comes to rest, and the rows must be those of a recount.
"""

import argparse
import logging
import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from features.entities import Hash
from features.errors import HeadraceError
from features.events import (
    EngagementEvent,
    Event,
    ImpressionEvent,
    ItemEvent,
    ShownItem,
    dump_event,
)
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
from tests.chaos.simulated_kafka import Group, SimulatedSink, SimulatedSource, Topic
from tests.chaos.simulated_redis import SimulatedRedis, SimulatedRows
from tests.pipeline import unmarked
from tests.plans import PLAN, World
from tests.stored import writes_of

SOURCES, TARGETS, HORIZON = 2, 2, 12
EVENTS = (5, 30)
"""Fewest and most records of one `events` partition."""
STEPS_MAX = 20_000
ROWS_MAX = 8
"""Cached rows; fewer than there are, so that they are dropped and read again."""
SETTINGS = RouteSettings(
    events="events",
    updates="updates",
    dead_letters="dead-letters",
    targets=TARGETS,
    horizon=HORIZON,
    max_ahead_ms=1000,
)
NOW = 10_000
"""Append time of every event, milliseconds."""


NOISE = b"no event"
History = list[Event | None]
"""The records of a partition in order; None is one that is no event."""
PART = 250
"""Seeds that one process takes at a time."""


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
    made: dict[str, int] = field(default_factory=dict)


class Simulation:
    """One run."""

    def __init__(self, seed: int, rules: Rules, trace: bool = False) -> None:
        self.seed, self.rules = seed, rules
        self.rng = random.Random(seed)
        self.now = 0.0
        self.calm = False
        self.made: dict[str, int] = {}
        self._trace = trace
        self._rate = self.rng.choice((0.0, 0.005, 0.02, 0.05))
        """Chance that a call fails."""
        self._wildness = self.rng.choice((0.005, 0.02, 0.05))
        """Chance of a larger fault per step."""
        self._histories = [_history(self.rng, number) for number in range(SOURCES)]
        logs = [
            [
                Record(p, o, None, NOISE if e is None else dump_event(e), NOW)
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
        length = self.rng.randint(100, 500)
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
        what = rng.choice(("crash", "sleep", "rebalance", "join", "failover", "isolation ends"))
        self.made[what] = self.made.get(what, 0) + 1
        match what:
            case "crash":
                actor = rng.choice(living)
                self._note(f"{actor.name} dies")
                actor.kill()
                self._start(kind)
            case "sleep":
                actor = rng.choice(living)
                self._asleep[actor] = self._steps + rng.randint(5, 300)
                self._note(f"{actor.name} sleeps")
                self._rebalance(kind)
            case "rebalance":
                self._rebalance(kind)
            case "join" if len(living) < 4:
                self._start(kind)
            case "failover":
                self._note("failover")
                self.redis.fail_over(rng)
            case "isolation ends":
                self.redis.end_isolation()

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
            Observer("route"),
            60_000,
            incarnation=actor.name,
            clock=lambda: self.now,
        )

    def _aggregate(self, actor: Actor) -> AggregateWorker:
        return self.rules.aggregate(
            self._source(actor, "aggregate"),
            partial(self._connect, actor, "updates"),
            PLAN,
            Observer("aggregate"),
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
            saved = self.redis.checkpoint(partition)
            if log and (saved is None or saved.offset < len(log)):
                return False
        return True

    def _broken(self) -> str | None:
        """What must hold at every step."""
        for actor in self._all():
            if actor.fault is not None:
                return f"{actor.name}: {actor.fault!r}"
        for partition in range(TARGETS):
            saved = self.redis.checkpoint(partition)
            if saved is not None and not _bounded(saved):
                return f"the checkpoint of {partition} grows without bound"
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


def recount(histories: list[History]) -> tuple[dict[bytes, Hash], set[tuple[int, int]]]:
    """The rows of the events that count, and the places of the records that do not.

    An event counts unless its id occurred within the last H offsets of its partition. Folded here
    without route, blocks or aggregate.
    """
    accepted: list[Event] = []
    dead: set[tuple[int, int]] = set()
    for partition, history in enumerate(histories):
        seen: dict[str, int] = {}
        for offset, event in enumerate(history):
            if event is None:
                dead.add((partition, offset))
                continue
            last = seen.get(event.event_id)
            seen[event.event_id] = offset
            if last is not None and offset - last <= HORIZON:
                continue
            if event.event_time > NOW + SETTINGS.max_ahead_ms:
                dead.add((partition, offset))
            else:
                accepted.append(event)
    store = MemoryRows()
    store.write(writes_of(World().fold(accepted), offset=1))
    return unmarked(store.rows), dead


def _history(rng: random.Random, partition: int) -> History:
    """What is sent to one partition: few ids, so that rows meet; repeats near and far."""
    history: History = []
    for number in range(rng.randint(*EVENTS)):
        kind = rng.random()
        if history and kind < 0.2:
            history.append(rng.choice(history))
        elif kind < 0.24:
            history.append(None)
        else:
            history.append(_event(rng, f"{partition}-{number}"))
    return history


def _event(rng: random.Random, event_id: str) -> Event:
    event_time = rng.choice((rng.randrange(200), rng.randrange(NOW), NOW + 999_999))
    if rng.random() < 0.8:
        event_time = min(event_time, NOW)
    item, author = f"i{rng.randrange(4)}", rng.choice((None, "1", "22"))
    kind = rng.random()
    if kind < 0.7:
        return EngagementEvent(
            event_id=event_id,
            event_time=event_time,
            user_id=f"u{rng.randrange(3)}",
            item_id=item,
            action=rng.choice(("click", "click", "like", "hide")),
            value=rng.choice((None, 7, 2**40)),
            author_id=author,
        )
    if kind < 0.85:
        shown = [ShownItem(item_id=f"i{rng.randrange(4)}", author_id=author) for _ in range(2)]
        return ImpressionEvent(
            event_id=event_id,
            event_time=event_time,
            request_id="r",
            user_id=f"u{rng.randrange(3)}",
            surface="home",
            items=shown,
        )
    return ItemEvent(
        event_id=event_id,
        event_time=event_time,
        item_id=item,
        author_id=author,
        attributes={"duration_ms": rng.random()},
    )


def simulate(seed: int, rules: Rules = DEFAULT, trace: bool = False) -> Outcome:
    """Run one seed."""
    return Simulation(seed, rules, trace).run()


def simulate_all(seeds: Iterable[int], rules: Rules = DEFAULT) -> list[Outcome]:
    """Run seeds; the workers' log, which is about the faults, is left out."""
    with quiet():
        return [simulate(seed, rules) for seed in seeds]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log of workers, who tell of every fault."""
    logger = logging.getLogger("headrace")
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.setLevel(level)


def how_to_repeat(outcome: Outcome) -> str:
    """The line that runs a seed again."""
    return f"python -m tests.chaos.simulator --seed {outcome.seed} --trace  # {outcome.fault}"


def fresh_seed() -> int:
    """Where to begin: as HEADRACE_CHAOS_SEED says, or drawn from the system."""
    given = os.environ.get("HEADRACE_CHAOS_SEED")
    return int(given) if given else random.SystemRandom().randrange(2**40)


def run_seeds(first: int, count: int, workers: int = 1) -> list[Outcome]:
    """Run consecutive seeds, in several processes if wanted."""
    if workers == 1:
        return simulate_all(range(first, first + count))
    parts = [range(at, min(at + PART, first + count)) for at in range(first, first + count, PART)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return [outcome for part in pool.map(simulate_all, parts) for outcome in part]


def main(arguments: Sequence[str]) -> int:
    """The command line; 1 when a seed was wrong."""
    parser = argparse.ArgumentParser("tests.chaos.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--from", dest="first", type=int, help="the first; default: a fresh one")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        if chosen.trace:
            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="      %(message)s")
        outcomes = [simulate(chosen.seed, trace=chosen.trace)]
    else:
        first = fresh_seed() if chosen.first is None else chosen.first
        print(f"{chosen.seeds} seeds from {first} (HEADRACE_CHAOS_SEED={first} repeats them)")
        outcomes = run_seeds(first, chosen.seeds, chosen.workers)
    wrong = [outcome for outcome in outcomes if outcome.fault]
    for outcome in wrong:
        print(how_to_repeat(outcome))
    made = sum((Counter(outcome.made) for outcome in outcomes), Counter())
    print(f"{len(outcomes)} runs, {len(wrong)} wrong; faults made: {dict(made)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
