"""Rows on the workers of a cluster: dealt out request by request, in pieces."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import dask.array
import numpy as np
from dask.delayed import delayed
from distributed import Future, wait
from numpy.typing import NDArray

from features.errors import BadInput
from ranker.training.cluster.on_worker import Piece, together
from ranker.training.cluster.watch import Session
from ranker.training.growing import Lesson
from ranker.training.rows import TrainingRows

PIECE_BYTES = 32 << 20
PART_ROWS_MIN = 2
"""Of fewer LightGBM makes no data set."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A lesson on the workers. The rows stay there as long as this is held."""

    matrix: Any
    label: Any
    weight: Any
    sizes: Any
    """[request]: its rows. These four are arrays of Dask, with a chunk for each worker."""
    stop_on: dict[str, str] | None
    """Worker → where it stores its copy of the rows to stop on."""
    _kept: "list[Future[Any]]" = field(default_factory=list)


def place(session: Session, lesson: Lesson) -> Placed:
    """Put a lesson's rows on the workers, each its share. BadInput when there are too few."""
    rows, workers = lesson.rows, session.workers
    owner = dealt(rows.request, len(workers))
    counts = np.bincount(owner, minlength=len(workers))
    if counts.min() < PART_ROWS_MIN:
        raise BadInput(
            f"{len(rows)} rows of {len(np.unique(rows.request))} requests cannot be dealt out to "
            f"{len(workers)} workers, {PART_ROWS_MIN} rows or more to each: take fewer workers"
        )
    held: list[list[Future[Any]]] = [[] for _ in workers]
    for number, piece in pieces(rows, lesson.action, owner, len(workers)):
        held[number].append(_sent(session, piece, [workers[number]]))
    parts = [_part(session, some, worker) for some, worker in zip(held, workers, strict=True)]
    copies: list[Future[Any]] = []
    if lesson.stop_on is not None:
        stop_on = lesson.stop_on
        everyone = np.zeros(len(stop_on), np.int64)
        shared = [
            _sent(session, piece, list(workers))
            for _, piece in pieces(stop_on, lesson.action, everyone, 1)
        ]
        copies = [_part(session, shared, worker) for worker in workers]
    column = partial(_column, session, parts)
    requests = [len(np.unique(rows.request[owner == number])) for number in range(len(workers))]
    return Placed(
        column("matrix", counts, rows.matrix.dtype, rows.matrix.shape[1:]),
        column("label", counts, np.dtype(np.int8)),
        None if rows.weight is None else column("weight", counts, rows.weight.dtype),
        column("sizes", requests, np.dtype(np.int64)) if lesson.objective == "lambdarank" else None,
        {w: str(c.key) for w, c in zip(workers, copies, strict=True)} if copies else None,
        [*parts, *copies],
    )


def dealt(request: NDArray[np.int64], workers: int) -> NDArray[np.int64]:
    """[row]: the worker it goes to. Requests go round in turn, so that every worker has rows of
    all times: LightGBM makes the bins of a column from the rows of one worker."""
    new = np.diff(request, prepend=request[:1]) != 0
    turn: NDArray[np.int64] = np.cumsum(new, dtype=np.int64) % workers
    return turn


def pieces(
    rows: TrainingRows,
    action: str,
    owner: NDArray[np.int64],
    owners: int,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[tuple[int, Piece]]:
    """Owner and piece, in order of time; no more than one of the owners' pieces is in memory."""
    row_bytes = max(1, rows.matrix.shape[1] * rows.matrix.itemsize)
    step = max(1, piece_bytes // row_bytes) * owners
    for start in range(0, len(rows), step):
        span = slice(start, start + step)
        for number in range(owners):
            some = np.flatnonzero(owner[span] == number) + start
            if len(some):
                weight = None if rows.weight is None else rows.weight[some]
                label = rows.labels[action][some]
                yield number, Piece(rows.matrix[some], label, rows.request[some], weight)


def _sent(session: Session, piece: Piece, workers: list[str]) -> "Future[Any]":
    future: Future[Any] = session.client.scatter(
        piece, workers=workers, broadcast=len(workers) > 1, hash=False
    )
    session.sign()
    return future


def _part(session: Session, some: "list[Future[Any]]", worker: str) -> "Future[Any]":
    part = session.client.submit(
        together, some, workers=[worker], allow_other_workers=False, pure=False
    )
    wait(part)
    session.sign()
    if part.status == "error":
        part.result()
    return part


def _column(
    session: Session,
    parts: "list[Future[Any]]",
    name: str,
    lengths: Any,
    dtype: Any,
    shape: tuple[int, ...] = (),
) -> Any:
    """A column of the parts as an array of Dask whose chunks are where the parts are."""
    chunks = []
    for part, length, worker in zip(parts, lengths, session.workers, strict=True):
        chunk = session.client.submit(
            attrgetter(name), part, workers=[worker], allow_other_workers=False, pure=False
        )
        chunks.append(dask.array.from_delayed(delayed(chunk), (int(length), *shape), dtype=dtype))
    return dask.array.concatenate(chunks)
