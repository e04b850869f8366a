"""Reads that stand are the reads of the rows as they are, to the bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.as_of import Reader
from features.as_of_kernels import CountProgram
from features.entities import EntityTable
from features.events import Event
from features.sparse_counts import SparseActivity
from features.standing import StandingReads
from features.strings import Strings
from features.tables import ReadTable
from ranker.tables.refresh import LiveRows
from tests.plans import PLAN
from tests.strategies import histories
from tests.unit.features.test_sparse_counts import MOMENTS, hashes

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), MOMENTS),
        st.tuples(st.just("soon"), st.integers(-3, 12)),
        st.tuples(st.just("put"), st.integers(0, 40)),
        st.tuples(st.just("end"), st.integers(0, 40)),
    ),
    min_size=1,
    max_size=20,
)


@given(histories(), histories(), STEPS, st.sampled_from([1, 4, 1024]))
def test_what_stands_is_what_would_be_read(
    first: list[Event], second: list[Event], steps: list[tuple[str, int]], slots: int
) -> None:
    """Rows are replaced and taken away between reads, and share few slots."""
    before, after = hashes(first), hashes(second)
    live = LiveRows(PLAN)
    live.put(list(before), list(before.values()))
    table = live.tables["item_id"]
    others = {e.join_key: EntityTable(PLAN, e, Strings()) for e in PLAN.entities}
    reader = Reader(PLAN, "feed", others | {"item_id": table})
    keys, now = sorted(before | after), 100
    programs = {
        name: program
        for name, (_, program) in reader._counts.items()  # noqa: SLF001
        if isinstance(table.tables.get(name), SparseActivity)
    }
    standing = {name: _standing(table.tables[name], p, slots) for name, p in programs.items()}
    for step, amount in steps:
        if step in ("put", "end"):
            key = keys[amount % len(keys)] if keys else None
            if key is not None:
                live.put([key], [after.get(key, {}) if step == "put" else {}])
            continue
        now = amount if step == "read" else now + amount
        rows = np.append(np.tile(np.arange(len(table)), 2), [-1, -1])
        for name, program in programs.items():
            ours, theirs = np.empty((2, len(rows), len(program.op)))
            standing[name].read(rows, now, ours)
            _packed(table.tables[name]).read(program, rows, now, theirs)
            assert ours.tobytes() == theirs.tobytes()


def _standing(table: ReadTable, program: CountProgram, slots: int) -> StandingReads:
    return StandingReads(_packed(table), program, slots)


def _packed(table: ReadTable) -> SparseActivity:
    assert isinstance(table, SparseActivity)
    return table
