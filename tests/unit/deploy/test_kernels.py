"""Kernels compiled ahead, and processes that cannot keep what they compile."""

import os
import subprocess
import sys
from pathlib import Path

ONE_KERNEL = """
import logging, numpy as np
logging.basicConfig(format="%(levelname)s %(message)s")
from features.value_kernels import count_varints, decode_fixed_lists
bytes_, ones = np.array([1, 0x81, 1], np.uint8), np.array([0, 1], np.int64)
out = np.zeros(2, np.int64)
count_varints(bytes_, ones, ones + 1, out)
decode_fixed_lists(bytes_, ones, ones + 1, np.zeros((2, 2), np.uint8))
print(out.tolist())
"""

SIGNATURES_OF_A_RANKER = """
import gc, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from deploy.kernels import compile_kernels
from ranker.stages.sources import TrendingSource
from tests.browsing import browsing
from tests.serving import Serving, folded, replayed, trained
from tests.town import Town

def signatures():
    return {
        (one.py_func.__module__, one.py_func.__name__, str(signature))
        for one in gc.get_objects() if isinstance(one, Dispatcher)
        if one.py_func.__module__.partition(".")[0] in ("features", "ranker", "streaming")
        for signature in one.signatures
    }

compile_kernels()
known = signatures()
assert len(known) > 10
events = browsing(80)
model = trained(Path(sys.argv[1]), replayed(events), "click", trees=3)
feed = Serving(folded(events), model).ask(user_id=events[-1].user_id, now=4_600)
assert feed.items and not feed.degraded and feed.model != "popularity"
town = Town(model=model, sources=[TrendingSource(500)])
town.feed(events)
for asked in ({"candidates": ["i1", "i2", "ghost"]}, {}):
    feed = town.rank(4_600, user_id=events[-1].user_id, **asked)
    assert feed.items and not feed.degraded and feed.model != "popularity"
for new in sorted(signatures() - known):
    print(*new)
"""


def run(script: str, kernels: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if kernels is not None:
        environment["NUMBA_CACHE_DIR"] = str(kernels)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, env=environment, text=True, capture_output=True, timeout=250, check=False
    )


def test_a_process_that_can_keep_no_kernel_runs_and_says_so_once(tmp_path: Path) -> None:
    barred = tmp_path / "a-file"
    barred.write_text("not a folder")
    done = run(ONE_KERNEL, barred / "kernels")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 1]\n"
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "cannot be kept" in warnings[0]
    assert "headrace compile" in warnings[0]


def test_kernels_that_are_there_are_used_where_nothing_can_be_written(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    assert run(ONE_KERNEL, kernels).returncode == 0
    before = sorted(kernels.rglob("*"))
    assert any(path.suffix == ".nbc" for path in before)
    # The file system refuses, even to root, what this process itself may not do.
    refusing = """
import builtins, os, pathlib
real = builtins.open
def barred(*_, **__): raise OSError(30, "Read-only file system")
def opened(file, mode="r", *more, **named):
    if set(mode) & set("wax+"): barred()
    return real(file, mode, *more, **named)
builtins.open, os.mkdir, os.replace = opened, barred, barred
"""
    done = run(refusing + ONE_KERNEL, kernels)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 1]\n"
    assert "cannot be kept" not in done.stderr  # for nothing was compiled
    assert sorted(kernels.rglob("*")) == before


def test_what_is_compiled_ahead_is_all_that_training_and_ranking_run(tmp_path: Path) -> None:
    done = run(SIGNATURES_OF_A_RANKER, None, str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
