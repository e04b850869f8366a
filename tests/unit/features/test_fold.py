"""The fold equals a plain recount, and no order, split or repetition of facts can show in it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.activity import ActivityTable
from features.fold import SUM_MAX
from features.spec import ActivityView, SequenceSpec
from features.strings import Strings
from features.unpack import Counted, Entry
from tests.facts import Fact, decoded, fold, recounted, values
from tests.plans import ITEM_ACTIVITY, RINGS, USER, USER_ACTIVITY, changed

ACTIONS = ("click", "hide", "impression", "like")
YEAR = 365 * 86_400_000
NOW = 1_795_302_000_000
edges = [edge for width, buckets in RINGS for k in range(buckets + 2) for edge in (k * width,)]
times = st.one_of(
    st.integers(0, 60),
    st.integers(0, 400),
    st.sampled_from([t for edge in edges for t in (max(edge - 1, 0), edge, edge + 1)]),
    st.integers(-3, 3).map(lambda years: NOW + years * YEAR),
    st.sampled_from([0, NOW, NOW + 7]),
)
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "ćć", "x" * 200, "7", "07", "123456"]))
amounts = st.one_of(st.integers(0, 300), st.just(0), st.just(2**53))
facts = st.lists(
    st.builds(Fact, times, st.sampled_from(ACTIONS), texts, texts, texts, amounts), max_size=40
)


def _folded(view: ActivityView, batches: list[list[Fact]]) -> ActivityTable:
    strings = Strings()
    strings.codes(random.sample("zyxwvu", 3))  # codes are the process's own: they must not show
    table = ActivityTable(view, ACTIONS, strings, rows=1)
    for batch in batches:
        fold(table, ACTIONS, strings, batch)
    return table


def _again(table: ActivityTable) -> tuple[ActivityTable, Strings]:
    """The row as a process that starts now reads it."""
    strings = Strings()
    fresh = ActivityTable(table.view, ACTIONS, strings, rows=1)
    stored = values(table)
    fresh.load(table.newest[:1] * 0, table.newest[:1], [[stored[f] or None for f in fresh.fields]])
    return fresh, strings


def _seen_by(view: ActivityView, history: list[Fact]) -> list[Fact]:
    return [fact for fact in history if fact.action in view.actions]


@given(facts)
def test_a_folded_row_equals_a_recount_from_raw_facts(history: list[Fact]) -> None:
    table = _folded(USER_ACTIVITY, [history])
    assert decoded(table) == recounted(USER_ACTIVITY, history)


@given(facts, st.randoms(use_true_random=False), st.integers(1, 9))
def test_any_order_and_any_split_into_batches_give_the_same_bytes(
    history: list[Fact], rng: random.Random, size: int
) -> None:
    expected = values(_folded(USER_ACTIVITY, [history]))
    shuffled = rng.sample(history, len(history))
    batches = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    assert values(_folded(USER_ACTIVITY, batches)) == expected


@given(facts, st.randoms(use_true_random=False), st.integers(1, 9))
def test_a_row_that_is_stored_and_read_between_batches_has_the_same_bytes(
    history: list[Fact], rng: random.Random, size: int
) -> None:
    expected = values(_folded(USER_ACTIVITY, [history]))
    shuffled = rng.sample(history, len(history))
    table = _folded(USER_ACTIVITY, [])
    for start in range(0, len(shuffled), size):
        table, strings = _again(table)
        fold(table, ACTIONS, strings, shuffled[start : start + size])
    assert values(table) == expected


@given(facts, st.randoms(use_true_random=False))
def test_a_fact_listed_twice_is_listed_once(history: list[Fact], rng: random.Random) -> None:
    only_lists = changed(USER_ACTIVITY, rings=(), totals=())
    listed = _seen_by(only_lists, history)
    again = listed + rng.choices(listed, k=len(listed)) if listed else []
    rng.shuffle(again)
    assert values(_folded(only_lists, [again])) == values(_folded(only_lists, [listed]))


def _clicks(*at: int) -> list[Fact]:
    return [Fact(time, "click") for time in at]


def _ring(table: ActivityTable, metric: str = "click", width: int = 10) -> dict[int, int]:
    counted = decoded(table).get(metric, Counted(0))
    assert isinstance(counted, Counted)
    return counted.rings.get(width, {})


def test_the_last_millisecond_of_a_bucket_and_the_first_of_the_next_are_told_apart() -> None:
    assert _ring(_folded(ITEM_ACTIVITY, [_clicks(9, 10, 19, 20)])) == {0: 1, 1: 2, 2: 1}


def test_the_oldest_bucket_is_kept_and_the_one_before_it_dropped() -> None:
    assert _ring(_folded(ITEM_ACTIVITY, [_clicks(30, 0)])) == {0: 1, 3: 1}
    dropped = _folded(ITEM_ACTIVITY, [_clicks(40, 9, 10)])
    assert _ring(dropped) == {1: 1, 4: 1}
    assert decoded(dropped)["click"].total == 3


def test_a_fact_late_by_years_counts_in_the_total_and_as_first_seen_alone() -> None:
    table = _folded(ITEM_ACTIVITY, [_clicks(NOW), _clicks(NOW - 3 * YEAR)])
    assert _ring(table) == {NOW // 10: 1}
    row = decoded(table)
    assert row["click"].total == 2
    assert (row["first_seen"], row["last_seen"]) == (NOW - 3 * YEAR, NOW)


def test_a_jump_of_many_buckets_empties_the_whole_ring() -> None:
    assert _ring(_folded(ITEM_ACTIVITY, [_clicks(0, 10, 20, 30), _clicks(10**9)])) == {10**8: 1}


def test_another_action_moves_the_ring_of_an_action_forward() -> None:
    table = _folded(ITEM_ACTIVITY, [[*_clicks(5), Fact(100, "impression")]])
    assert _ring(table) == {}
    assert _ring(table, width=50) == {0: 1}


def test_a_list_keeps_the_newest_by_time() -> None:
    history = [Fact(t, "click", item=f"i{t}") for t in (3, 1, 9, 7, 5, 2, 8, 6)]
    listed = decoded(_folded(USER_ACTIVITY, [history]))["recent"]
    assert [e.item for e in listed] == ["i3", "i5", "i6", "i7", "i8", "i9"]


def test_facts_of_one_time_are_listed_in_the_same_order_by_every_process() -> None:
    history = [Fact(5, "click", item=item) for item in "abcdefgh"]
    listed = decoded(_folded(USER_ACTIVITY, [history]))["recent"]
    assert [e.item for e in listed] == ["h", "d", "e", "a", "g", "b"]


def test_facts_alike_in_all_that_a_list_keeps_are_one_entry_and_two_counts() -> None:
    shown = [Fact(5, "impression", "i", "a", "c", value) for value in (1, 2)]
    row = decoded(_folded(USER_ACTIVITY, [shown]))
    assert row["shown"] == [Entry(5, "i", "a", "c", None, 0)]
    assert row["impression"].total == 2


def test_sums_stop_at_the_largest_exact_number_instead_of_turning_over() -> None:
    history = [Fact(5, "click", value=2**53) for _ in range(2000)]
    table = _folded(ITEM_ACTIVITY, [history])
    assert decoded(table)["click.value"].total == SUM_MAX
    assert _ring(table, "click.value") == {0: SUM_MAX}
    assert decoded(table)["click"].total == 2000


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
    table = _folded(view, [[Fact(at, "click", item=f"i{at}") for at in range(500)]])
    row = decoded(table)
    assert table.arrays.used[1] <= len(table.arrays.arena)
    for i in range(lists):
        assert [e.item for e in row[f"s{i}"]] == [f"i{at}" for at in range(300, 500)]


def test_many_rows_grow_the_arrays_without_touching_each_other() -> None:
    strings = Strings()
    table = ActivityTable(USER_ACTIVITY, ACTIONS, strings, rows=1)
    rng = random.Random(3)
    histories = {
        row: [
            Fact(rng.randrange(300), rng.choice(ACTIONS), item=f"i{row}", value=rng.randrange(9))
            for _ in range(rng.randrange(30))
        ]
        for row in range(700)
    }
    table.reserve(700)
    for row, history in histories.items():
        fold(table, ACTIONS, strings, history, row)
    for row, history in histories.items():
        assert decoded(table, row) == recounted(USER_ACTIVITY, history)
