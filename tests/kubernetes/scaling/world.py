"""What is scaled: workers that drain a topic, rankers that answer, nodes that take time to come.

The figures are measured ones (`make bench`, two cores of x86-64): they carry over to other machines
as ratios, which is all that the rules see.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.kubernetes.scaling.rules import Autoscaler, Rules

STEP_S = 5
DAY_S = 86_400
LOOK_S = 15
EVENTS_PER_CORE = 24_000.0
"""Events a second that one core of `route` takes; `aggregate` likewise."""
EVENTS_PER_BLOCK = 500.0
RANK_S = 0.0075
RANK_CORES = 1.2
"""Cores that one ranker process can use: most of a request runs on one."""
QUEUE_S = 0.05
RUNNING_MAX = 4
REBALANCE_S = 5.0
START_S = {"route": 10.0, "aggregate": 10.0, "ranker": 15.0}
NODE_S = 90.0
SPARE_PODS = 3
"""Pods that fit beside those that run; more wait for a node."""
CORES = {"route": 1.0, "aggregate": 1.0, "ranker": 1.5}
DOLLARS_PER_CORE_HOUR = 0.0363
"""c7g, on demand: deploy/aws/prices.yaml."""


@dataclass
class Pods:
    """Replicas of one workload: those that work, and when the others will."""

    name: str
    ready: int
    coming: list[float] = field(default_factory=list)
    paused_until: float = 0.0

    def aim(self, now: float, wanted: int) -> None:
        """Follow what the autoscaler wants."""
        have = self.ready + len(self.coming)
        for number in range(have, wanted):
            wait_s = NODE_S if number - self.ready >= SPARE_PODS else 0.0
            self.coming.append(now + START_S[self.name] + wait_s)
        if wanted < have:
            self.coming = self.coming[: max(0, wanted - self.ready)]
            if wanted < self.ready:
                self.ready, self.paused_until = wanted, now + REBALANCE_S

    def step(self, now: float) -> None:
        """Let those work that are ready by now."""
        if any(at <= now for at in self.coming):
            self.ready += sum(at <= now for at in self.coming)
            self.coming = [at for at in self.coming if at > now]
            self.paused_until = now + REBALANCE_S

    def share_working(self, now: float) -> float:
        """How much of a step a consumer group is not rebalancing."""
        return min(1.0, max(0.0, (now + STEP_S - self.paused_until) / STEP_S))


@dataclass(frozen=True)
class Moment:
    """The state of everything after one step."""

    at_s: float
    replicas: dict[str, int]
    lag_s: dict[str, float]
    p99_ms: float
    refused: float
    """Requests a second that were turned away."""
    dollars_per_hour: float


@dataclass(frozen=True)
class Load:
    """What comes: per second, at a second of the day."""

    events: Callable[[float], float]
    requests: Callable[[float], float]
    stalled: Callable[[float], bool] = lambda _: False
    """Whether the brokers take and give nothing; what is sent meanwhile comes after it."""
    engagement: Callable[[float], float] = lambda _: 1.0
    """Events that people cause for each answer."""
    guard_share: float = 0.0


def ranking(requests: float, replicas: int) -> tuple[float, float, float]:
    """(99th percentile s, in flight, refused a second) of replicas that share requests evenly.

    A queue with one server of nearly constant work (M/D/1), whose wait is bounded by admission.
    """
    capacity = RANK_CORES / RANK_S * replicas
    service = RANK_S / RANK_CORES
    busy = min(requests / capacity, 0.999)
    wait = min(service * busy / (2 * (1 - busy)), QUEUE_S)
    p99 = service + min(4.6 * wait, QUEUE_S + wait)
    in_flight = min(busy + wait / service * busy, RUNNING_MAX + QUEUE_S / service)
    return p99, in_flight * replicas, max(0.0, requests - capacity)


def simulate(rules: dict[str, Rules], load: Load, until_s: float = DAY_S) -> list[Moment]:
    """A day, step by step."""
    scalers = {name: Autoscaler(rule, rule.least) for name, rule in rules.items()}
    pods = {name: Pods(name, rule.least) for name, rule in rules.items()}
    lag = {"route": 0.0, "aggregate": 0.0}
    moments: list[Moment] = []
    held = 0.0
    for step in range(int(until_s / STEP_S)):
        now = step * STEP_S
        for group in pods.values():
            group.step(now)
        held += load.events(now) * STEP_S
        routed = 0.0
        if not load.stalled(now):
            lag["route"] += held
            held = 0.0
            routed = _drain(lag, "route", pods["route"], now)
            lag["aggregate"] += routed
            _drain(lag, "aggregate", pods["aggregate"], now)
        p99, in_flight, refused = ranking(load.requests(now), max(1, pods["ranker"].ready))
        if now % LOOK_S == 0:
            blind = load.stalled(now)
            seen = {
                "route": None if blind else {"lag": lag["route"]},
                "aggregate": None if blind else {"lag": lag["aggregate"] / EVENTS_PER_BLOCK},
                "ranker": {
                    "cpu": _cpu_percent(load.requests(now), pods["ranker"].ready),
                    "headrace_ranker_in_flight": in_flight,
                    "headrace_ranker_p99_ms": 1000 * p99,
                    "headrace_ranker_replicas_to_keep": _kept(load, pods, now),
                },
            }
            for name, scaler in scalers.items():
                pods[name].aim(now, scaler.look(now, seen[name]))
        count = {name: group.ready + len(group.coming) for name, group in pods.items()}
        lag_s = {name: lag[name] / EVENTS_PER_CORE / max(1, pods[name].ready) for name in lag}
        if load.stalled(now):
            lag_s = {name: STEP_S + (moments[-1].lag_s[name] if moments else 0) for name in lag}
        cost = DOLLARS_PER_CORE_HOUR * sum(CORES[name] * count[name] for name in count)
        moments.append(Moment(now, count, lag_s, 1000 * p99, refused, cost))
    return moments


def _cpu_percent(requests: float, replicas: int) -> float:
    """Of what the pods request."""
    used = min(requests * RANK_S / max(1, replicas), RANK_CORES)
    return 100 * used / CORES["ranker"]


def _drain(lag: dict[str, float], name: str, pods: Pods, now: float) -> float:
    done = min(lag[name], EVENTS_PER_CORE * pods.ready * STEP_S * pods.share_working(now))
    lag[name] -= done
    return done


def _kept(load: Load, pods: dict[str, Pods], now: float) -> float:
    """The replicas there are while engagement is below its share of an hour before, else 0."""
    fell = load.engagement(now) < load.guard_share * load.engagement(now - 3600)
    return float(pods["ranker"].ready) if fell else 0.0


def without(rules: Rules, name: str) -> Rules:
    """The same rules but for one metric."""
    return replace(rules, metrics=tuple(m for m in rules.metrics if m.name != name))
