"""What the ranker tells the world: Prometheus metrics with few, fixed labels."""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from features.version import VERSION
from ranker.request import RankResponse

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
SLOW_S: Final = 0.15
OUTCOMES: Final = ("ok", "refused", "unknown", "overloaded", "late", "gone", "failed")
"""Of a request: a feed, or why there is none."""


class Observer:
    """Counts and times of one ranker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "headrace_rank_requests",
            "Rank requests by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._answers = Counter(
            "headrace_rank_answers",
            "Feeds, by whether no stage was late or missing.",
            ("whole",),
            registry=self.registry,
        )
        self._took = Histogram(
            "headrace_rank_seconds",
            "Time in the pipeline.",
            buckets=SECONDS,
            registry=self.registry,
        )
        # Beside the histogram for collectors that know no buckets: over all rankers, more than one
        # slow feed of a hundred is a 99th percentile above the limit, and not an estimate of it.
        self._slow = Counter(
            "headrace_rank_slow",
            f"Feeds that took more than {SLOW_S} s in the pipeline.",
            registry=self.registry,
        )
        self._degraded = Counter(
            "headrace_rank_degraded",
            "Answers with a degraded stage.",
            ("stage",),
            registry=self.registry,
        )
        self._stages = StageTimes()
        self.registry.register(self._stages)
        self._over = Counter(
            "headrace_rank_over_budget",
            "Stages that took more than their budget, late or not.",
            ("stage",),
            registry=self.registry,
        )
        self._state = Gauge(
            "headrace_ranker_state",
            "Where the ranker stands, by kind.",
            ("kind",),
            registry=self.registry,
        )

        # From the start, at 0: what a series brings when it first appears is no increase to those
        # who look at increases, so a first failure would be lost.
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        for whole in ("yes", "no"):
            self._answers.labels(whole)

        build = Gauge(
            "headrace_build_info", "The version that runs.", ("version",), registry=self.registry
        )
        build.labels(VERSION).set(1)
        clock = Gauge(
            "headrace_clock_unix_seconds", "The time it is by our clock.", registry=self.registry
        )
        clock.set_function(time.time)

    def answered(self, response: RankResponse) -> None:
        """Note an answer."""
        self._requests.labels("ok").inc()
        self._answers.labels("no" if response.degraded else "yes").inc()
        self._took.observe(response.took_ms / 1000)
        if response.took_ms > 1000 * SLOW_S:
            self._slow.inc()
        for stage in response.degraded:
            self._degraded.labels(stage_of(stage)).inc()

    def staged(self, timings_ms: Mapping[str, float], over: Sequence[str]) -> None:
        """Note where a request's time went, and which stages overran their budgets; one thread
        does so, and none of it blocks."""
        self._stages.observe(timings_ms)
        for stage in over:
            self._over.labels(stage).inc()

    def declined(self, outcome: str) -> None:
        """Note a request that got no feed: it was wrong, or too many came, or it broke us."""
        self._requests.labels(outcome).inc()

    def set(self, kind: str, value: float) -> None:
        """Say where something stands."""
        self._state.labels(kind).set(value)

    def text(self) -> bytes:
        """All of it, as Prometheus scrapes it."""
        return generate_latest(self.registry)


@dataclass(slots=True)
class _Times:
    """Times of one stage: how many fell into each bucket, and their sum."""

    counts: list[int]
    sum_s: float = 0.0


class StageTimes(Collector):
    """A histogram by stage, of which a request fills some fifteen at once.

    A histogram of the library takes two locks and a look-up for each, a hundredth of a request.
    """

    name: Final = "headrace_rank_stage_seconds"
    bounds: Final = (*STAGE_SECONDS, inf)

    def __init__(self) -> None:
        self._stages: dict[str, _Times] = {}

    def observe(self, timings_ms: Mapping[str, float]) -> None:
        """Note the times of one request; one thread does so."""
        for stage, took_ms in list(timings_ms.items()):  # a late stage may add to it meanwhile
            times = self._stages.get(stage)
            if times is None:
                times = self._stages[stage] = _Times([0] * len(self.bounds))
            took_s = took_ms / 1000
            times.counts[bisect_left(self.bounds, took_s)] += 1
            times.sum_s += took_s

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All stages, as Prometheus scrapes them."""
        found = HistogramMetricFamily(
            self.name, "Time in a stage of the pipeline.", labels=("stage",)
        )
        names = [*map(repr, STAGE_SECONDS), "+Inf"]
        for stage, times in list(self._stages.items()):
            upto = zip(names, map(float, accumulate(times.counts)), strict=True)
            found.add_metric((stage,), list(upto), times.sum_s)
        yield found


def stage_of(degraded: str) -> str:
    """The stage that an entry of `degraded` names: `source:fresh`, `user_row`."""
    name, _, rest = degraded.partition(":")
    inner = rest.partition(":")[0]
    return f"{name}:{inner}" if inner and not inner.startswith(" ") else name
