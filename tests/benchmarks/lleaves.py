"""lleaves, a compiler of LightGBM models, as a yardstick of the forest.

Its newest release needs an older llvmlite than our numba does. So it is installed into an
environment of its own, which is gone afterwards, and a process there takes its times.
"""

import subprocess
import tempfile
import venv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.report import percentiles

Floats = NDArray[np.float64]

REQUIREMENTS = ("lleaves==1.3.0", "llvmlite<0.45", "numpy<3")
INSTALL_S, RUN_S = 300, 900
RUN = """
import sys, time
import lleaves, numpy as np

folder, runs = sys.argv[1], int(sys.argv[2])
began = time.perf_counter()
model = lleaves.Model(folder + "/model.txt")
model.compile(raw_score=True)
compile_s = time.perf_counter() - began
request = np.load(folder + "/request.npy")
taken_ms = []
for run in range(runs + 5):
    began = time.perf_counter()
    scores = model.predict(request, n_jobs=1)
    taken_ms.append(1000 * (time.perf_counter() - began))
np.savez(folder + "/found.npz", taken_ms=taken_ms[5:], compile_s=compile_s, scores=scores)
"""


def lleaves_figures(text: str, request: Floats, expected: Floats, runs: int) -> dict[str, float]:
    """Its times for the raw scores of `request` on one thread, and what the compiling takes.

    Nothing where it cannot be installed, which is told.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-lleaves-") as name:
        folder = Path(name)
        python = str(folder / "venv" / "bin" / "python")
        venv.create(folder / "venv", with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", *REQUIREMENTS]
        installed = subprocess.run(
            install, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
        if installed.returncode:
            why = (installed.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            print(f"lleaves is left out, it does not install here: {why}")
            return {}
        (folder / "model.txt").write_text(text, encoding="utf-8")
        np.save(folder / "request.npy", request)
        subprocess.run([python, "-c", RUN, name, str(runs)], timeout=RUN_S, check=True)
        with np.load(folder / "found.npz") as found:
            assert np.allclose(found["scores"], expected, rtol=0, atol=1e-9)
            times = {f"lleaves_{part}": ms for part, ms in percentiles(found["taken_ms"]).items()}
            return times | {"lleaves_compile_s": float(found["compile_s"])}
