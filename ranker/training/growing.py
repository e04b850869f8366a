"""Growing boosters: what is asked of the ground they grow on, and the plainest, this process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from ranker.scoring.model import Objective
from ranker.training.rows import TrainingRows


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the boosters of a head learn from."""

    rows: TrainingRows
    action: str
    objective: Objective
    stop_on: TrainingRows | None = None
    """Rows whose metric may end the growth."""


@dataclass(frozen=True, slots=True)
class Grown:
    """One booster."""

    text: str
    trees: int
    gain: Floats
    """[column]: what its splits gained."""


class Grow(Protocol):
    """Grows one booster of a lesson.

    With `patience` it has as many trees as its metric on the rows to stop on gains by, after so
    many without a gain, or all; without, all. `progress` hears of trees, not of each.
    """

    def __call__(
        self,
        parameters: Mapping[str, Any],
        trees: int,
        patience: int | None,
        progress: Callable[[int], None],
    ) -> Grown: ...


class Ground(Protocol):
    """Where boosters grow.

    `lay` is called for each lesson; what it yields, for each booster that learns from it, one after
    another. One lesson at a time is laid.
    """

    @property
    def workers(self) -> int:
        """How many the rows are dealt out to."""

    def refuse(self, parameters: Mapping[str, Any]) -> None:
        """Raises BadInput when LightGBM's parameters ask for what this ground cannot do."""

    def lay(self, lesson: Lesson) -> AbstractContextManager[Grow]:
        """Put the rows where boosters grow, until the context ends."""


class Here:
    """This process."""

    workers = 1

    def refuse(self, parameters: Mapping[str, Any]) -> None:
        pass

    @contextmanager
    def lay(self, lesson: Lesson) -> Iterator[Grow]:
        data = _dataset(lesson.rows, lesson)
        stop_on = None if lesson.stop_on is None else _dataset(lesson.stop_on, lesson, data)

        def grow(
            parameters: Mapping[str, Any],
            trees: int,
            patience: int | None,
            progress: Callable[[int], None],
        ) -> Grown:
            callbacks: list[Any] = [lambda env: progress(env.iteration + 1)]
            held = None
            if patience is not None and stop_on is not None:
                callbacks.append(lightgbm.early_stopping(patience, verbose=False))
                held = [stop_on]
            booster = lightgbm.train(dict(parameters), data, trees, held, callbacks=callbacks)
            return grown(booster, booster.best_iteration if held else trees)

        yield grow


def grown(booster: lightgbm.Booster, trees: int) -> Grown:
    """A booster's first trees."""
    gain = booster.feature_importance("gain", iteration=trees)
    return Grown(booster.model_to_string(num_iteration=trees), trees, np.asarray(gain, np.float64))


def request_sizes(request: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows each request has, in their order."""
    if not len(request):
        return np.zeros(0, np.int64)
    begins = np.flatnonzero(np.concatenate([[True], np.diff(request) != 0]))
    return np.diff(np.append(begins, len(request)))


def _dataset(rows: TrainingRows, lesson: Lesson, reference: Any = None) -> lightgbm.Dataset:
    """The rows as LightGBM takes them: binned, a byte a value, whatever they take on disk."""
    return lightgbm.Dataset(
        rows.matrix,
        rows.labels[lesson.action],
        weight=rows.weight,
        group=request_sizes(rows.request) if lesson.objective == "lambdarank" else None,
        feature_name=list(rows.columns),
        reference=reference,
        free_raw_data=False,
    )
