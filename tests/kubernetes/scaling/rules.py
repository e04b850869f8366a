"""The scaling rules of a rendered chart, and what a HorizontalPodAutoscaler makes of them.

The algorithm is Kubernetes's (autoscaling/v2): the largest wish of all metrics, a tolerance of a
tenth, the most cautious wish within each stabilisation window, then the policies' pace. KEDA makes
such an autoscaler of a ScaledObject.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.1


@dataclass(frozen=True)
class Metric:
    """A metric and its target: `AverageValue` is shared by the replicas, `Value` is not."""

    name: str
    kind: str
    target: float

    def wish(self, current: int, value: float) -> int:
        """How many replicas this metric asks for."""
        share = value / current if self.kind == "AverageValue" else value
        if current and abs(share / self.target - 1) <= TOLERANCE:
            return current
        whole = (
            value / self.target if self.kind == "AverageValue" else current * share / self.target
        )
        return math.ceil(whole)


@dataclass(frozen=True)
class Pace:
    """One direction: its stabilisation window, and (kind, value, period_s) of its policies."""

    window_s: float
    policies: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Rules:
    """All that decides how many replicas of one workload there are."""

    least: int
    most: int
    metrics: tuple[Metric, ...]
    up: Pace
    down: Pace
    fallback: tuple[float, int] | None = None
    """After so many seconds without metrics, so many replicas."""


@dataclass
class Autoscaler:
    """An autoscaler at work; `replicas` is what it last asked for."""

    rules: Rules
    replicas: int
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)
    _blind_since: float | None = None

    def look(self, now: float, values: Mapping[str, float] | None) -> int:
        """The replicas wanted now; `values` is None while metrics cannot be read."""
        rules, current = self.rules, self.replicas
        if values is None:
            self._blind_since = now if self._blind_since is None else self._blind_since
            if rules.fallback is None or now - self._blind_since < rules.fallback[0]:
                return current
            wish = rules.fallback[1]
        else:
            self._blind_since = None
            wish = max(metric.wish(current, values[metric.name]) for metric in rules.metrics)
        wish = min(max(wish, rules.least), rules.most)
        self._wishes.append((now, wish))
        keep = max(rules.up.window_s, rules.down.window_s)
        self._wishes = [entry for entry in self._wishes if now - entry[0] <= keep]
        ups = [w for at, w in self._wishes if now - at <= rules.up.window_s]
        downs = [w for at, w in self._wishes if now - at <= rules.down.window_s]
        wanted = current
        if min(ups) > current:
            wanted = min(*ups, self._bound(now, rules.up, +1))
        elif max(downs) < current:
            wanted = max(*downs, self._bound(now, rules.down, -1))
        if wanted != current:
            self._changes.append((now, wanted - current))
        self.replicas = wanted
        return wanted

    def _bound(self, now: float, pace: Pace, sign: int) -> int:
        """As far as the most generous policy lets the replicas go at once."""
        bounds = []
        for kind, value, period_s in pace.policies:
            lately = sum(d for at, d in self._changes if now - at < period_s and d * sign > 0)
            before = self.replicas - lately
            if kind == "Pods":
                bounds.append(before + sign * value)
            elif sign > 0:
                bounds.append(math.ceil(before * (1 + value / 100)))
            else:
                bounds.append(math.floor(before * (1 - value / 100)))
        return int(max(bounds) if sign > 0 else min(bounds))


def of_scaled_object(one: Mapping[str, Any]) -> Rules:
    """The rules of a KEDA ScaledObject on lag."""
    spec = one["spec"]
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    (trigger,) = spec["triggers"]
    metric = Metric("lag", trigger["metricType"], float(trigger["metadata"]["lagThreshold"]))
    failing_s = spec["fallback"]["failureThreshold"] * spec["pollingInterval"]
    return Rules(
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        (metric,),
        _pace(behaviour["scaleUp"]),
        _pace(behaviour["scaleDown"]),
        (failing_s, spec["fallback"]["replicas"]),
    )


def of_autoscaler(one: Mapping[str, Any]) -> Rules:
    """The rules of a HorizontalPodAutoscaler on external metrics."""
    spec = one["spec"]
    metrics = []
    for entry in spec["metrics"]:
        if entry["type"] == "Resource":
            used = float(entry["resource"]["target"]["averageUtilization"])
            metrics.append(Metric(entry["resource"]["name"], "Value", used))
            continue
        target = entry["external"]["target"]
        value = target.get("averageValue", target.get("value"))
        metrics.append(Metric(entry["external"]["metric"]["name"], target["type"], float(value)))
    behaviour = spec["behavior"]
    return Rules(
        spec["minReplicas"],
        spec["maxReplicas"],
        tuple(metrics),
        _pace(behaviour["scaleUp"]),
        _pace(behaviour["scaleDown"]),
    )


def _pace(of: Mapping[str, Any]) -> Pace:
    policies = tuple(
        (p["type"], float(p["value"]), float(p["periodSeconds"])) for p in of["policies"]
    )
    assert len(policies) == 1 or of["selectPolicy"] == "Max"
    return Pace(float(of["stabilizationWindowSeconds"]), policies)
