"""Overlap and spread against what they are defined by."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.judging.lists import Page, rank_biased_overlap, spread

orders = st.permutations(list("abcdefgh"))


@given(orders, orders, st.floats(0.1, 0.95))
def test_overlap_lies_between_nothing_and_all_and_is_the_same_both_ways(
    one: list[str], other: list[str], persistence: float
) -> None:
    found = rank_biased_overlap(one, other, persistence)
    assert 0 <= found <= 1 + 1e-12
    assert found == rank_biased_overlap(other, one, persistence)
    assert (found == pytest.approx(1)) == (one == other)


def test_a_change_at_the_top_counts_more_than_one_below() -> None:
    same = list("abcdef")
    assert rank_biased_overlap(same, list("bacdef")) < rank_biased_overlap(same, list("abcdfe"))
    assert rank_biased_overlap(list("ab"), list("cd")) == 0
    # By hand: agreements 0 and 1, at persistence 0.5: 0.5 · (0 + 0.5) + 1 · 0.25.
    assert rank_biased_overlap(["a", "b"], ["b", "a"], 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("persistence", [0.0, 1.0, -1.0, float("nan")])
def test_a_persistence_that_is_none_is_refused(persistence: float) -> None:
    with pytest.raises(ValueError, match="persistence"):
        rank_biased_overlap(["a"], ["a"], persistence)


def test_spread_counts_items_authors_and_categories_of_pages() -> None:
    pages = [
        Page(["a", "b"], ["x", "x"], ["c", None], [10.0, float("nan")]),
        Page(["b", "c"], ["x", None], [None, None], [30.0, 50.0]),
    ]
    found = spread(pages, candidates=12)
    assert (found.coverage, found.authors, found.categories) == (0.25, 0.75, 1.0)
    assert found.age_s == 30.0
    empty = spread([], candidates=0)
    assert math.isnan(empty.coverage)
    assert math.isnan(empty.authors)
