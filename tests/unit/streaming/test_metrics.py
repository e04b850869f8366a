"""What a scrape shows of a worker."""

import re
from collections import Counter

import numpy as np
import pytest
from prometheus_client import generate_latest

from streaming.metrics import Observer

NOW_S = 1_000.0


@pytest.fixture
def clock() -> list[float]:
    """The time now, to be moved."""
    return [NOW_S]


@pytest.fixture
def measured() -> list[float]:
    """What only measures, to be moved."""
    return [7.0]


@pytest.fixture
def observer(clock: list[float], measured: list[float]) -> Observer:
    return Observer("aggregate", lambda: clock[0], lambda: measured[0])


def _shown(observer: Observer) -> dict[str, float]:
    """Series without the label `process`, which all have, and their values."""
    text = generate_latest(observer.registry).decode().replace(',process="aggregate"', "")
    text = text.replace('{process="aggregate"}', "").replace('process="aggregate",', "")
    found = re.findall(r"^(headrace_\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found if "_created" not in name}


def test_lag_is_shown_by_partition_until_it_is_given_up(observer: Observer) -> None:
    observer.lag(3, 70)
    observer.lag(4, -1)  # an end that a fetch knew, older than what was read since
    shown = _shown(observer)
    assert shown['headrace_lag_records{partition="3"}'] == 70
    assert shown['headrace_lag_records{partition="4"}'] == 0
    observer.disowned(3)
    observer.disowned(99)
    assert 'headrace_lag_records{partition="3"}' not in _shown(observer)


def test_batches_fall_into_buckets_by_size(observer: Observer) -> None:
    for size in (0, 1, 2, 100, 5000, 10**9):
        observer.batch("rows", size)
    shown = _shown(observer)
    series = 'headrace_batch_size_bucket{le="%s",of="rows"}'
    assert [shown[series % le] for le in ("1.0", "3.0", "100.0", "10000.0", "+Inf")] == [
        *(2, 3, 4, 5, 6)
    ]
    assert shown['headrace_batch_size_count{of="rows"}'] == 6
    assert shown['headrace_batch_size_sum{of="rows"}'] == 1_000_005_103


def test_freshness_is_the_age_of_each_update_when_it_is_visible(observer: Observer) -> None:
    ms = int(NOW_S * 1000)
    observer.visible(np.array([ms - 15, ms - 15, ms - 4_000, ms + 9]), [ms - 5])
    shown = _shown(observer)
    series = 'headrace_freshness_seconds_bucket{base="event_time",le="%s"}'
    assert [shown[series % le] for le in ("0.01", "0.02", "2.0", "5.0")] == [1, 3, 3, 4]
    assert shown['headrace_freshness_seconds_sum{base="event_time"}'] == pytest.approx(4.03)
    assert shown['headrace_freshness_seconds_count{base="append_time"}'] == 1


def test_the_checkpoint_ages_while_writes_wait_for_it(
    observer: Observer, clock: list[float], measured: list[float]
) -> None:
    assert _shown(observer)["headrace_checkpoint_age_seconds"] == 0
    observer.unsaved(True)
    measured[0] += 7
    observer.unsaved(True)
    assert _shown(observer)["headrace_checkpoint_age_seconds"] == 7
    clock[0] += 9
    observer.saved(rest=True)
    measured[0] += 2
    assert _shown(observer)["headrace_checkpoint_age_seconds"] == 2
    observer.saved(rest=False)
    measured[0] += 5
    assert _shown(observer)["headrace_checkpoint_age_seconds"] == 0
    assert _shown(observer)['headrace_state{kind="checkpoint_unix_s"}'] == NOW_S + 9


def test_a_clock_that_leaps_is_shown_and_ages_nothing(
    observer: Observer, clock: list[float]
) -> None:
    observer.unsaved(True)
    clock[0] += 31_536_000
    shown = _shown(observer)
    assert shown["headrace_clock_unix_seconds"] == NOW_S + 31_536_000
    assert shown["headrace_checkpoint_age_seconds"] == 0


def test_a_hold_counts_once_however_often_the_store_is_tried(observer: Observer) -> None:
    for held in (True, True, False, False, True):
        observer.hold(held)
    shown = _shown(observer)
    assert shown['headrace_events_total{kind="holds"}'] == 2
    assert shown['headrace_state{kind="holding"}'] == 1


def test_of_plans_only_the_one_in_use_is_shown(observer: Observer) -> None:
    observer.plan("old")
    observer.plan("new")
    assert [s for s in _shown(observer) if "plan" in s] == ['headrace_plan_info{version="new"}']


def test_what_is_expected_is_shown_before_it_happens(observer: Observer) -> None:
    observer.expect("dead")
    assert _shown(observer)['headrace_events_total{kind="dead"}'] == 0
    observer.add(Counter(dead=1))
    assert _shown(observer)['headrace_events_total{kind="dead"}'] == 1


def test_counts_add_up(observer: Observer) -> None:
    observer.add(Counter(late=2, dead=0))
    observer.add(Counter(late=3))
    shown = _shown(observer)
    assert shown['headrace_events_total{kind="late"}'] == 5
    assert 'headrace_events_total{kind="dead"}' not in shown
