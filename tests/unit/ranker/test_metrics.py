"""What a scrape shows of a ranker."""

import pytest

from ranker import front_desk
from ranker.front_desk import Kind
from ranker.metrics import OUTCOMES, SLOW_S, Observer
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
