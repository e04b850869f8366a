"""What fresh features are worth: the same model, trained and judged on rows that are late.

The rows of `quality_kuairand`, read from state as it was nothing, a minute, an hour or a day before
each request, as if the stream lagged so far behind; `now` stays the request's own. The yardstick is
our own model a day late, as a store that is filled once a day would feed it.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranker.training.boosting import Fitting, fit, raw_scores
from ranker.training.evaluation import auc, request_gauc
from tests.benchmarks.kuairand_rows import JudgedRows, declared_plan, rows_of
from tests.benchmarks.quality_kuairand import FITTING, SEEDS
from tests.benchmarks.report import Result, drawn

MINUTE_MS = 60_000
DELAYS_MS = {"0s": 0, "1m": MINUTE_MS, "1h": 60 * MINUTE_MS, "1d": 24 * 60 * MINUTE_MS}
LATEST = "1d"


def run(full: bool) -> Result:
    plan = declared_plan()
    fitting = FITTING if full else replace(FITTING, average=1)
    found = {name: figures(rows_of(plan, ms), fitting) for name, ms in DELAYS_MS.items()}
    _draw(found)
    ours = {
        f"click_{figure}_{name}{suffix}": value
        for name, figures_ in found.items()
        for figure, each in figures_.items()
        for suffix, value in (("", float(np.mean(each))), ("_spread", float(np.ptp(each))))
    }
    theirs = {
        f"click_{figure}_{name}": ours[f"click_{figure}_{LATEST}"]
        for name in DELAYS_MS
        for figure in ("auc", "gauc")
    }
    ratio = {name: ours[name] / theirs[name] for name in theirs}
    return Result(benchmark="quality_delay", ours=ours, yardstick=theirs, ratio=ratio)


def figures(judged: JudgedRows, fitting: Fitting) -> dict[str, list[float]]:
    """AUC and request GAUC of clicks on the test rows, by seed."""
    early, late = judged.rows.part(~judged.test), judged.rows.part(judged.test)
    label = late.labels["click"]
    found: list[NDArray[np.float64]] = [
        raw_scores(fit(early, "click", "binary", replace(fitting, seed=seed)).text, late.matrix)
        for seed in SEEDS
    ]
    return {
        "auc": [auc(label, score) for score in found],
        "gauc": [request_gauc(label, score, late.request) for score in found],
    }


def _draw(found: dict[str, dict[str, list[float]]]) -> None:
    """The curve: each seed a point, their mean a line."""
    with drawn("quality_delay", panels=2) as axes:
        for axis, (figure, title) in zip(
            axes, (("auc", "click AUC"), ("gauc", "click request GAUC")), strict=True
        ):
            each = [found[name][figure] for name in DELAYS_MS]
            for place, values in enumerate(each):
                axis.plot([place] * len(values), values, ".", color="tab:gray")
            axis.plot(range(len(each)), [np.mean(values) for values in each], color="tab:blue")
            axis.set_xticks(range(len(each)), list(DELAYS_MS))
            axis.set_xlabel("features are late by")
            axis.set_title(title)
            axis.grid(visible=True, alpha=0.3)
