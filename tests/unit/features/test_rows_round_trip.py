"""A row that went through the store is the row that was kept in memory, to the byte."""

from collections.abc import Mapping

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
from features.spec import ActivityView, Metric, RingSpec, SequenceSpec
from features.strings import Strings
from features.tables import Table
from tests.facts import Fact, decoded, fold, recounted, values
from tests.plans import ITEM, PLAN, RECENT, USER, USER_ACTIVITY, World, changed, plan
from tests.strategies import histories

MARKER = Marker(1, 0, 7)


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
    assert decoded(table)["click_10"] == [20, 1]


def test_a_ring_trimmed_to_empty_is_reported_gone() -> None:
    world = _loaded(_stored(World().fold([_click("u0", "i0", 5)])))
    world.fold([_act("u0", "i0", 10_000, "like")])
    table = world.tables["user_id"]
    table.markers = [MARKER] * len(table)
    (write,) = table.writes({"user_activity": np.array([0])})
    rings = [
        field_name("user_activity", f"{m}_{w}") for m in ("click", "click_value") for w in (10, 50)
    ]
    assert set(write.gone) == {rings[0], rings[1]}
    assert not set(write.gone) & set(write.fields[::2])


def test_a_field_is_reported_gone_once() -> None:
    world = World().fold([_click("u0", "i0", 5)])
    table = world.tables["user_id"]
    table.markers = [MARKER]
    rows = {"user_activity": np.array([0])}
    assert [w.gone for w in table.writes(rows)] == [[]]
    world.fold([_act("u0", "i0", 10_000, "like")])
    assert [len(w.gone) for w in table.writes(rows)] == [2]
    assert [w.gone for w in table.writes(rows)] == [[]]


def test_a_value_written_by_something_else_is_refused_and_says_what_to_do() -> None:
    world = World()
    content = {
        b"_ts:user_activity": b"\x08\x05",
        field_name("user_activity", "click_10"): encode_value("text", "String"),
    }
    with pytest.raises(BadInput, match="delete the row, then replay"):
        world.tables["user_id"].load([world.tables["user_id"].row_of_id("u")], [content])


def _view(ring: int, sequence: SequenceSpec) -> ActivityView:
    metric = Metric(action="click")
    return ActivityView(
        name="v",
        entity=USER,
        rings=(RingSpec(field="clicks", metric=metric, width_ms=10, buckets=ring),),
        sequences=(sequence,),
        last_seen="last",
    )


def _moved(old: ActivityView, new: ActivityView, facts: list[Fact]) -> ActivityTable:
    """Facts folded under one declaration, stored, and loaded under another."""
    strings = Strings()
    first = ActivityTable(old, ("click", "like"), strings)
    fold(first, strings, facts)
    second = ActivityTable(new, ("click", "like"), strings)
    stored = values(first)
    newest = np.array([max(f.time for f in facts)], np.int64)
    second.load(np.array([0]), newest, [[stored.get(name) for name in second.fields]])
    return second


def test_rows_stored_with_a_longer_ring_and_list_load_into_shorter_ones() -> None:
    facts = [Fact(10 * i, i, "click", item=f"i{i}") for i in range(40)]
    long = SequenceSpec(name="s", actions=("click",), length=9, columns=("item",))
    short = changed(long, length=2)
    moved = _moved(_view(40, long), _view(3, short), facts)
    assert decoded(moved) == recounted(_view(3, short), facts)


def test_a_column_added_to_a_list_is_empty_for_what_was_stored_without_it() -> None:
    facts = [Fact(i, i, "click", item=f"i{i}", author="a", value=9) for i in range(3)]
    before = SequenceSpec(name="s", actions=("click",), length=4, columns=("item",))
    after = changed(before, columns=("item", "author", "value"))
    row = decoded(_moved(_view(2, before), _view(2, after), facts))
    assert row["s_item"] == ["i0", "i1", "i2"]
    assert row["s_author"] == ["", "", ""]
    assert row["s_value"] == [0, 0, 0]


def test_listed_actions_that_the_plan_no_longer_knows_are_dropped() -> None:
    strings = Strings()
    first = ActivityTable(USER_ACTIVITY, ("click", "hide", "impression", "like"), strings)
    fold(first, strings, [Fact(1, 1, "click"), Fact(2, 2, "hide"), Fact(3, 3, "like")])
    fewer = changed(USER_ACTIVITY, sequences=(changed(RECENT, actions=("click", "like")),))
    second = ActivityTable(fewer, ("click", "impression", "like"), strings)
    stored = values(first)
    second.load(np.array([0]), np.array([3]), [[stored.get(name) for name in second.fields]])
    assert decoded(second)["recent_action"] == ["click", "like"]
    assert decoded(second)["recent_event"] == [1, 3]


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
