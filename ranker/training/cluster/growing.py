"""A cluster as the ground that boosters grow on."""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import lightgbm

from ranker.training.cluster.on_worker import StopRows, Telling
from ranker.training.cluster.parameters import DECIDED, refuse
from ranker.training.cluster.placing import Placed, place
from ranker.training.cluster.watch import Session
from ranker.training.growing import Grow, Grown, Lesson, grown

GAIN_MIN = 1e-10
"""Of a metric, to count: workers add up in different order, and must agree when they stop."""
LEFT_TO_PARAMETERS = (
    "boosting_type", "num_leaves", "max_depth", "learning_rate", "subsample_for_bin",
    "min_split_gain", "min_child_weight", "min_child_samples", "subsample", "subsample_freq",
    "colsample_bytree", "reg_alpha", "reg_lambda",
)  # fmt: skip
"""What the estimators would set to defaults of their own; None leaves LightGBM's."""
OF_ONE_MACHINE = {
    "tree_learner": "serial",
    "num_machines": "1",
    "local_listen_port": "12400",
    "time_out": "120",
    "machines": "",
}
"""Parameters that a model text of one machine has; addresses are nobody else's business."""


class ClusterGround:
    """The workers of a session."""

    def __init__(self, session: Session, time_out_minutes: int) -> None:
        self._session, self._time_out_minutes = session, time_out_minutes
        self._boosters = 0

    @property
    def workers(self) -> int:
        """How many the rows are dealt out to."""
        return len(self._session.workers)

    def refuse(self, parameters: Mapping[str, Any]) -> None:
        refuse(parameters)

    @contextmanager
    def lay(self, lesson: Lesson) -> Iterator[Grow]:
        placed = self._session.watched(
            "rows were sent to it", partial(place, self._session, lesson)
        )
        yield partial(self._grow, lesson, placed)

    def _grow(
        self,
        lesson: Lesson,
        placed: Placed,
        parameters: Mapping[str, Any],
        trees: int,
        patience: int | None,
        progress: Callable[[int], None],
    ) -> Grown:
        self._boosters += 1
        booster = self._boosters
        callbacks: list[Any] = [Telling(self._session.topic, booster)]
        if patience is not None and placed.stop_on is not None:
            callbacks.append(StopRows(placed.stop_on, lesson.objective == "lambdarank"))
            callbacks.append(lightgbm.early_stopping(patience, verbose=False, min_delta=GAIN_MIN))
        ranking = lesson.objective == "lambdarank"
        # A classifier would number the labels anew on each worker; this one takes them as they are.
        estimator = lightgbm.DaskLGBMRanker if ranking else lightgbm.DaskLGBMRegressor
        asked: dict[str, Any] = {
            **dict.fromkeys(LEFT_TO_PARAMETERS),
            **{name: value for name, value in parameters.items() if name not in DECIDED},
            "n_estimators": trees,
            "time_out": self._time_out_minutes,
        }
        model = estimator(client=self._session.client, **asked)
        given = {"group": placed.sizes} if ranking else {}
        fit = partial(
            model.fit,
            placed.matrix,
            placed.label,
            sample_weight=placed.weight,
            feature_name=list(lesson.rows.columns),
            callbacks=callbacks,
            **given,
        )
        told = 0

        def hear(said: dict[str, int]) -> None:
            nonlocal told
            if said["booster"] == booster and said["tree"] > told:
                told = said["tree"]
                progress(told)

        with _quiet():
            self._session.watched("boosters grew on it", fit, hear)
        length = model.best_iteration_ if placed.stop_on is not None and patience else trees
        one = grown(model.booster_, length)
        progress(length)
        return Grown(of_one_machine(one.text), one.trees, one.gain)


def of_one_machine(text: str) -> str:
    """A model text without what is of the cluster that it was trained on."""
    for name, value in OF_ONE_MACHINE.items():
        text = re.sub(rf"^\[{name}: .*\]$", f"[{name}: {value}]", text, flags=re.MULTILINE)
    return text


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that `lightgbm.dask` prints, and its warning of a parameter that every
    estimator has."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", "Parameter n_jobs will be ignored", UserWarning)
        yield
