"""Whatever the order, the batches and the repeats of events, rows end up as the same bytes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from features.events import Event
from features.row_store import MemoryRows
from tests.pipeline import blocks_by_target, final_rows, fold_logs, routed, unmarked
from tests.plans import PLAN
from tests.strategies import histories


@given(
    histories(),
    st.randoms(use_true_random=False),
    st.integers(1, 50),
    st.integers(1, 9),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=30),
)
def test_any_order_any_batches_and_any_repeats_within_the_horizon_give_the_same_rows(
    events: list[Event], rng: random.Random, polled: int, folded: int, repeats: list[float]
) -> None:
    expected = final_rows(events, PLAN)
    again = [events[int(place * len(events))] for place in repeats] if events else []
    arrived = [*events, *again]
    rng.shuffle(arrived)
    store = MemoryRows()
    fold_logs(blocks_by_target(routed(arrived, PLAN, batch=polled)), PLAN, store, batch=folded)
    assert unmarked(store.rows) == expected
