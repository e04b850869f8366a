"""Packed counters give the bits of the dense ones, whatever was counted and whenever it is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.activity import ActivityTable
from features.as_of import Reader
from features.as_of_kernels import read_counts, window_sums
from features.byte_runs import ByteRuns
from features.codec import MARKER_FIELD
from features.entities import EntityTable, Hash
from features.errors import BadInput
from features.events import Event
from features.marker import Marker
from features.sparse_counts import SparseActivity
from features.strings import Strings
from ranker.tables.refresh import LiveRows
from tests.plans import ITEM, PLAN, World
from tests.stored import feed_events, writes_of
from tests.strategies import histories

MOMENTS = st.integers(min_value=-5, max_value=400)


def hashes(events: list[Event]) -> dict[bytes, Hash]:
    """Item rows as the store has them."""
    return {
        w.key: dict(zip(w.fields[::2], w.fields[1::2], strict=True))
        | {MARKER_FIELD: Marker(1, 0, 3).encode()}
        for w in writes_of(World().fold(events), 3, ["item_id"])
    }


@given(histories(), st.lists(MOMENTS, min_size=1, max_size=4))
def test_features_of_packed_rows_are_those_of_dense_rows_to_the_bit(
    events: list[Event], moments: list[int]
) -> None:
    stored = hashes(events)
    strings = Strings()
    dense = EntityTable(PLAN, ITEM, strings)
    dense.load([dense.row(key) for key in stored], list(stored.values()))
    live = LiveRows(PLAN)
    live.put(list(stored), list(stored.values()))
    packed = live.tables["item_id"]
    others = {e.join_key: EntityTable(PLAN, e, strings) for e in PLAN.entities}
    reader = Reader(PLAN, "feed", others | {"item_id": dense})
    ids = [dense.ids[row] or "" for row in range(len(dense))]
    rows, same = np.arange(len(ids)), packed.rows_of_ids(ids)
    for name, (places, program) in reader._counts.items():  # noqa: SLF001
        if name not in packed.tables:
            continue
        table, other = dense.tables[name], packed.tables[name]
        assert isinstance(table, ActivityTable)
        assert isinstance(other, SparseActivity)
        for now in moments:
            shape = 3 * len(ids) + 1, len(np.arange(len(reader.columns))[places])
            ours, theirs = np.empty(shape), np.empty(shape)
            other.read(program, np.append(np.tile(same, 3), -1), now, ours)
            read_counts(
                table.layout, table.arrays, program, np.append(np.tile(rows, 3), -1), now, theirs
            )
            assert ours.tobytes() == theirs.tobytes()
            for metric in range(len(table.metrics)):
                for ring, buckets in enumerate(table.layout.ring_buckets.tolist()):
                    wanted = (metric, ring, buckets, now)
                    dense_sums = window_sums(table.layout, table.arrays, rows, *wanted)
                    assert other.window_sums(same, *wanted).tolist() == dense_sums.tolist()


def test_a_row_that_is_no_pack_is_refused_and_what_stood_there_stays() -> None:
    ((key, content), *_) = hashes(list(feed_events(100))).items()
    live = LiveRows(PLAN)
    live.put([key], [content])
    table = live.tables["item_id"].tables["item_activity"]
    assert isinstance(table, SparseActivity)
    before = table.run(0)
    counts = table.fields.index("counts")
    for bad in (b"\x12\x01x", b"\x0a\x05\x01\x02", b"\x0a\x01\x09", b""):
        values: list[bytes | None] = [None] * len(table.fields)
        values[counts] = bad
        with pytest.raises(BadInput, match="not in Headrace's layout"):
            table.load(np.zeros(1, np.int64), np.array([99]), [values])
    assert table.run(0) == before


@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=60)), min_size=1, max_size=60))
def test_every_row_keeps_its_own_bytes_however_rows_grow_and_shrink(
    puts: list[tuple[int, bytes]],
) -> None:
    runs, expected = ByteRuns(), dict.fromkeys(range(13), b"")
    runs.reserve(13)
    for row, content in puts:
        fresh = np.frombuffer(content, np.uint8)
        runs.put(np.array([row]), fresh, np.array([len(content)]))
        expected[row] = content
        assert {row: runs.get(row) for row in range(13)} == expected


def test_bytes_that_rows_leave_are_used_again() -> None:
    runs = ByteRuns()
    runs.reserve(100)
    rows = np.arange(100)
    sizes = []
    for round_ in range(30):
        size = 16 + 16 * (round_ % 2)
        content = np.full(100 * size, round_, np.uint8)
        runs.put(rows, content, np.arange(1, 101) * size)
        sizes.append(runs.nbytes)
    assert sizes[-1] == sizes[1]
