"""The fold equals a plain recount, and no order, split or repetition of facts can show in it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.activity import ActivityTable
from features.fold import SUM_MAX
from features.spec import ActivityView, SequenceSpec
from features.strings import Strings
from tests.facts import Fact, decoded, fold, recounted, values
from tests.plans import ITEM_ACTIVITY, USER, USER_ACTIVITY, changed

ACTIONS = ("click", "hide", "impression", "like")
times = st.one_of(st.integers(0, 60), st.integers(0, 400), st.just(10**12), st.just(10**12 + 7))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "ćć", "x" * 200]))
amounts = st.one_of(st.integers(0, 300), st.just(0), st.just(2**53))


@st.composite
def facts(draw: st.DrawFn) -> list[Fact]:
    """Facts with few different times, so that they tie, and an event hash each."""
    count = draw(st.integers(0, 40))
    events = draw(st.lists(st.integers(0, 2**63 - 1), min_size=count, max_size=count, unique=True))
    return [
        Fact(
            draw(times),
            event,
            draw(st.sampled_from(ACTIONS)),
            draw(texts),
            draw(texts),
            draw(texts),
            draw(amounts),
        )
        for event in events
    ]


def _folded(view: ActivityView, batches: list[list[Fact]]) -> ActivityTable:
    strings = Strings()
    table = ActivityTable(view, ACTIONS, strings, rows=1)
    for batch in batches:
        fold(table, strings, batch)
    return table


def _seen_by(view: ActivityView, history: list[Fact]) -> list[Fact]:
    return [fact for fact in history if fact.action in view.actions]


@given(facts())
def test_a_folded_row_equals_a_recount_from_raw_facts(history: list[Fact]) -> None:
    table = _folded(USER_ACTIVITY, [history])
    assert decoded(table) == recounted(USER_ACTIVITY, history)


@given(facts(), st.randoms(use_true_random=False), st.integers(1, 9))
def test_any_order_and_any_split_into_batches_give_the_same_bytes(
    history: list[Fact], rng: random.Random, size: int
) -> None:
    expected = values(_folded(USER_ACTIVITY, [history]))
    shuffled = rng.sample(history, len(history))
    batches = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    assert values(_folded(USER_ACTIVITY, batches)) == expected


@given(facts(), st.randoms(use_true_random=False))
def test_a_fact_listed_twice_is_listed_once(history: list[Fact], rng: random.Random) -> None:
    only_lists = changed(USER_ACTIVITY, rings=(), totals=())
    listed = _seen_by(only_lists, history)
    again = listed + rng.choices(listed, k=len(listed)) if listed else []
    rng.shuffle(again)
    assert values(_folded(only_lists, [again])) == values(_folded(only_lists, [listed]))


def _clicks(*at: int) -> list[Fact]:
    return [Fact(time, event, "click") for event, time in enumerate(at)]


def test_the_last_millisecond_of_a_bucket_and_the_first_of_the_next_are_told_apart() -> None:
    assert decoded(_folded(ITEM_ACTIVITY, [_clicks(9, 10, 19, 20)]))["click_10"] == [
        0,
        1,
        1,
        2,
        1,
        1,
    ]


def test_the_oldest_bucket_is_kept_and_the_one_before_it_dropped() -> None:
    kept = _folded(ITEM_ACTIVITY, [_clicks(30, 0)])
    assert decoded(kept)["click_10"] == [0, 1, 3, 1]
    dropped = _folded(ITEM_ACTIVITY, [_clicks(40, 9, 10)])
    assert decoded(dropped)["click_10"] == [1, 1, 3, 1]
    assert decoded(dropped)["click_total"] == 3


def test_a_fact_late_by_years_counts_in_the_total_and_as_first_seen_alone() -> None:
    now = 1_795_302_000_000
    row = decoded(_folded(ITEM_ACTIVITY, [_clicks(now), _clicks(now - 3 * 365 * 86_400_000)]))
    assert row["click_10"] == [now // 10, 1]
    assert row["click_total"] == 2
    assert (row["first_seen"], row["last_seen"]) == (now - 3 * 365 * 86_400_000, now)


def test_a_jump_of_many_buckets_empties_the_whole_ring() -> None:
    row = decoded(_folded(ITEM_ACTIVITY, [_clicks(0, 10, 20, 30), _clicks(10**9)]))
    assert row["click_10"] == [10**8, 1]


def test_another_action_moves_the_ring_of_an_action_forward() -> None:
    history = [*_clicks(5), Fact(100, 9, "impression")]
    row = decoded(_folded(ITEM_ACTIVITY, [history]))
    assert row["click_10"] is None
    assert row["click_50"] == [0, 1]


def test_a_list_keeps_the_newest_by_time_then_event() -> None:
    history = [Fact(5, event, "click", item=f"i{event}") for event in (3, 1, 9, 7, 5, 2, 8, 6)]
    row = decoded(_folded(USER_ACTIVITY, [history]))
    assert row["recent_event"] == [3, 5, 6, 7, 8, 9]
    assert row["recent_item"] == ["i3", "i5", "i6", "i7", "i8", "i9"]


def test_sums_stop_at_the_largest_exact_number_instead_of_turning_over() -> None:
    history = [Fact(5, event, "click", value=2**53) for event in range(2000)]
    row = decoded(_folded(ITEM_ACTIVITY, [history]))
    assert row["click_value_total"] == SUM_MAX
    assert row["click_value_10"] == [0, SUM_MAX]
    assert row["click_total"] == 2000


@pytest.mark.parametrize("lists", [1, 3, 5])
def test_one_action_may_stand_in_many_long_lists(lists: int) -> None:
    view = ActivityView(
        name="v",
        entity=USER,
        sequences=tuple(
            SequenceSpec(name=f"s{i}", actions=("click",), length=200, columns=("item",))
            for i in range(lists)
        ),
    )
    history = [Fact(event, event, "click", item=f"i{event}") for event in range(500)]
    table = _folded(view, [history])
    row = decoded(table)
    assert table.arrays.used[1] <= len(table.arrays.arena)
    for i in range(lists):
        assert row[f"s{i}_item"] == [f"i{event}" for event in range(300, 500)]


def test_many_rows_grow_the_arrays_without_touching_each_other() -> None:
    strings = Strings()
    table = ActivityTable(USER_ACTIVITY, ACTIONS, strings, rows=1)
    rng = random.Random(3)
    histories = {
        row: [
            Fact(rng.randrange(300), rng.getrandbits(60), rng.choice(ACTIONS), item=f"i{row}")
            for _ in range(rng.randrange(30))
        ]
        for row in range(700)
    }
    table.reserve(700)
    for row, history in histories.items():
        fold(table, strings, history, row)
    for row, history in histories.items():
        assert decoded(table, row) == recounted(USER_ACTIVITY, history)
