"""Every alarm on our own metrics watches what the processes show and the collector sends."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from deploy.aws.alarms import CLUSTER, OURS, RANKER, WATCHED, Level, Share
from deploy.aws.collector import config
from deploy.aws.settings import StackSettings
from ranker.metrics import OUTCOMES
from ranker.metrics import Observer as RankerObserver
from streaming.metrics import Observer
from tests.collecting import Sample, metric_of, samples, told

SETTINGS = StackSettings()
CONFIG = config(SETTINGS, "/headrace/metrics")


def shown() -> list[Sample]:
    """Each process's scrape; of workers, with a partition that is owned and stopped."""
    texts = [RankerObserver().text()]
    for process in ("route", "aggregate"):
        observer = Observer(process)
        observer.expect("accepted", "repeated", "dead")
        observer.add(Counter(blocks=1, late=1))
        observer.lag(3, 70)
        observer.stopped(3, "a fault")
        texts.append(observer.exposition())
    return [sample for text in texts for sample in samples(text.decode())]


@pytest.mark.parametrize("alarm", OURS, ids=lambda alarm: alarm.name)
def test_an_alarm_s_metrics_are_exported_scraped_and_declared(alarm: Share | Level) -> None:
    sent = told(CONFIG, shown())
    for one in alarm.series.values():
        assert metric_of(one) in sent


def test_nothing_is_sent_that_no_alarm_watches() -> None:
    assert set(told(CONFIG, shown())) == {metric_of(one) for one in WATCHED}


def test_a_sample_counts_in_one_metric() -> None:
    """Two declarations that take the same sample by the same dimensions would count it twice."""
    for sample in shown():
        assert len(told(CONFIG, [sample])) <= 1


def test_a_metric_that_no_process_shows_would_be_found_out() -> None:
    unknown = ("headrace_ranker_p99_ms", frozenset({(CLUSTER, SETTINGS.name)}))
    assert unknown not in told(CONFIG, [*shown(), ("headrace_ranker_p99_ms", {})])


def test_outcomes_that_are_the_ranker_s_doing_count_and_those_of_callers_do_not() -> None:
    (fails,) = (one for one in RANKER if one.name == "RankerFails")
    counted = {dict(one.labels)["outcome"] for one in fails.every}
    assert set(OUTCOMES) - counted == {"refused", "unknown", "gone"}
    assert {dict(one.labels)["outcome"] for one in fails.bad} == counted - {"ok"}


def value(alarm: Share, counts: dict[str, float]) -> float:
    """The alarm's expression for a minute; a series is named by its last label, or its metric."""
    names = {
        name: np.float64(counts[one.labels[0][1] if one.labels else one.metric])
        for name, one in alarm.series.items()
    }
    functions: dict[str, Any] = {"IF": lambda so, this, that: this if so else that}
    return float(eval(alarm.expression, functions, names))


@pytest.mark.parametrize(
    ("slow", "rings"), [(0.0, False), (10.0, False), (11.0, True), (1000.0, True)]
)
def test_the_ranker_is_slow_when_more_than_one_feed_of_a_hundred_is(
    slow: float, rings: bool
) -> None:
    (alarm,) = (one for one in RANKER if one.name == "RankerSlow")
    share = value(alarm, {"headrace_rank_slow_total": slow, "yes": 900.0, "no": 100.0})
    assert share == pytest.approx(slow / 1000)
    assert (share > alarm.above) == rings


@pytest.mark.parametrize("alarm", [a for a in OURS if isinstance(a, Share)], ids=lambda a: a.name)
def test_a_minute_without_events_is_good_and_one_without_word_is_not_filled_in(
    alarm: Share,
) -> None:
    labels = {o.labels[0][1] if o.labels else o.metric for o in alarm.series.values()}
    with np.errstate(all="raise"):
        assert value(alarm, dict.fromkeys(labels, 0.0)) == 0
    # What CloudWatch has no value of, an expression over it has none of either.
    assert "FILL" not in alarm.expression


def test_ranker_s_alarms_ring_for_silence() -> None:
    assert all(one.silence_rings for one in RANKER)
