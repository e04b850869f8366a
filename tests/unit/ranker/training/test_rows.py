"""Training rows: one per shown item, by the code that serves."""

import numpy as np
import pytest

from features.as_of import Reader
from ranker.training.rows import RowMaker
from tests.browsing import browsing
from tests.serving import SERVED_PLAN, folded, replayed

SERVICE = "feed"


def test_rows_stand_together_by_request_with_a_label_per_action() -> None:
    world = folded(browsing(20))
    maker = RowMaker(SERVED_PLAN, SERVICE, world.tables, ["click", "like"])
    maker.add(1_500, "u1", "home", ["i1", "i2"], [{"click", "hide"}, set()])
    maker.add(1_600, "stranger", "home", ["ghost"], [["like"]])
    rows = maker.rows()
    assert rows.labels["click"].tolist() == [1, 0, 0]
    assert rows.labels["like"].tolist() == [0, 0, 1]
    assert rows.request.tolist() == [0, 0, 1]
    assert rows.now.tolist() == [1_500, 1_500, 1_600]
    assert rows.columns == Reader(SERVED_PLAN, SERVICE, world.tables).columns
    assert rows.matrix.shape == (3, len(rows.columns))


def test_a_part_keeps_rows_labels_and_requests_in_step() -> None:
    rows = replayed(browsing(50))
    late = rows.part(rows.now > 1_200)
    assert 0 < len(late) < len(rows)
    assert len(late.labels["click"]) == len(late.request) == len(late.now) == len(late)
    assert late.columns == rows.columns
    assert np.array_equal(late.matrix, rows.matrix[-len(late) :], equal_nan=True)


def test_no_request_makes_no_row() -> None:
    maker = RowMaker(SERVED_PLAN, SERVICE, folded([]).tables, ["click"])
    assert len(maker.rows()) == 0
    assert len(maker.rows().labels["click"]) == 0


@pytest.mark.parametrize("now", [0, 1_000, 10**12])
def test_empty_state_at_any_instant_gives_a_whole_row(now: int) -> None:
    maker = RowMaker(SERVED_PLAN, SERVICE, folded([]).tables, ["click"])
    matrix = maker.add(now, "u", "home", ["i"], [set()])
    assert not np.isinf(matrix).any()
