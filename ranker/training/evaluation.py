"""How well scores order what people did. Labels are 0 or 1, scores finite, ties count half."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """The chance that a positive row scores above a negative one; nan without both labels."""
    labels, scores = _columns(label, score)
    return float(_auc_by_request(labels, scores, np.zeros(len(labels), dtype=np.int64))[0][0])


def request_gauc(label: ArrayLike, score: ArrayLike, request: ArrayLike) -> float:
    """AUC inside each request that has both labels, weighted by its rows; nan without such one.

    `request` [n] names the request of each row. What is constant in a request cannot move it.
    """
    labels, scores = _columns(label, score)
    by_request, rows = _auc_by_request(labels, scores, _numbered(request, len(labels)))
    both = ~np.isnan(by_request)
    return float(np.average(by_request[both], weights=rows[both])) if both.any() else float("nan")


def auc_by_request(
    label: ArrayLike, score: ArrayLike, request: ArrayLike
) -> tuple[Floats, Ints, Ints]:
    """AUC (nan without both labels), number of rows, and first row of each request."""
    labels, scores = _columns(label, score)
    requests = _numbered(request, len(labels))
    first = np.unique(requests, return_index=True)[1]
    return *_auc_by_request(labels, scores, requests), first.astype(np.int64)


def ndcg(label: ArrayLike, score: ArrayLike, request: ArrayLike, k: int) -> float:
    """Mean NDCG@k over the requests with a positive row; nan without such one.

    Tied rows share the mean of their discounts (McSherry and Najork, ECIR 2008), as scikit-learn
    does, so the order in which rows arrive does not count.
    """
    labels, scores = _columns(label, score)
    requests = _numbered(request, len(labels))
    best, reached = _dcg(labels, labels, requests, k), _dcg(labels, scores, requests, k)
    some = best > 0
    return float(np.mean(reached[some] / best[some])) if some.any() else float("nan")


def log_loss(label: ArrayLike, chance: ArrayLike) -> float:
    """Mean −log of the chance given to what happened; nan without rows, inf for a broken word."""
    labels, chances = np.asarray(label), np.asarray(chance, dtype=np.float64)
    if not len(labels):
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(-np.log(np.where(labels == 1, chances, 1 - chances)).mean())


def _auc_by_request(labels: Floats, scores: Floats, requests: Ints) -> tuple[Floats, Ints]:
    """AUC (nan without both labels) and number of rows of each request."""
    place, tie = _places(scores, requests)
    rank = (np.bincount(tie, place + 1) / np.bincount(tie))[tie]
    rows = np.bincount(requests)
    positives = np.bincount(requests, labels)
    pairs = positives * (rows - positives)
    won = np.bincount(requests, rank * labels) - positives * (positives + 1) / 2
    by_request = np.full(len(rows), np.nan)
    by_request[pairs > 0] = won[pairs > 0] / pairs[pairs > 0]
    return by_request, rows


def _dcg(labels: Floats, scores: Floats, requests: Ints, k: int) -> Floats:
    place, tie = _places(-scores, requests)
    discount = np.where(place < k, 1 / np.log2(place + 2), 0.0)
    shared = (np.bincount(tie, discount) / np.bincount(tie))[tie]
    return np.bincount(requests, labels * shared).astype(np.float64)


def _places(keys: Floats, requests: Ints) -> tuple[Ints, Ints]:
    """Each row's place in its request by rising key, from 0, and the number of its tie."""
    order = np.lexsort((keys, requests))
    sorted_requests, sorted_keys = requests[order], keys[order]
    begins = np.searchsorted(sorted_requests, sorted_requests)
    changes = (np.diff(sorted_requests) != 0) | (np.diff(sorted_keys) != 0)
    place, tie = np.empty_like(order), np.empty_like(order)
    place[order] = np.arange(len(order)) - begins
    tie[order] = np.concatenate([[0], np.cumsum(changes)])
    return place, tie


def _columns(label: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    labels, scores = np.asarray(label, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape or len(labels) == 0:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be equal columns")
    if not np.all((labels == 0) | (labels == 1)):
        raise ValueError("labels must be 0 or 1")
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores must be finite")
    return labels, scores


def _numbered(request: ArrayLike, rows: int) -> Ints:
    requests = np.asarray(request)
    if requests.shape != (rows,):
        raise ValueError(f"requests {requests.shape} must name the request of each of {rows} rows")
    return np.unique(requests, return_inverse=True)[1].astype(np.int64)
