"""What a scrape shows of a ranker."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from ranker import front_desk
from ranker.front_desk import Kind
from ranker.metrics import OUTCOMES, SLOW_S, STAGE_SECONDS, Observer
from ranker.request import Freshness, RankResponse

FRESH = Freshness(user_updated_at=None, user_age_ms=None, item_staleness_ms=0.0)


def answer(took_ms: float) -> RankResponse:
    return RankResponse(
        request_id="r", now=0, items=[], model="m", freshness=FRESH, next_cursor=None,
        degraded=[], took_ms=took_ms,
    )  # fmt: skip


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_shown_before_the_first_request(outcome: str) -> None:
    shown = Observer().text().decode()
    assert f'headrace_rank_requests_total{{outcome="{outcome}"}} 0.0' in shown


def test_outcomes_are_those_that_a_request_can_have() -> None:
    kinds = [one for one in vars(front_desk).values() if isinstance(one, Kind)]
    assert {"ok", *(kind.outcome for kind in kinds)} == set(OUTCOMES)


def test_a_feed_is_slow_past_the_limit_and_not_at_it() -> None:
    observer = Observer()
    for took_ms in (1.0, 1000 * SLOW_S, 1000 * SLOW_S + 0.1, 900.0):
        observer.answered(answer(took_ms))
    shown = observer.text().decode()
    assert "headrace_rank_slow_total 2.0" in shown
    assert 'headrace_rank_answers_total{whole="yes"} 4.0' in shown


def test_stages_are_shown_as_the_librarys_own_histogram_shows_them() -> None:
    registry, observer = CollectorRegistry(), Observer()
    own = Histogram(
        "headrace_rank_stage_seconds",
        "Time in a stage of the pipeline.",
        ("stage",),
        buckets=STAGE_SECONDS,
        registry=registry,
    )
    for took_ms in (0.0, 0.01, 0.1, 0.25, 0.2500001, 3.0, 999.0, 1000.0, 5000.0):
        observer.staged({"heads": took_ms, "filter:seen": 2 * took_ms}, ["heads"])
        own.labels("heads").observe(took_ms / 1000)
        own.labels("filter:seen").observe(2 * took_ms / 1000)
    expected = [
        line for line in generate_latest(registry).decode().splitlines() if "_created" not in line
    ]
    shown = observer.text().decode().splitlines()
    assert [line for line in shown if "headrace_rank_stage_seconds" in line] == expected
    assert 'headrace_rank_over_budget_total{stage="heads"} 9.0' in shown
