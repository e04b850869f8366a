"""The chart's rules, and the days they are put through."""

import re
from dataclasses import replace
from functools import cache

from tests.helm import objects, one, rendered
from tests.kubernetes.conftest import PRODUCTION
from tests.kubernetes.scaling.day import shape
from tests.kubernetes.scaling.rules import Rules, of_autoscaler, of_scaled_object
from tests.kubernetes.scaling.world import Load

EVENTS_AT_PEAK = 20_000.0
REQUESTS_AT_PEAK = 800.0
NOON_S, MINUTE_S = 12 * 3600, 60


@cache
def chart_rules() -> tuple[dict[str, Rules], float]:
    """The rules of each workload as the chart renders them, and the share of the guard."""
    found = objects(rendered(PRODUCTION, "--set", "ranker.autoscaling.max=80"))
    rules = {
        name: of_scaled_object(one(found, "ScaledObject", f"feed-{name}"))
        for name in ("route", "aggregate")
    }
    rules["ranker"] = of_autoscaler(one(found, "HorizontalPodAutoscaler", "feed-ranker"))
    records = one(found, "PrometheusRule", "feed-scaling")["spec"]["groups"][0]["rules"]
    (keep,) = (r["expr"] for r in records if r["record"] == "headrace_ranker_replicas_to_keep")
    (share,) = re.findall(r"< ([0-9.]+) \*", keep)
    return rules, float(share)


def recorded_day() -> Load:
    """An ordinary day."""
    curve, (_, share) = shape(), chart_rules()
    return Load(
        events=lambda at: EVENTS_AT_PEAK * curve(at),
        requests=lambda at: REQUESTS_AT_PEAK * curve(at),
        guard_share=share,
    )


def spike(times: float = 10.0, minutes: float = 30) -> Load:
    """Many times as much at noon, from one minute to the next."""
    day = recorded_day()

    def factor(at: float) -> float:
        return times if NOON_S <= at < NOON_S + minutes * MINUTE_S else 1.0

    return replace(
        day,
        events=lambda at: day.events(at) * factor(at),
        requests=lambda at: day.requests(at) * factor(at),
    )


def broker_stall(minutes: float = 10) -> Load:
    """Brokers that do not answer for a while at noon, and then have everything at once."""
    return replace(recorded_day(), stalled=lambda at: NOON_S <= at < NOON_S + minutes * MINUTE_S)


def worse_feed() -> Load:
    """From noon on people do less with what they see, and most of them leave for two hours."""
    day = recorded_day()

    def left(at: float) -> float:
        return 0.4 if NOON_S <= at < NOON_S + 7200 else 1.0

    return replace(
        day,
        requests=lambda at: day.requests(at) * left(at),
        engagement=lambda at: 0.7 if NOON_S <= at < NOON_S + 7200 else 1.0,
    )
