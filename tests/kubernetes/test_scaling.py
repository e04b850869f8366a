"""The chart's scaling rules, put through a recorded day and through what days may bring."""

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.kubernetes.scaling.rules import Autoscaler, Metric, Pace, Rules
from tests.kubernetes.scaling.scenarios import (
    NOON_S,
    broker_stall,
    chart_rules,
    recorded_day,
    spike,
    worse_feed,
)
from tests.kubernetes.scaling.world import DOLLARS_PER_CORE_HOUR, Moment, simulate, without

NOW = Pace(0.0, (("Pods", 100.0, 15.0),))


def between(moments: list[Moment], from_s: float, to_s: float) -> list[Moment]:
    return [m for m in moments if from_s <= m.at_s < to_s]


def changes(moments: list[Moment], name: str) -> int:
    counts = [m.replicas[name] for m in moments]
    return sum(a != b for a, b in pairwise(counts))


def test_an_ordinary_day_is_served_in_time_and_costs_less_than_its_peak() -> None:
    rules, _ = chart_rules()
    moments = simulate(rules, recorded_day())
    settled = between(moments, 1800, 86_400)
    assert max(max(m.lag_s.values()) for m in settled) < 10
    assert max(m.p99_ms for m in settled) < 100
    assert sum(m.refused for m in settled) == 0
    peak = max(m.dollars_per_hour for m in settled)
    assert sum(m.dollars_per_hour for m in settled) / len(settled) < 0.95 * peak
    assert changes(settled, "ranker") < 30
    assert changes(settled, "route") < 10  # each is a rebalance


def test_ten_times_as_much_is_taken_up_within_minutes() -> None:
    rules, _ = chart_rules()
    moments = simulate(rules, spike())
    later = between(moments, NOON_S + 360, NOON_S + 1800)
    assert max(m.p99_ms for m in later) < 100
    assert sum(m.refused for m in later) == 0
    assert max(m.lag_s["route"] for m in later) < 60
    caught_up = between(moments, NOON_S + 900, NOON_S + 1800)
    assert max(max(m.lag_s.values()) for m in caught_up) < 15
    calm = between(moments, NOON_S + 3 * 3600, NOON_S + 3 * 3600 + 60)
    assert calm[0].replicas["ranker"] < 12  # and it is given back


def test_without_rules_the_same_spike_is_not_survived() -> None:
    """What the test above says is the rules' doing, not the world's."""
    rules, _ = chart_rules()
    fixed = {name: replace(rule, most=rule.least) for name, rule in rules.items()}
    later = between(simulate(fixed, spike()), NOON_S + 360, NOON_S + 1800)
    assert min(m.refused for m in later) > 100
    assert max(m.lag_s["route"] for m in later) > 300


def test_a_broker_stall_is_caught_up_with_and_moves_no_group_back_and_forth() -> None:
    rules, _ = chart_rules()
    moments = simulate(rules, broker_stall())
    after = between(moments, NOON_S + 600, NOON_S + 1200)
    assert after[0].replicas["route"] == rules["route"].most  # lag was unreadable: at the worst
    caught_up = between(moments, NOON_S + 600 + 240, NOON_S + 7200)
    assert max(max(m.lag_s.values()) for m in caught_up) < 5
    counts = [m.replicas["route"] for m in caught_up]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < rules["route"].most


def test_nothing_is_scaled_down_while_people_turn_away() -> None:
    rules, _ = chart_rules()
    before, during = NOON_S - 60, NOON_S + 3000
    guarded = simulate(rules, worse_feed())
    unguarded = simulate(
        {**rules, "ranker": without(rules["ranker"], "headrace_ranker_replicas_to_keep")},
        worse_feed(),
    )
    had = between(guarded, before, before + 60)[-1].replicas["ranker"]
    assert had > rules["ranker"].least
    kept = between(guarded, NOON_S, during)
    assert min(m.replicas["ranker"] for m in kept) >= had
    assert min(m.replicas["ranker"] for m in between(unguarded, NOON_S, during)) < had


def test_the_cost_is_that_of_the_day_s_prices() -> None:
    from deploy.aws.cost import read_prices

    assert read_prices().core_hour("c7g.large") == pytest.approx(DOLLARS_PER_CORE_HOUR, rel=0.01)


@pytest.mark.parametrize(
    ("current", "value", "wanted"),
    [(4, 8.0, 4), (4, 8.7, 4), (4, 9.0, 5), (4, 20.0, 10), (4, 4.0, 2), (4, 0.0, 1)],
)
def test_an_average_is_shared_out(current: int, value: float, wanted: int) -> None:
    metric = Metric("m", "AverageValue", 2.0)
    scaler = Autoscaler(Rules(1, 100, (metric,), NOW, NOW), current)
    assert scaler.look(0.0, {"m": value}) == wanted


def test_a_value_is_a_ratio() -> None:
    rules = Rules(1, 100, (Metric("m", "Value", 50.0),), NOW, NOW)
    assert Autoscaler(rules, 4).look(0.0, {"m": 100.0}) == 8
    assert Autoscaler(rules, 4).look(0.0, {"m": 54.0}) == 4


def test_the_window_waits_and_the_policy_paces() -> None:
    metric = Metric("m", "AverageValue", 1.0)
    down = Pace(60.0, (("Pods", 1.0, 120.0),))
    scaler = Autoscaler(Rules(1, 100, (metric,), Pace(0.0, (("Percent", 100.0, 30.0),)), down), 4)
    assert [scaler.look(at, {"m": 16.0}) for at in (0.0, 15.0, 30.0)] == [8, 8, 16]
    followed = [scaler.look(45.0 + 15 * n, {"m": 1.0}) for n in range(18)]
    assert followed[:3] == [16, 16, 16]  # the window still remembers the wish for sixteen
    assert sorted(set(followed), reverse=True) == [16, 15, 14]
