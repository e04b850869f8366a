"""Rows dealt out to workers: request by request, in pieces, none lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ranker.training.cluster.on_worker import together
from ranker.training.cluster.placing import dealt, pieces
from ranker.training.growing import request_sizes
from ranker.training.rows import TrainingRows

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=60)


def rows_of(sizes: list[int], weighted: bool = True) -> TrainingRows:
    request = np.repeat(np.arange(len(sizes)), sizes)
    count = len(request)
    matrix = np.arange(3.0 * count).reshape(count, 3)
    label = (np.arange(count) % 2).astype(np.int8)
    weight = np.arange(count, dtype=np.float64) + 0.5 if weighted else None
    return TrainingRows(("a", "b", "c"), matrix, {"click": label}, request, request * 10, weight)


@given(sizes, st.integers(1, 7))
def test_a_request_goes_to_one_worker_and_requests_go_round(sizes: list[int], workers: int) -> None:
    rows = rows_of(sizes)
    owner = dealt(rows.request, workers)
    for number in range(len(sizes)):
        assert set(owner[rows.request == number].tolist()) == {number % workers}


@given(sizes, st.integers(1, 4), st.booleans(), st.sampled_from([1, 100, 10_000]))
def test_pieces_are_small_and_together_they_are_the_rows(
    sizes: list[int], workers: int, weighted: bool, piece_bytes: int
) -> None:
    rows = rows_of(sizes, weighted)
    owner = dealt(rows.request, workers)
    made = list(pieces(rows, "click", owner, workers, piece_bytes))
    most = max(1, piece_bytes // 24) * workers
    assert all(0 < len(piece.matrix) <= most for _, piece in made)
    for number in set(owner.tolist()):
        own = rows.part(owner == number)
        part = together([piece for of, piece in made if of == number])
        np.testing.assert_array_equal(part.matrix, own.matrix)
        np.testing.assert_array_equal(part.label, own.labels["click"])
        np.testing.assert_array_equal(part.sizes, request_sizes(own.request))
        assert (part.weight is None) == (own.weight is None)
        if own.weight is not None:
            np.testing.assert_array_equal(part.weight, own.weight)
