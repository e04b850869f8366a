"""Records of plain topics: Feast's keys, and dead letters with their reasons."""

import json
from typing import Any

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from features.events import RECORD_BYTES_MAX, BadEvent
from features.plain_reader import PlainEvent, PlainReader
from features.spec import Plan
from tests.drivers import driver_plan, driver_rows, dumped
from tests.pipeline import SETTINGS, new_router, records_of

PLAN = driver_plan()
GOOD = {"driver_id": 7, "event_timestamp": "2022-04-24T15:05:41Z", "city": "Wien", "fare": 3}


def _parsed(value: bytes, plan: Plan = PLAN) -> PlainEvent | BadEvent:
    (event,) = PlainReader(plan).parse([value])
    return event


def _changed(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def _keys(value: bytes) -> dict[str, bytes]:
    event = _parsed(value)
    assert isinstance(event, PlainEvent), event
    return {PLAN.views[change.view].name: change.key for change in event.changes}


def test_keys_are_those_of_stock_feast_with_one_join_key_and_with_several() -> None:
    one = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=7)])
    two = EntityKey(
        join_keys=["driver_id", "city"],
        entity_values=[Value(int64_val=7), Value(string_val="Wien")],
    )
    stock = [serialize_entity_key(key, 3) + PLAN.project.encode() for key in (one, two)]
    keys = _keys(_changed())
    assert [keys["driver_fares"], keys["driver_in_city"]] == stock


def test_a_view_whose_key_a_record_does_not_carry_leaves_it_to_the_others() -> None:
    assert set(_keys(_changed(city=None))) == {"driver_fares", "driver_hourly_stats"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "no driver_id"),
        (_changed(driver_id=None), "no driver_id"),
        (_changed(driver_id="seven"), "driver_id: not an integer of 64 bits"),
        (_changed(driver_id=2**63), "driver_id: not an integer of 64 bits"),
        (_changed(driver_id=True), "driver_id: not an integer of 64 bits"),
        (_changed(city=""), "city: not an id of 1 to 256 characters"),
        (_changed(city="x" * 257), "city: not an id of 1 to 256 characters"),
        (_changed(city={}), "city: not an id of 1 to 256 characters"),
        (_changed(event_timestamp=None), "no event_timestamp"),
        (_changed(event_timestamp="soon"), "event_timestamp: 'soon' is not an ISO 8601 time"),
        (_changed(event_timestamp=-1), "event_timestamp: not between 1970 and 2262"),
        (_changed(event_timestamp=True), "event_timestamp: not an ISO 8601 text nor a number"),
        (_changed(x="y" * RECORD_BYTES_MAX), "over the limit"),
    ],
)
def test_a_record_that_no_view_can_take_says_why(value: bytes, says: str) -> None:
    event = _parsed(value)
    assert isinstance(event, BadEvent)
    assert says in event.reason
    assert "\n" not in event.reason


def test_a_tombstone_is_a_dead_letter() -> None:
    assert PlainReader(PLAN).parse([None]) == [BadEvent("no value (a tombstone)")]


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(value: bytes) -> None:
    _parsed(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
COLUMNS = ["driver_id", "event_timestamp", "created", "city", "fare", "tags", "avg_daily_trips"]


@given(st.dictionaries(st.sampled_from(COLUMNS), JSON))
def test_no_values_in_known_columns_make_it_raise(changes: dict[str, Any]) -> None:
    _parsed(_changed(**changes))


def test_unknown_columns_are_ignored_and_missing_ones_are_null() -> None:
    more, less = _parsed(_changed(phone=1, fare=None)), {**GOOD}
    del less["fare"]
    assert more == _parsed(json.dumps(less).encode())


def _with(**changes: Any) -> Plan:
    return PLAN.model_copy(
        update={"plain": tuple(v.model_copy(update=changes) for v in PLAN.plain)}
    )


def test_repeats_count_unless_a_column_tells_them_apart() -> None:
    values = [_changed(trip="a"), _changed(trip="a"), _changed(trip="b")]
    for plan, accepted in ((PLAN, 3), (_with(event_id_column="trip"), 2)):
        counts = new_router().step({0: records_of(values)}, PlainReader(plan)).counts
        assert counts["accepted"] == accepted


def test_a_record_without_the_id_that_tells_repeats_is_a_dead_letter() -> None:
    event = _parsed(_changed(), _with(event_id_column="trip"))
    assert event == BadEvent("trip: not an id of 1 to 256 characters")


def test_a_record_from_the_future_is_a_dead_letter() -> None:
    append_time = 1_650_812_741_000 - SETTINGS.max_ahead_ms
    for late, fate in ((0, "accepted"), (-1, "dead")):
        records = records_of([_changed()], append_time=append_time + late)
        assert new_router().step({0: records}, PlainReader(PLAN)).counts[fate] == 1


def test_a_unit_and_columns_of_other_names_are_honoured() -> None:
    plan = _with(time_unit="s", time_column="at")
    event = _parsed(_changed(at=5), plan)
    assert isinstance(event, PlainEvent)
    assert event.event_time == 5000


def test_all_good_rows_are_taken_by_all_views() -> None:
    events = PlainReader(PLAN).parse([dumped(row) for row in driver_rows(6, 50)])
    assert all(isinstance(event, PlainEvent) and len(event.changes) == 3 for event in events)
