"""The newest event wins, whatever the order, and its values read back as columns."""

import random

import mmh3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.codec import encode_value
from features.events import ItemEvent
from features.latest import LatestTable
from features.spec import LatestField, LatestView
from features.strings import NONE, Strings
from tests.plans import ITEM, World

VIEW = LatestView(
    name="v",
    entity=ITEM,
    event="item",
    fields=(
        LatestField(name="n", path="n", dtype="Int64"),
        LatestField(name="s", path="s", dtype="String"),
        LatestField(name="l", path="l", dtype="Array(String)"),
        LatestField(name="v", path="v", dtype="Array(Float32)"),
    ),
    event_field="event_hash",
)


def _payload(number: int) -> tuple[bytes, ...]:
    return (
        encode_value(number, "Int64"),
        encode_value(f"s{number}", "String"),
        encode_value([f"l{number}", "x"], "Array(String)"),
        encode_value([float(number), 0.5], "Array(Float32)"),
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 2**63 - 1)),
        min_size=1,
        unique_by=lambda e: e[1],
    ),
    st.randoms(use_true_random=False),
)
def test_the_newest_by_time_then_event_wins_in_any_order(
    events: list[tuple[int, int]], rng: random.Random
) -> None:
    table = LatestTable(VIEW, Strings())
    places = list(range(len(events)))
    rng.shuffle(places)
    for place in places + places[: len(places) // 2]:
        table.fold(0, *events[place], _payload(place))
    newest = max(range(len(events)), key=lambda place: events[place])
    expected = (*_payload(newest), encode_value(events[newest][1], "Int64"))
    assert table.encode(0) == expected
    assert table.newest[0] == events[newest][0]


def test_a_row_loads_as_it_was_encoded_and_still_knows_which_event_it_holds() -> None:
    first = LatestTable(VIEW, Strings())
    first.fold(3, 10, 500, _payload(1))
    second = LatestTable(VIEW, Strings())
    second.load(np.array([3]), np.array([10]), [first.encode(3)])
    assert second.encode(3) == first.encode(3)
    second.fold(3, 10, 499, _payload(2))
    assert second.encode(3) == first.encode(3)
    second.fold(3, 10, 501, _payload(2))
    assert second.encode(3) != first.encode(3)


def test_columns_hold_numbers_text_codes_and_vectors() -> None:
    strings = Strings()
    table = LatestTable(VIEW, strings)
    table.fold(1, 10, 1, _payload(7))
    assert table.column("n").number[1] == 7.0
    assert strings.text(int(table.column("s").code[1])) == "s7"
    assert strings.text(int(table.column("l").code[1])) == "l7"
    assert table.column("s").hash[1] == mmh3.hash("s7", signed=False)
    assert table.column("v").vector[1].tolist() == [7.0, 0.5]
    assert np.isnan(table.column("n").number[0])
    assert table.column("s").code[0] == table.column("s").hash[0] == NONE
    assert table.column("v").vector[0].tolist() == [0.0, 0.0]


def test_a_column_follows_the_row_when_a_newer_event_takes_a_value_away() -> None:
    table = LatestTable(VIEW, Strings())
    table.fold(0, 10, 1, _payload(7))
    assert table.column("n").number[0] == 7.0
    table.fold(0, 11, 1, (b"", b"", b"", b""))
    assert np.isnan(table.column("n").number[0])
    assert table.column("s").code[0] == table.column("l").hash[0] == NONE
    assert table.column("v").vector[0].tolist() == [0.0, 0.0]


def test_a_longer_vector_widens_the_column_of_all_rows() -> None:
    table = LatestTable(VIEW, Strings())
    table.fold(0, 10, 1, _payload(7))
    assert table.column("v").vector.shape[1] == 2
    longer = (*_payload(1)[:3], encode_value([1.0, 2.0, 3.0, 4.0], "Array(Float32)"))
    table.fold(1, 10, 2, longer)
    assert table.column("v").vector[0].tolist() == [7.0, 0.5, 0.0, 0.0]
    assert table.column("v").vector[1].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("field", ["n", "s", "l", "v"])
def test_a_column_covers_rows_that_were_reserved_after_it_was_read(field: str) -> None:
    table = LatestTable(VIEW, Strings(), rows=2)
    table.fold(0, 10, 1, _payload(7))
    table.column(field)
    table.reserve(500)
    column = table.column(field)
    assert max(len(column.number), len(column.code), len(column.vector)) >= 500


def test_an_item_event_without_an_embedding_keeps_the_one_before() -> None:
    world = World().fold(
        [
            ItemEvent(event_id="a", event_time=1, item_id="i", embedding=[1.0, 2.0]),
            ItemEvent(event_id="b", event_time=2, item_id="i", created_at=5),
        ]
    )
    items = world.tables["item_id"].tables
    assert items["item_embedding"].column("embedding").vector[0].tolist() == [1.0, 2.0]  # type: ignore[attr-defined]
    assert items["item_profile"].column("created_at").number[0] == 5.0  # type: ignore[attr-defined]
