"""The index of ids against a dict."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from features.id_index import IdIndex

IDS = st.text(min_size=1, max_size=12)


class Indexed(RuleBasedStateMachine):
    """Ids come and go; the numbers of rows that lost theirs are used again."""

    def __init__(self) -> None:
        super().__init__()
        self.index, self.expected = IdIndex(), dict[str, int]()
        self.free: list[int] = []

    @rule(ids=st.lists(IDS, max_size=40, unique=True))
    def add(self, ids: list[str]) -> None:
        fresh = [one for one in ids if one not in self.expected]
        rows: list[int] = []
        for _ in fresh:
            top = len(self.expected) + len(self.free) + len(rows)
            rows.append(self.free.pop() if self.free else top)
        self.index.add(rows, fresh)
        self.expected |= zip(fresh, rows, strict=True)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.expected)))
        row = self.expected.pop(gone)
        self.index.remove(row)
        self.free.append(row)

    @invariant()
    def every_id_is_found_and_no_other(self) -> None:
        asked = [*self.expected, "", "\x00nobody", *(f"{one}x" for one in self.expected)]
        rows = [self.expected.get(one, -1) for one in asked]
        assert self.index.rows(asked).tolist() == rows
        assert [self.index.text(row) for row in self.expected.values()] == list(self.expected)
        of_rows = np.array([*self.expected.values(), *self.free], np.int64)
        assert self.index.texts(of_rows) == [*self.expected, *("" for _ in self.free)]
        assert len(self.index) == len(self.expected)


TestIndexed = Indexed.TestCase
TestIndexed.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_many_ids_take_few_bytes_each() -> None:
    index, ids = IdIndex(), [str(7919 * i) for i in range(100_000)]
    for start in range(0, len(ids), 500):
        index.add(range(start, start + 500), ids[start : start + 500])
    assert index.rows(ids[::997]).tolist() == list(range(0, 100_000, 997))
    assert index.nbytes / len(ids) < 60
