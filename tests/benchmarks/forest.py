"""The forest kernel beside `Booster.predict(raw_score=True)` on one thread: 500 rows at a time.

With FULL=1 lleaves stands beside both, where it can be installed: it compiles for minutes.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ranker.scoring.forest import Forest
from tests.benchmarks.lleaves import lleaves_figures
from tests.benchmarks.report import Result, percentiles
from tests.benchmarks.timing import paired_ms

Floats = NDArray[np.float64]

TREES, LEAVES, COLUMNS = 300, 63, 60
ROWS_PER_REQUEST = 500
TRAINING_ROWS = 40_000


def run(full: bool) -> Result:
    matrix, label = feature_like_rows(TRAINING_ROWS)
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": LEAVES, "learning_rate": 0.05, "verbose": -1},
        lightgbm.Dataset(matrix, label),
        num_boost_round=TREES,
    )
    text = booster.model_to_string()
    forest = Forest.from_model_text(text)
    request = np.ascontiguousarray(matrix[:ROWS_PER_REQUEST])
    taken_ms = paired_ms(
        {
            "ours": lambda: forest.predict(request),
            "booster": lambda: booster.predict(request, raw_score=True, num_threads=1),
        },
        runs=2000 if full else 300,
    )
    ours, yardstick = (percentiles(taken_ms[name]) for name in ("ours", "booster"))
    checked = matrix if full else matrix[:10_000]
    expected = np.asarray(booster.predict(checked, raw_score=True), dtype=np.float64)
    mismatches = forest.predict(checked).view(np.int64) != expected.view(np.int64)
    compiled = lleaves_figures(text, request, expected[:ROWS_PER_REQUEST], 300) if full else {}
    ratio = {
        "booster": yardstick["p50_ms"] / ours["p50_ms"],
        "p99": yardstick["p99_ms"] / ours["p99_ms"],
    }
    if compiled:
        ratio["lleaves"] = compiled["lleaves_p50_ms"] / ours["p50_ms"]
    return Result(
        benchmark="forest",
        ours=ours | {"load_s": _load_s(text, request), "mismatches": float(mismatches.sum())},
        yardstick=yardstick | compiled,
        ratio=ratio,
    )


def feature_like_rows(rows: int) -> tuple[Floats, Floats]:
    """Columns as a ranker sees them (counts, rates, real numbers, gaps) and a learnable label."""
    random = np.random.default_rng(5)
    counts = random.poisson(3, (rows, 20)) * random.integers(1, 50, (rows, 20))
    rates = random.beta(2, 20, (rows, 15))
    reals = random.normal(size=(rows, COLUMNS - 35))
    matrix = np.hstack([counts, rates, reals])
    signal = ((matrix - matrix.mean(axis=0)) / matrix.std(axis=0)) @ random.normal(size=COLUMNS)
    signal += 4 * np.sin(3 * matrix[:, 40]) + random.normal(scale=4, size=rows)
    matrix[random.random(matrix.shape) < 0.08] = np.nan
    return matrix, (signal > 0).astype(np.float64)


def _load_s(text: str, request: Floats) -> float:
    """Seconds from a model file to the first scores, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.txt"
        path.write_text(text, encoding="utf-8")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as fresh:
            return fresh.submit(_time_load, path, request).result()


def _time_load(path: Path, request: Floats) -> float:
    begin = time.perf_counter()
    Forest.from_model_text(path.read_text(encoding="utf-8")).predict(request)
    return time.perf_counter() - begin
