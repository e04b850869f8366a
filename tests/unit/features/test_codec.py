"""The bytes of Feast's layout, written by hand: those FEAST.md lists, and back again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.codec import (
    INT32_TYPE,
    INT64_TYPE,
    STRING_TYPE,
    VALUE_TYPES,
    FeatureValue,
    decode_int64,
    decode_time,
    decode_value,
    encode_int64,
    encode_time,
    encode_value,
    entity_id,
    entity_key,
    entity_prefix,
    field_name,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False)


@pytest.mark.parametrize(
    ("value_type", "identifier", "golden"),
    [
        (
            INT64_TYPE,
            "7",
            "010000000200000007000000757365725f69640400000008000000070000000000000070726f6a",
        ),
        (
            STRING_TYPE,
            "u7",
            "010000000200000007000000757365725f69640200000002000000753770726f6a",
        ),
    ],
)
def test_entity_keys_have_the_golden_bytes(value_type: int, identifier: str, golden: str) -> None:
    assert entity_key("user_id", value_type, identifier, "proj").hex() == golden


def test_a_field_name_has_the_golden_bytes() -> None:
    assert field_name("user_stats", "ctr").hex() == "1be1bc12"


@pytest.mark.parametrize(
    ("value", "dtype", "golden"),
    [
        (0.5, "Float32", "350000003f"),
        (0.5, "Float64", "29000000000000e03f"),
        (300, "Int64", "20ac02"),
        (-1, "Int64", "20" + 9 * "ff" + "01"),
        (3, "Int32", "1803"),
        ("ab", "String", "12026162"),
        (True, "Bool", "3801"),
        ([1.0, 2.0], "Array(Float32)", "82010a0a080000803f00000040"),
        ([1, 300], "Array(Int64)", "72050a0301ac02"),
        (["a", "b"], "Array(String)", "62060a01610a0162"),
        (0.0, "Float32", "3500000000"),
        (float("nan"), "Float64", ""),
        (None, "Int64", ""),
    ],
)
def test_values_have_the_golden_bytes(value: FeatureValue, dtype: str, golden: str) -> None:
    assert encode_value(value, dtype).hex() == golden


def test_a_time_has_the_golden_bytes_to_the_millisecond() -> None:
    # FEAST.md's is 2026-11-21T23:00:00.123456Z; our times are whole milliseconds.
    golden = bytes.fromhex("08f0c488d806108094ef3a")
    assert decode_time(golden) == 1_795_302_000_123
    assert decode_time(encode_time(1_795_302_000_123)) == 1_795_302_000_123
    assert encode_time(1_795_302_000_123)[:6] == golden[:6]


@given(st.integers(0, 9_223_372_036_854))
def test_a_time_comes_back(milliseconds: int) -> None:
    assert decode_time(encode_time(milliseconds)) == milliseconds


@given(st.integers(0, 2**63 - 1))
def test_a_count_comes_back_and_reads_like_any_value(number: int) -> None:
    encoded = encode_int64(number)
    assert decode_int64(encoded) == number
    assert encoded == encode_value(number, "Int64")


@given(
    st.one_of(
        st.tuples(st.just("Int64"), INT64),
        st.tuples(st.just("Int32"), st.integers(-(2**31), 2**31 - 1)),
        st.tuples(st.just("Float64"), FINITE),
        st.tuples(st.just("Float32"), st.floats(allow_nan=False, width=32)),
        st.tuples(st.just("Bool"), st.booleans()),
        st.tuples(st.just("String"), st.text()),
        st.tuples(st.just("Array(Int64)"), st.lists(INT64)),
        st.tuples(st.just("Array(String)"), st.lists(st.text())),
        st.tuples(st.just("Array(Float64)"), st.lists(FINITE, min_size=1)),
        st.tuples(
            st.just("Array(Float32)"), st.lists(st.floats(allow_nan=False, width=32), min_size=1)
        ),
    )
)
def test_a_value_comes_back(typed: tuple[str, FeatureValue]) -> None:
    dtype, value = typed
    assert decode_value(encode_value(value, dtype)) == value


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("many", "Int64"),
        ([1], "Int64"),
        (2**63, "Int64"),
        (2**31, "Int32"),
        (-(2**31) - 1, "Int32"),
        (float("inf"), "Int64"),
        (1e300, "Float32"),
        ("ab", "Array(String)"),
        (3, "Array(Int64)"),
        ([2**63], "Array(Int64)"),
        (["x"], "Array(Float32)"),
    ],
)
def test_what_does_not_fit_its_type_is_null(value: FeatureValue, dtype: str) -> None:
    assert encode_value(value, dtype) == b""


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ValueError, match=r"Map is not one of Bytes, String"):
        encode_value("x", "Map")
    assert "String" in VALUE_TYPES


@given(st.text(min_size=1), st.sampled_from(["p", "proj", "x-proj"]))
def test_an_id_comes_back_from_its_key(identifier: str, project: str) -> None:
    key = entity_key("item_id", STRING_TYPE, identifier, project)
    assert entity_id("item_id", key, project) == identifier
    assert key.startswith(entity_prefix("item_id"))


@pytest.mark.parametrize("identifier", ["0", "-5", "2147483647"])
def test_a_numeric_id_comes_back_from_its_key(identifier: str) -> None:
    for value_type in (INT32_TYPE, INT64_TYPE):
        key = entity_key("item_id", value_type, identifier, "p")
        assert entity_id("item_id", key, "p") == identifier


def test_keys_of_other_entities_and_projects_are_not_ours() -> None:
    key = entity_key("item_id", STRING_TYPE, "i1", "other_bench")
    assert entity_id("item_id", key, "bench") is None
    assert entity_id("user_id", key, "other_bench") is None
    assert entity_id("item_id", key[:12], "bench") is None


def test_an_empty_id_has_no_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        entity_key("item_id", STRING_TYPE, "", "p")
