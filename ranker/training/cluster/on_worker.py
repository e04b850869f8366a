"""What runs on the workers: parts put together, signs of life, the rows to stop on."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from distributed import get_worker
from lightgbm.callback import CallbackEnv
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from ranker.training.growing import request_sizes

STDOUT = 1
TELL_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows as they travel: few enough for one message. A part is a worker's pieces in one."""

    matrix: Floats
    label: NDArray[np.int8]
    request: NDArray[np.int64]
    weight: Floats | None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The rows of each request."""
        return request_sizes(self.request)


def together(pieces: Sequence[Piece]) -> Piece:
    """Pieces as one."""
    weights = [piece.weight for piece in pieces if piece.weight is not None]
    return Piece(
        np.concatenate([piece.matrix for piece in pieces]),
        np.concatenate([piece.label for piece in pieces]),
        np.concatenate([piece.request for piece in pieces]),
        np.concatenate(weights) if weights else None,
    )


def quieten() -> None:
    """Keep what LightGBM prints of its ports from the terminal of who started this process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


class Telling:
    """A callback that tells the topic of the trees grown, now and then."""

    order = 20
    before_iteration = False

    def __init__(self, topic: str, booster: int) -> None:
        self._topic, self._booster, self._told = topic, booster, float("-inf")

    def __call__(self, env: CallbackEnv) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            said = {"booster": self._booster, "tree": env.iteration + 1}
            get_worker().log_event(self._topic, said)


class StopRows:
    """A callback that puts the rows to stop on beside those that are learnt from.

    Every worker has them all. Its booster is the same as every other's, so all find the same
    metric and stop at the same tree. From parts of them each would find another, and those that
    stop late would wait for the others for ever.
    """

    order = 0
    before_iteration = True

    def __init__(self, part_of: Mapping[str, str], grouped: bool) -> None:
        """`part_of`: worker → where it stores its copy."""
        self._part_of, self._grouped = dict(part_of), grouped

    def __call__(self, env: CallbackEnv) -> None:
        if env.iteration != env.begin_iteration:
            return
        worker = get_worker()
        part = cast(Piece, worker.data[self._part_of[worker.address]])
        booster = cast(Any, env.model)
        held = booster.train_set.create_valid(
            part.matrix,
            part.label,
            weight=part.weight,
            group=part.sizes if self._grouped else None,
            params=booster.train_set.get_params(),
        )
        booster.add_valid(held, "stop_on")
