"""Events: what parses, what is refused and why, and that bad records leave the others alone."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import (
    RECORD_BYTES_MAX,
    BadEvent,
    EngagementEvent,
    Event,
    ForgetEvent,
    ImpressionEvent,
    ItemEvent,
    ShownItem,
    UserEvent,
    dump_event,
    event_json_schema,
    parse_events,
    record_key,
)
from tests.records import KINDS, bad_records, far_future_records, good_events

USER: dict[str, Any] = {"type": "user", "event_id": "e", "event_time": 5, "user_id": "u"}
ITEM: dict[str, Any] = {"type": "item", "event_id": "e", "event_time": 5, "item_id": "i"}


def parse(value: bytes | None) -> Event | BadEvent:
    (result,) = parse_events([value])
    return result


def reason(value: bytes | None) -> str:
    result = parse(value)
    assert isinstance(result, BadEvent), result
    return result.reason


def record(base: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(base | changes).encode()


PATIENT = settings(deadline=None)  # a loaded machine is no fault of the parser
BAD = [value for _, value in bad_records(seed=2, n=3 * len(KINDS)) if len(value) < 100_000]

ids = st.text(min_size=1, max_size=20)
times = st.integers(0, 4_000_000_000_000)
categories = st.lists(ids, max_size=4)
attributes = st.dictionaries(
    ids,
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ids,
    max_size=4,
)
optional_ids = st.none() | ids
names = st.sampled_from(["home", "click", "like", "shorts"])
envelope: dict[str, st.SearchStrategy[Any]] = {"event_id": ids, "event_time": times}
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        ImpressionEvent,
        **envelope,
        request_id=ids,
        user_id=ids,
        surface=names,
        items=st.lists(
            st.builds(ShownItem, item_id=ids, author_id=optional_ids, categories=categories),
            min_size=1,
            max_size=5,
        ),
    ),
    st.builds(
        EngagementEvent,
        **envelope,
        user_id=ids,
        item_id=ids,
        action=names,
        request_id=optional_ids,
        position=st.none() | st.integers(0, 2**53),
        value=st.none() | st.integers(0, 2**53),
        author_id=optional_ids,
        categories=categories,
    ),
    st.builds(
        ItemEvent,
        **envelope,
        item_id=ids,
        author_id=optional_ids,
        created_at=st.none() | times,
        attributes=attributes,
        embedding=st.none() | st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=8),
        ended=st.booleans(),
    ),
    st.builds(
        UserEvent,
        **envelope,
        user_id=ids,
        attributes=attributes,
        consent=st.none() | st.booleans(),
        embedding=st.none() | st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=8),
    ),
    st.builds(ForgetEvent, **envelope, user_id=ids),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An event with one field replaced by any JSON, cut short, or with bytes put in."""
    value = json.loads(dump_event(draw(events)))
    if draw(st.booleans()):
        value[draw(st.sampled_from(sorted(value)))] = draw(json_values)
    text = json.dumps(value).encode()
    at = draw(st.integers(0, len(text)))
    return draw(st.sampled_from([text, text[:at], text[:at] + draw(st.binary()) + text[at:]]))


any_record = (
    events.map(dump_event)
    | damaged()
    | st.binary(max_size=50)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([None, b"1,2", b"]", b'{"a":[{}', b"{}]}", b'{"type":"user"},{}'])
)


@PATIENT
@given(events)
def test_an_event_survives_its_own_bytes(event: Event) -> None:
    assert parse(dump_event(event)) == event
    assert b":null" not in dump_event(event)


@PATIENT
@given(st.lists(any_record, max_size=12))
def test_every_record_gives_the_result_it_gives_alone(values: list[bytes | None]) -> None:
    results = parse_events(values)
    assert results == [parse(value) for value in values]
    for result in results:
        if isinstance(result, BadEvent):
            assert 0 < len(result.reason) <= 300
            assert result.reason.isprintable()


@PATIENT
@given(st.lists(events, min_size=1, max_size=6), st.data())
def test_bad_records_do_not_shift_the_good_ones_around_them(
    good: list[Event], data: st.DataObject
) -> None:
    bad = data.draw(st.lists(st.sampled_from(BAD), min_size=len(good), max_size=len(good)))
    values = [v for pair in zip(bad, map(dump_event, good), strict=True) for v in pair]
    results = parse_events(values)
    assert len(results) == len(values)
    assert results[1::2] == good
    assert all(isinstance(result, BadEvent) for result in results[::2])


def test_every_kind_of_bad_record_is_refused_with_a_reason() -> None:
    made = bad_records(seed=1, n=10 * len(KINDS))
    assert {kind for kind, _ in made} == set(KINDS)
    for (kind, value), result in zip(made, parse_events([v for _, v in made]), strict=True):
        assert isinstance(result, BadEvent), (kind, value[:200], result)
        assert result.reason


def test_seeded_records_repeat() -> None:
    assert bad_records(7, 60) == bad_records(7, 60)
    assert good_events(7, 60) == good_events(7, 60)
    assert parse_events([dump_event(e) for e in good_events(7, 60)]) == good_events(7, 60)


def test_far_future_records_parse_because_only_the_log_knows_their_append_time() -> None:
    for result in parse_events(far_future_records(3, 20, 1_000_000, 60_000)):
        assert not isinstance(result, BadEvent)
        assert result.event_time > 1_060_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "no value (a tombstone)"),
        (b"", "not JSON: EOF"),
        (b"1,2", "not JSON: trailing characters"),
        (b"[]", "not a JSON object"),
        (b"{}", "no type"),
        (record(USER, type="purchase"), "unknown type 'purchase'; known are impression"),
        (b"x" * 5_000_000, "record of 5000000 bytes is over the limit of 1048576"),
        (record(USER, event_time=-1), "event_time: Input should be greater than or equal to 0"),
        (record(USER, event_time=float("nan")), "event_time: Input should be a valid integer"),
        (record(USER, event_time=True), "event_time: Input should be a valid integer"),
        (record(USER, event_time="5"), "event_time: Input should be a valid integer"),
        (record(USER, user_id=5), "user_id: Input should be a valid string"),
        (record(USER, user_id="u" * 257), "user_id: String should have at most 256"),
        (record(USER, schema_version=2), "schema_version: Input should be less than or equal to 1"),
        (record(ITEM, embedding=[1, float("inf")]), "embedding.1: Input should be a finite number"),
        (record(ITEM, attributes={"a": []}), "attributes.a: Input should be a short text"),
        (
            record(ITEM, attributes={str(i): None for i in range(50_000)}),
            "attributes: at most 64, not 50000",
        ),
    ],
)
def test_the_reason_names_the_field_and_what_is_wrong(value: bytes | None, expected: str) -> None:
    assert reason(value).startswith(expected)


def test_a_reason_is_one_line_whatever_the_record_says() -> None:
    assert reason(record(ITEM, attributes={"a\nb\x1b[31m": []})).startswith("attributes.a?b?[31m: ")


def test_a_record_of_exactly_the_limit_is_read() -> None:
    assert isinstance(parse(record(USER).ljust(RECORD_BYTES_MAX)), UserEvent)
    assert isinstance(parse(record(USER).ljust(RECORD_BYTES_MAX + 1)), BadEvent)


def test_unknown_fields_are_ignored() -> None:
    assert parse(record(USER, later={"a": [1]})) == parse(record(USER))


def test_of_a_repeated_key_the_last_one_counts() -> None:
    assert isinstance(parse(record(USER)[:-1] + b',"type":"forget"}'), ForgetEvent)
    assert reason(record(USER)[:-1] + b',"type":"nope"}').startswith("unknown type 'nope'")


def test_attributes_keep_their_types() -> None:
    event = parse(record(USER, attributes={"a": True, "b": 1, "c": 1.0, "d": "1"}))
    assert isinstance(event, UserEvent)
    assert [type(value) for value in event.attributes.values()] == [bool, int, float, str]


def test_records_are_keyed_by_user_and_item_events_by_item() -> None:
    keys = {event.type: record_key(event) for event in good_events(1, 500)}
    assert keys["item"].startswith(b"i")
    assert all(keys[kind].startswith(b"u") for kind in ("impression", "engagement", "user"))
    assert record_key(UserEvent(event_id="e", event_time=1, user_id="ü")) == "ü".encode()


def test_the_schema_says_what_the_parser_wants() -> None:
    schema = event_json_schema()
    assert set(schema["discriminator"]["mapping"]) == {e.type for e in good_events(1, 1000)}
    for name in ("ImpressionEvent", "EngagementEvent", "ItemEvent", "UserEvent", "ForgetEvent"):
        assert {"type", "event_id", "event_time"} <= set(schema["$defs"][name]["required"])
    assert schema["$defs"]["ItemEvent"]["properties"]["attributes"]["maxProperties"] == 64
