"""COST.md is what the script computes, and the model behaves as costs do."""

from dataclasses import replace

import pytest

from deploy.aws.cost import COST, SIZES, Assumptions, cost, read_measured, read_prices, report

PRICES, MEASURED, GIVEN = read_prices(), read_measured(), Assumptions()


def test_the_page_is_what_the_script_writes() -> None:
    expected = report(PRICES, MEASURED, GIVEN)
    assert COST.read_text() == expected, "python -m deploy.aws.cost"


def test_a_unit_costs_less_the_more_there_are() -> None:
    costs = [cost(size, PRICES, MEASURED, GIVEN) for size in SIZES]
    for price in ("per_thousand_rankings", "per_million_events"):
        prices = [getattr(one, price) for one in costs]
        assert prices == sorted(prices, reverse=True)
    for one in costs:
        told = one.per_thousand_rankings * one.rankings / 1000
        told += one.per_million_events * one.events / 1e6
        assert told == pytest.approx(one.total)


def test_a_slower_ranker_costs_its_rankings_and_not_the_events() -> None:
    slower = MEASURED.model_copy(update={"rank_cpu_ms": 4 * MEASURED.rank_cpu_ms})
    big = SIZES[-1]
    before, after = (cost(big, PRICES, m, GIVEN) for m in (MEASURED, slower))
    rankers = before.lines["Rankers"][1]
    assert after.lines["Rankers"][1] == pytest.approx(4 * rankers, rel=0.05)
    assert after.per_million_events == pytest.approx(before.per_million_events)


def test_nobody_costs_what_three_zones_cost() -> None:
    idle = cost(replace(SIZES[0], users=1), PRICES, MEASURED, GIVEN)
    assert idle.lines["Rankers"][0] == "3 c7g.large"
    assert idle.lines["Brokers"][0].startswith("3 kafka.m7g.large")
    assert idle.lines["Valkey"][0].startswith("1 shards")
