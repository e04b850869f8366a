import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score, roc_auc_score

from ranker.training.evaluation import auc, ndcg, request_gauc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Few distinct scores, so that ties are common.
rows = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 6), st.integers(0, 4)),
    min_size=1,
    max_size=60,
)
Rows = list[tuple[int, int, int]]


def columns(drawn: Rows) -> tuple[Ints, Floats, Ints]:
    label, score, request = (np.array(column) for column in zip(*drawn, strict=True))
    return label, score / 8, request


@given(rows)
def test_auc_is_that_of_scikit_learn(drawn: Rows) -> None:
    label, score, _ = columns(drawn)
    if len(set(label)) == 2:
        assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    else:
        assert np.isnan(auc(label, score))


@given(rows)
def test_request_gauc_weighs_the_auc_of_each_request_by_its_rows(drawn: Rows) -> None:
    label, score, request = columns(drawn)
    inside = [request == number for number in set(request)]
    both = [rows for rows in inside if len(set(label[rows])) == 2]
    if both:
        expected = np.average(
            [roc_auc_score(label[rows], score[rows]) for rows in both],
            weights=[rows.sum() for rows in both],
        )
        assert request_gauc(label, score, request) == pytest.approx(expected, abs=1e-12)
    else:
        assert np.isnan(request_gauc(label, score, request))


@given(rows, st.integers(1, 30))
def test_ndcg_is_the_mean_of_scikit_learns_over_requests_with_a_positive(
    drawn: Rows, k: int
) -> None:
    label, score, request = columns(drawn)
    inside = [request == number for number in set(request)]
    expected = [
        ndcg_score([label[rows]], [score[rows]], k=k) if rows.sum() > 1 else 1.0
        for rows in inside
        if label[rows].any()
    ]
    if expected:
        assert ndcg(label, score, request, k) == pytest.approx(np.mean(expected), abs=1e-12)
    else:
        assert np.isnan(ndcg(label, score, request, k))


@given(rows, st.lists(st.integers(-1000, 1000), min_size=5, max_size=5))
def test_what_is_constant_in_a_request_cannot_move_request_gauc(
    drawn: Rows, per_request: list[int]
) -> None:
    label, score, request = columns(drawn)
    moved = score + np.array(per_request)[request]
    assert request_gauc(label, moved, request) == pytest.approx(
        request_gauc(label, score, request), nan_ok=True
    )


def test_knowing_the_rate_of_a_request_alone_is_worth_nothing_in_it() -> None:
    random = np.random.default_rng(3)
    request = np.repeat(np.arange(500), 8)
    rate = np.repeat(random.random(500), 8)
    label = (random.random(4000) < rate).astype(int)
    assert auc(label, rate) > 0.8
    assert request_gauc(label, rate, request) == 0.5


def test_requests_may_be_named_by_text() -> None:
    label, score = [0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4]
    assert request_gauc(label, score, ["b", "b", "a", "a"]) == 0.5


@pytest.mark.parametrize(
    ("label", "score", "message"),
    [
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([0, 1], [0.1, float("nan")], "finite"),
        ([0, 1], [0.1], "equal columns"),
        ([], [], "equal columns"),
    ],
)
def test_columns_that_cannot_be_judged_are_refused(
    label: list[int], score: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        auc(label, score)
