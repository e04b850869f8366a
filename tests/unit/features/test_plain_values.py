"""JSON values as Feast values: the bytes of the stock SDK, and null where nothing fits."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from features.plain_values import TIME_US_MAX, encode_json, encode_time_us, microseconds

KINDS = {
    "String": ValueType.STRING,
    "Int32": ValueType.INT32,
    "Int64": ValueType.INT64,
    "Float32": ValueType.FLOAT,
    "Float64": ValueType.DOUBLE,
    "Bool": ValueType.BOOL,
    "Array(String)": ValueType.STRING_LIST,
    "Array(Int32)": ValueType.INT32_LIST,
    "Array(Int64)": ValueType.INT64_LIST,
    "Array(Float32)": ValueType.FLOAT_LIST,
    "Array(Float64)": ValueType.DOUBLE_LIST,
    "Array(Bool)": ValueType.BOOL_LIST,
}
FITTING = [
    *[("String", text) for text in ("a", "", "ä\n🚕")],
    *[("Int32", number) for number in (0, -1, 2**31 - 1, -(2**31))],
    *[("Int64", number) for number in (0, 300, -1, 2**63 - 1, -(2**63))],
    *[("Float32", number) for number in (0.0, 0.5, -1.25, 3)],
    *[("Float64", number) for number in (0.0, 0.1, -1e300, 3)],
    *[("Bool", value) for value in (True, False)],
    ("Array(String)", ["a", "", "bc"]),
    ("Array(Int32)", [1, -1]),
    ("Array(Int64)", [1, 300, -(2**63)]),
    ("Array(Float32)", [1.0, 2.5]),
    ("Array(Float64)", [0.1, 2.5]),
    ("Array(Bool)", [True, False]),
]


@pytest.mark.parametrize(("dtype", "value"), FITTING)
def test_a_value_has_the_bytes_that_stock_feast_gives_it(dtype: str, value: Any) -> None:
    (stock,) = python_values_to_proto_values([value], KINDS[dtype])
    assert encode_json(value, dtype) == stock.SerializeToString()


def test_bytes_come_as_base64_and_moments_as_times() -> None:
    (stock,) = python_values_to_proto_values([b"\x00\xff"], ValueType.BYTES)
    text = base64.b64encode(b"\x00\xff").decode()
    assert encode_json(text, "Bytes") == stock.SerializeToString()
    (listed,) = python_values_to_proto_values([[b"\x00\xff"]], ValueType.BYTES_LIST)
    assert encode_json([text], "Array(Bytes)") == listed.SerializeToString()
    moment = datetime(2022, 4, 24, 15, 5, 41, tzinfo=UTC)
    (stock,) = python_values_to_proto_values([moment], ValueType.UNIX_TIMESTAMP)
    assert encode_json("2022-04-24T15:05:41Z", "UnixTimestamp") == stock.SerializeToString()
    (listed,) = python_values_to_proto_values([[moment]], ValueType.UNIX_TIMESTAMP_LIST)
    assert encode_json([1_650_812_741], "Array(UnixTimestamp)") == listed.SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("Int32", 2**31),
        ("Int64", 2**63),
        ("Int64", 0.5),
        ("Int64", "3"),
        ("Int64", True),
        ("Float64", "0.5"),
        ("Float64", float("nan")),
        ("Float64", 10**400),
        ("Float32", 1e39),
        ("Bool", 1),
        ("Bool", "true"),
        ("Bytes", "not base64!"),
        ("Array(Int64)", 1),
        ("Array(Int64)", [1, None]),
        ("Array(Float32)", ["a"]),
        ("UnixTimestamp", "yesterday"),
    ],
)
def test_what_does_not_fit_its_type_is_null(dtype: str, value: Any) -> None:
    assert encode_json(value, dtype) == b""


def test_a_whole_number_is_an_integer_and_all_json_has_a_text() -> None:
    assert encode_json(3.0, "Int64") == encode_json(3, "Int64")
    assert encode_json({"a": [1, None]}, "String") == encode_json('{"a":[1,null]}', "String")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2022-04-24T15:05:41.123456+00:00", 1_650_812_741_123_456),
        ("2022-04-24T17:05:41.123456+02:00", 1_650_812_741_123_456),
        ("2022-04-24 15:05:41", 1_650_812_741_000_000),
        ("2022-04-24T15:05:41Z", 1_650_812_741_000_000),
        ("2022-04-24", 1_650_758_400_000_000),
        (1_650_812_741, 1_650_812_741_000_000),
        (1_650_812_741.5, 1_650_812_741_500_000),
        (1_650_812_741_436, 1_650_812_741_436_000),
        (1_650_812_741_436_001, 1_650_812_741_436_001),
        (1_650_812_741_436_001_999, 1_650_812_741_436_001),
        (0, 0),
    ],
)
def test_a_moment_is_read_by_its_form_and_size(value: Any, expected: int) -> None:
    assert microseconds(value) == expected


def test_a_unit_that_is_named_is_not_guessed() -> None:
    assert microseconds(5, "ms") == 5_000
    assert microseconds(5, "s") == 5_000_000
    assert microseconds(5_000, "ns") == 5


@pytest.mark.parametrize("unit", ["auto", "s", "ns"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        True,
        None,
        [],
        {},
        -1e9,
        float("inf"),
        float("nan"),
        10**400,
        1e308,
        "1969-12-31",
    ],
)
def test_what_is_no_moment_says_so(value: Any, unit: str) -> None:
    with pytest.raises(ValueError, match="not "):
        microseconds(value, unit)


@given(st.integers(0, TIME_US_MAX))
def test_a_stored_time_is_a_protobuf_timestamp(time_us: int) -> None:
    seconds, rest = divmod(time_us, 1_000_000)
    assert (
        encode_time_us(time_us) == Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString()
    )
