"""The bootstrap: figures on draws are those of rows drawn, and intervals cover what they should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.training.evaluation import auc, request_gauc
from ranker.training.resampling import interval, lead, weighted_auc, weighted_gauc


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40
    ),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_a_weighted_figure_is_that_of_the_rows_repeated(
    rows: list[tuple[int, int, int]], times: list[int]
) -> None:
    label, score, request = (np.array(column) for column in zip(*rows, strict=True))
    owner = request // 2
    drawn = np.array(times[:2], np.float64)
    repeat = drawn[owner].astype(int)
    again = np.concatenate([np.arange(n) for n in repeat]) if len(repeat) else np.zeros(0, int)
    place = np.repeat(np.arange(len(rows)), repeat)
    found = (
        weighted_auc(label, score, owner)(drawn),
        weighted_gauc(label, score, request, owner)(drawn),
    )
    if not len(place):
        assert np.isnan(found).all()
        return
    expected = (
        auc(label[place], score[place]),
        # A request that is drawn twice is two requests.
        request_gauc(label[place], score[place], request[place] * 100 + again),
    )
    assert found == pytest.approx(expected, nan_ok=True)


def test_an_interval_covers_a_known_lead_and_shrinks_with_people() -> None:
    random = np.random.default_rng(7)
    widths = []
    for people in (200, 3200):
        owner = np.repeat(np.arange(people), 5)
        truth = random.normal(size=len(owner))
        label = (random.random(len(owner)) < 1 / (1 + np.exp(-truth))).astype(int)
        poor = truth + random.normal(size=len(owner))
        better = lead(weighted_auc(label, truth, owner), weighted_auc(label, poor, owner))
        found = interval(better, people, draws=200)
        assert found.low < found.value < found.high
        assert found.low > 0
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_a_model_has_no_lead_over_itself() -> None:
    random = np.random.default_rng(8)
    owner, label = np.arange(300) // 3, random.integers(0, 2, 300)
    figure = weighted_auc(label, random.normal(size=300), owner)
    found = interval(lead(figure, figure), 100, draws=50)
    assert (found.value, found.low, found.high) == (0, 0, 0)
