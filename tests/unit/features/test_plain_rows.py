"""Rows of plain views: the same bytes whatever came in which order, split or twice."""

import random
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from features.codec import decode_value, entity_key, field_name
from features.entities import EntityTable, Hash
from features.errors import BadInput
from features.plain_reader import PlainEvent, PlainReader
from features.plain_state import PlainRow, unpack, windows_at
from features.plain_table import PlainTable
from features.row_store import MemoryRows
from features.spec import PlainView
from features.strings import Strings
from features.tables import StoredRow
from streaming.aggregate import Aggregator
from streaming.blocks import decode_block
from streaming.route import Router
from tests.drivers import (
    DAY,
    FARES,
    HOUR,
    MINUTE,
    START_MS,
    Row,
    Wanted,
    driver_plan,
    driver_rows,
    dumped,
    iso,
    newest,
    recounted,
    time_of,
)
from tests.pipeline import GENERATION, SETTINGS, records_of, unmarked

PLAN = driver_plan()
READER = PlainReader(PLAN)
TIMES = st.integers(0, 2 * DAY) | st.sampled_from(
    [0, MINUTE - 1, MINUTE, HOUR - 1, HOUR, HOUR + 1, DAY - 1, DAY, DAY + 1]
)
MADE = st.builds(
    lambda driver, time, rest, created, fare, rate: {
        "driver_id": driver,
        "event_timestamp": iso((START_MS // DAY * DAY + time) * 1000 + rest),
        "created": None if created is None else iso((START_MS + created) * 1000),
        "city": "Wien",
        "fare": fare,
        "conv_rate": rate,
    },
    st.integers(1, 3),
    TIMES,
    st.sampled_from([0, 0, 1, 999]),
    st.none() | st.integers(0, 2),
    st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([None, 0.1, 0.2, 0.3]),
)
MANY = st.lists(MADE, max_size=25)


def _ends_as(rows: Sequence[Row], cuts: Sequence[int] = (), again: int = 0) -> dict[bytes, Hash]:
    """The rows of records, each piece routed and folded by workers that know nothing yet.

    Each piece begins `again` offsets before the last one ended, as a restarted route does.
    """
    store = MemoryRows()
    values = [dumped(row) for row in rows]
    logs: dict[int, list[bytes]] = {}
    for cut, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        start = max(0, cut - again)
        if start >= stop:
            continue
        router = Router(SETTINGS, GENERATION, f"from {start} to {stop}")
        router.own(0, start)
        for sent in router.step({0: records_of(values[start:stop], start)}, READER).outgoing:
            assert sent.partition is not None, sent
            logs.setdefault(sent.partition, []).append(sent.value)
        for partition, log in logs.items():
            aggregator = Aggregator(PLAN, store)
            at = aggregator.own(partition, GENERATION, 0)
            blocks = [(offset, decode_block(log[offset])) for offset in range(at, len(log))]
            if blocks:
                aggregator.step({partition: blocks})
                store.save_checkpoint(partition, aggregator.checkpoints()[partition])
    return unmarked(store.rows)


@settings(max_examples=60)
@given(MANY, st.randoms())
def test_any_order_gives_the_same_bytes(rows: list[Row], rng: random.Random) -> None:
    assert _ends_as(rng.sample(rows, len(rows))) == _ends_as(rows)


@settings(max_examples=60)
@given(MANY, st.lists(st.integers(0, 25), max_size=4), st.integers(0, 10))
def test_any_split_and_any_repeated_offsets_give_the_same_bytes(
    rows: list[Row], cuts: list[int], again: int
) -> None:
    inside = sorted({cut for cut in cuts if 0 < cut < len(rows)})
    assert _ends_as(rows, inside, again) == _ends_as(rows)


def _fields(row: Hash, view: str, wanted: Sequence[Wanted]) -> dict[str, Any]:
    return {w.name: decode_value(row[field_name(view, w.name)]) for w in wanted}


@settings(max_examples=60)
@given(MANY)
def test_stored_windows_are_those_of_a_slow_recount(rows: list[Row]) -> None:
    kept = [row for row in rows if abs(row["fare"] or 0) < 1e300]
    found = _ends_as(kept)
    for driver in {row["driver_id"] for row in kept}:
        mine = [row for row in kept if row["driver_id"] == driver]
        row = found[entity_key("driver_id", 4, str(driver), PLAN.project)]
        now = time_of(newest(mine)) // 1000
        assert _fields(row, "driver_fares", FARES) == recounted(mine, FARES, now)


def test_the_state_read_as_of_any_time_is_the_recount_of_that_time() -> None:
    rows = driver_rows(9, 400, drivers=1)
    (found,) = [row for key, row in _ends_as(rows).items() if key[:4] == b"\x01\0\0\0"]
    view = next(view for view in PLAN.plain if view.name == "driver_fares")
    state = Value.FromString(found[field_name("driver_fares", "_state")]).bytes_val
    last = time_of(newest(rows)) // 1000
    for now in (last, last + MINUTE, last + HOUR, last + 2 * HOUR, last + 3 * DAY):
        assert windows_at(view, state, now) == recounted(rows, FARES, now)


def _fold(view: PlainView, rows: Sequence[Row], open_rows_max: int) -> list[StoredRow]:
    """The rows of one view, folded and encoded one record at a time."""
    table = PlainTable(view, open_rows_max)
    places: dict[bytes, int] = {}
    for row in rows:
        (event,) = READER.parse([dumped(row)])
        assert isinstance(event, PlainEvent)
        columns = READER.updates([(0, event)])
        chosen = np.flatnonzero(columns.view == PLAN.views.index(view))
        place = places.setdefault(columns.keys[columns.key[chosen[0]]], len(places))
        table.reserve(len(places))
        number = np.array([place])
        table.folding(columns, chosen, number)(0, 1)
        list(table.encoded(number))
    return list(table.encoded(np.arange(len(places))))


def test_rows_that_rest_packed_are_those_that_stay_open() -> None:
    rows = driver_rows(4, 300, drivers=12)
    for view in PLAN.plain:
        assert _fold(view, rows, 2) == _fold(view, rows, 1000)


def test_equal_times_are_decided_by_created_time_then_by_content() -> None:
    rows = [
        {"driver_id": 1, "event_timestamp": iso(10**15), "created": created, "conv_rate": rate}
        for created, rate in [(None, 9.0), (iso(5), 0.25), (iso(5), 0.5), (iso(4), 8.0)]
    ]
    name = field_name("driver_hourly_stats", "conv_rate")
    ends = [_ends_as(order) for order in permutations(rows)]
    assert {decode_value(row[name]) for end in ends for row in end.values()} in ({0.25}, {0.5})


def test_a_microsecond_decides_what_is_newest() -> None:
    rows = [
        {"driver_id": 1, "event_timestamp": iso(10**15 + rest), "conv_rate": rate}
        for rest, rate in [(0, 1.0), (2, 2.0), (1, 3.0)]
    ]
    (row,) = _ends_as(rows).values()
    assert decode_value(row[field_name("driver_hourly_stats", "conv_rate")]) == 2.0
    assert row[b"_ts:driver_hourly_stats"].endswith(b"\x10\xd0\x0f")  # 2,000 ns


def test_a_row_that_feast_wrote_counts_as_the_newest_so_far() -> None:
    entity = next(entity for entity in PLAN.entities if entity.join_key == "driver_id")
    (key, written), *_ = _ends_as(driver_rows(2, 1)).items()
    del written[field_name("driver_hourly_stats", "_state")]
    table = EntityTable(PLAN, entity, Strings())
    table.load([table.row(key)], [written])
    stored = next(iter(table.tables["driver_hourly_stats"].encoded(np.array([0]))))
    assert list(stored.values[:5]) == [
        written[field_name("driver_hourly_stats", name)]
        for name in ("acc_rate", "avg_daily_trips", "city", "conv_rate", "tags")
    ]


def test_a_changed_tile_begins_empty_and_the_others_stay() -> None:
    view = next(view for view in PLAN.plain if view.name == "driver_fares")
    row = PlainRow(view)
    row.fold(view, 10**15, -1, (), {"fare": 2})
    changed = view.tiles[0].model_copy(update={"extremes": not view.tiles[0].extremes})
    other = view.model_copy(update={"tiles": (changed, *view.tiles[1:])})
    again = unpack(other, row.pack(view), ())
    assert not again.tiles[0]
    assert [bucket.count for tile in again.tiles[1:] for bucket in tile.values()] == [1] * (
        len(view.tiles) - 1
    )


@pytest.mark.parametrize(
    ("state", "says"), [(b"\x09\x01\x01", "version 9"), (b"\x01" + bytes(16) + b"\x80", "damaged")]
)
def test_a_state_that_is_not_ours_is_refused(state: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        unpack(PLAN.plain[0], state, ())
