"""A row that went through the store is the row that was kept in memory, to the byte."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given

from features.activity import ActivityTable
from features.codec import MARKER_FIELD, encode_value, field_name
from features.entities import EntityTable, Hash
from features.errors import BadInput
from features.events import EngagementEvent, Event
from features.layout import Ints
from features.marker import Marker
from features.spec import ActivityView, Metric, RingSpec, SequenceSpec, TotalSpec
from features.strings import Strings
from features.tables import Table
from features.unpack import Counted, Entry
from tests.facts import Fact, decoded, fold, recounted, values
from tests.plans import ITEM, PLAN, RECENT, USER, USER_ACTIVITY, World, changed, plan
from tests.strategies import histories

MARKER = Marker(1, 0, 7)
ACTIONS_OF_PLAN = ("click", "hide", "impression", "like")


def _stored(world: World) -> dict[str, dict[bytes, Hash]]:
    """Every row as the store would hold it after one write."""
    stored: dict[str, dict[bytes, Hash]] = {}
    for join_key, table in world.tables.items():
        table.markers = [MARKER] * len(table)
        rows = {name: _folded(view) for name, view in table.tables.items()}
        stored[join_key] = {}
        for write in table.writes(rows):
            content = dict(zip(write.fields[::2], write.fields[1::2], strict=True))
            stored[join_key][write.key] = content | {MARKER_FIELD: write.marker.encode()}
    return stored


def _folded(table: Table) -> Ints:
    """The rows that hold anything."""
    return np.flatnonzero(table.newest >= 0)


def _loaded(stored: Mapping[str, Mapping[bytes, Hash]]) -> World:
    """A world that read the rows back, in another order than they were made."""
    world = World()
    for join_key, hashes in stored.items():
        table = world.tables[join_key]
        keys = sorted(hashes)
        table.load([table.row(key) for key in keys], [hashes[key] for key in keys])
    return world


@given(histories())
def test_stored_rows_load_and_encode_to_the_same_bytes(events: list[Event]) -> None:
    stored = _stored(World().fold(events))
    assert _stored(_loaded(stored)) == stored


@given(histories(), histories())
def test_folding_goes_on_after_a_load_as_if_nothing_had_happened(
    before: list[Event], after: list[Event]
) -> None:
    after = [e.model_copy(update={"event_id": f"later-{e.event_id}"}) for e in after]
    loaded = _loaded(_stored(World().fold(before)))
    assert _stored(loaded.fold(after)) == _stored(World().fold([*before, *after]))


@given(histories())
def test_a_load_replaces_whatever_a_row_held(events: list[Event]) -> None:
    stored = _stored(World().fold(events))
    world = _loaded(stored)
    world.fold([_click("u0", "i0", 77), _click("u1", "i1", 9 * 10**12)])
    for join_key, hashes in stored.items():
        table = world.tables[join_key]
        table.load([table.row(key) for key in hashes], list(hashes.values()))
    assert {k: v for k, v in _stored(world)["user_id"].items() if k in stored["user_id"]} == (
        stored["user_id"]
    )


def test_a_row_whose_only_event_is_at_time_zero_comes_back_whole() -> None:
    stored = _stored(World().fold([_click("u0", "i0", 0)]))
    world = _loaded(stored)
    assert _stored(world) == stored
    assert world.tables["user_id"].known(0)
    table = world.fold([_click("u0", "i0", 200)]).tables["user_id"].tables["user_activity"]
    assert isinstance(table, ActivityTable)
    assert decoded(table)["click"].rings[10] == {20: 1}


def test_a_ring_trimmed_to_empty_is_gone_from_the_pack() -> None:
    world = _loaded(_stored(World().fold([_click("u0", "i0", 5)])))
    world.fold([_act("u0", "i0", 10_000, "like")])
    table = world.tables["user_id"].tables["user_activity"]
    assert isinstance(table, ActivityTable)
    assert decoded(table)["click"] == Counted(1)
    assert decoded(table)["like"].rings == {10: {1000: 1}, 50: {200: 1}}


def test_a_field_that_was_stored_and_holds_nothing_any_more_is_reported_gone_once() -> None:
    both = changed(LIST, actions=("click", "like"), columns=("item", "action"))
    like = _view(2, changed(both, actions=("like",)))
    table = _moved(_view(2, both), like, [Fact(5, "click")])
    gone = [[stored.gone for stored in table.encoded(np.array([0]))] for _ in range(2)]
    assert gone == [[[table.fields.index("lists")]], [()]]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [("text", "String"), (b"", "Bytes"), (b"hello world", "Bytes"), (1, "Int64")],
)
def test_a_value_written_by_something_else_is_refused_and_says_what_to_do(
    value: str | bytes | int, dtype: str
) -> None:
    world = World()
    content = {
        b"_ts:user_activity": b"\x08\x05",
        field_name("user_activity", "counts"): encode_value(value, dtype),
    }
    with pytest.raises(BadInput, match="delete the row, then replay"):
        world.tables["user_id"].load([world.tables["user_id"].row_of_id("u")], [content])


def test_a_row_of_typed_fields_from_before_packs_is_refused_not_taken_for_empty() -> None:
    world = World()
    content = {
        b"_ts:user_activity": b"\x08\x05",
        field_name("user_activity", "click_total"): encode_value(3, "Int64"),
    }
    with pytest.raises(BadInput, match="delete the row, then replay"):
        world.tables["user_id"].load([world.tables["user_id"].row_of_id("u")], [content])


ACTIONS = ("click", "like")


def _view(ring: int, sequence: SequenceSpec, *more: RingSpec) -> ActivityView:
    metric = Metric(action="click")
    return ActivityView(
        name="v",
        entity=USER,
        rings=(RingSpec(metric=metric, width_ms=10, buckets=ring), *more),
        sequences=(sequence,),
        last_seen="last",
    )


def _moved(
    old: ActivityView,
    new: ActivityView,
    facts: list[Fact],
    actions: Sequence[str] = ACTIONS,
    later: Sequence[str] | None = None,
) -> ActivityTable:
    """Facts folded under one declaration, stored, and loaded under another."""
    strings = Strings()
    first = ActivityTable(old, tuple(actions), strings)
    fold(first, actions, strings, facts)
    second = ActivityTable(new, tuple(later or actions), Strings())
    stored = values(first)
    newest = np.array([max(f.time for f in facts)], np.int64)
    second.load(np.array([0]), newest, [[stored.get(name) for name in second.fields]])
    return second


LIST = SequenceSpec(name="s", actions=("click",), length=9, columns=("item",))


def test_rows_stored_with_a_longer_ring_and_list_load_into_shorter_ones() -> None:
    facts = [Fact(10 * i, "click", item=f"i{i}") for i in range(40)]
    short = _view(3, changed(LIST, length=2))
    assert decoded(_moved(_view(40, LIST), short, facts)) == recounted(short, facts)


def test_rows_stored_with_a_shorter_ring_keep_what_they_have_in_a_longer_one() -> None:
    facts = [Fact(10 * i, "click") for i in range(40)]
    row = decoded(_moved(_view(3, LIST), _view(40, LIST), facts))
    assert row["click"].rings == {10: {37: 1, 38: 1, 39: 1}}


def test_a_ring_that_was_dropped_is_passed_over_and_one_that_was_added_is_empty() -> None:
    facts = [Fact(10 * i, "click") for i in range(40)]
    click = Metric(action="click")
    hours = RingSpec(metric=click, width_ms=3_600_000, buckets=2)
    weeks = RingSpec(metric=click, width_ms=7 * 86_400_000, buckets=2)
    before, after = _view(4, LIST, hours), _view(4, LIST, weeks)
    assert decoded(_moved(before, after, facts)) == recounted(_view(4, LIST), facts)


def test_a_metric_that_was_dropped_is_passed_over_and_one_that_was_added_is_empty() -> None:
    facts = [Fact(10 * i, action) for i in range(9) for action in ("click", "like")]
    like = RingSpec(metric=Metric(action="like"), width_ms=10, buckets=4)
    value = RingSpec(metric=Metric(action="click", amount="value"), width_ms=10, buckets=4)
    before, after = _view(4, LIST, like), _view(4, LIST, value)
    assert decoded(_moved(before, after, facts)) == recounted(_view(4, LIST), facts)


def test_a_total_that_was_added_counts_from_then_on() -> None:
    before = _view(4, LIST)
    after = changed(before, totals=(TotalSpec(metric=Metric(action="click")),))
    row = decoded(_moved(before, after, [Fact(10 * i, "click") for i in range(9)]))
    assert row["click"] == Counted(0, {10: {5: 1, 6: 1, 7: 1, 8: 1}})


def test_a_column_added_to_a_list_is_empty_for_what_was_stored_without_it() -> None:
    facts = [Fact(i, "click", item=f"i{i}", author="a", value=9) for i in range(3)]
    after = changed(LIST, columns=("item", "author", "value"))
    row = decoded(_moved(_view(2, LIST), _view(2, after), facts))
    assert row["s"] == [Entry(i, f"i{i}", None, None, None, 0) for i in range(3)]


def test_a_column_dropped_from_a_list_makes_entries_one_that_differed_in_it_alone() -> None:
    facts = [Fact(3, "click", item="i", author=author) for author in "abc"]
    before = changed(LIST, columns=("item", "author"))
    row = decoded(_moved(_view(2, before), _view(2, LIST), facts))
    assert row["s"] == [Entry(3, "i", None, None, None, 0)]


def test_the_action_added_to_a_list_of_several_is_not_guessed_for_what_is_stored() -> None:
    facts = [Fact(3, "click", item="i"), Fact(4, "like", item="i")]
    before = changed(LIST, actions=("click", "like"))
    after = changed(before, columns=("item", "action"))
    assert "s" not in decoded(_moved(_view(2, before), _view(2, after), facts))


def test_a_list_that_was_renamed_is_another_list() -> None:
    facts = [Fact(3, "click", item="i")]
    row = decoded(_moved(_view(2, LIST), _view(2, changed(LIST, name="t")), facts))
    assert not {"s", "t"} & set(row)


@pytest.mark.parametrize("actions", [("click", "impression", "like"), ACTIONS_OF_PLAN])
def test_listed_actions_that_the_list_no_longer_takes_are_dropped(actions: tuple[str, ...]) -> None:
    facts = [Fact(1, "click"), Fact(2, "hide"), Fact(3, "like")]
    fewer = changed(USER_ACTIVITY, sequences=(changed(RECENT, actions=("click", "like")),))
    row = decoded(_moved(USER_ACTIVITY, fewer, facts, ACTIONS_OF_PLAN, actions))
    assert [(e.time, e.action) for e in row["recent"]] == [(1, "click"), (3, "like")]


def test_a_row_is_never_written_without_a_marker() -> None:
    table = World().fold([_click("u0", "i0", 5)]).tables["user_id"]
    with pytest.raises(ValueError, match="marker"):
        list(table.writes({"user_activity": np.array([0])}))


def test_ids_are_found_again_by_key_id_and_code() -> None:
    table = EntityTable(PLAN, ITEM, strings := Strings())
    assert table.rows_of_codes(strings.codes(["i1"])).tolist() == [-1]
    row = table.row_of_id("i1")
    assert table.find(table.key_of("i1")) == row
    assert table.find(table.key_of("i2")) is None
    assert table.rows_of_ids(["i2", "i1"]).tolist() == [-1, row]
    assert table.rows_of_codes(strings.codes(["i9", "i1", None])).tolist() == [-1, row, -1]


def test_views_of_one_entity_share_one_row() -> None:
    view = changed(USER_ACTIVITY, name="other")
    world = World(plan(activity=(*PLAN.activity, view))).fold([_click("u0", "i0", 5)])
    table = world.tables["user_id"]
    table.markers = [MARKER]
    writes = list(table.writes({"user_activity": np.array([0]), "other": np.array([0])}))
    assert len(writes) == 1
    assert {b"_ts:user_activity", b"_ts:other"} <= set(writes[0].fields[::2])


_numbers = iter(range(10**9))


def _click(user: str, item: str, at: int) -> EngagementEvent:
    return _act(user, item, at, "click")


def _act(user: str, item: str, at: int, action: str) -> EngagementEvent:
    return EngagementEvent(
        event_id=f"n{next(_numbers)}", event_time=at, user_id=user, item_id=item, action=action
    )
