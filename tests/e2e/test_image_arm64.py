"""The image for arm64, emulated: `make image-arm64` builds it and names it in the environment.

What is emulated is a Neoverse-N1, the processor of Graviton2. Emulation shows whether what is
computed is right, and nothing of how fast it is.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.containers import run_once
from tests.pages import ROOT
from tests.processors import history
from tests.serving import replayed, trained

IMAGE = os.environ.get("HEADRACE_TEST_IMAGE_ARM64", "")
pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="no image is named: make image-arm64"),
    pytest.mark.timeout(3_600),
]
NOT_IN_IMAGE = "pytest hypothesis pluggy iniconfig sortedcontainers pytest-timeout"
FEATURES = (
    *("as_of", "codec", "exact", "fold", "id_index", "latest", "number_codes", "packs"),
    *("relations", "rows_round_trip", "sparse_counts", "standing", "value_kernels"),
)
TESTS = (
    *(f"tests/unit/features/test_{name}.py" for name in FEATURES),
    "tests/unit/ranker/scoring/test_forest.py",
    "tests/unit/ranker/stages/test_marginal_relevance.py",
)
"""Of kernels, codec and model: those that need no server and nothing beside the image."""


def emulated(*command: str, folders: Sequence[tuple[Path, str]] = ()) -> str:
    """What a Python of the image prints, with our tests beside it."""
    seen = [(ROOT / "tests", "/checks/tests"), (ROOT / "pyproject.toml", "/checks/pyproject.toml")]
    mounts = [f"--volume={here}:{there}:ro" for here, there in [*seen, *folders]]
    environment = {
        "PYTHONPATH": "/deps:/checks",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    }
    told = [f"--env={name}={value}" for name, value in environment.items()]
    options = [
        "--user=0:0",
        "--workdir=/checks",
        *mounts,
        *told,
    ]  # pytest's folders are their owner's
    return run_once(IMAGE, *command, entrypoint="python", options=options)


def test_it_makes_the_same_rows_features_and_scores_as_this_processor(
    valkey: str, tmp_path: Path
) -> None:
    """By every kernel there is: compiled ahead there, compiled anew here."""
    model = trained(tmp_path / "model", replayed(history()), "click", trees=20)
    here = subprocess.run(
        [sys.executable, "-m", "tests.processors", str(model), valkey],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    made = json.loads(here.stdout.splitlines()[-1])
    assert made["idle"] == []
    began = time.monotonic()
    said = emulated("-m", "tests.processors", "/model", valkey, folders=[(model, "/model")])
    there = json.loads(said.splitlines()[-1])
    print(f"\n{there['kernels']} kernels, emulated in {time.monotonic() - began:.0f} s:")
    for what, digest in there["digests"].items():
        print(f"  {digest} {what}")
    assert there["digests"] == made["digests"]
    assert there["kernels"] == made["kernels"]


def test_the_tests_of_kernels_codec_and_model_pass_there(tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--no-deps"),
        *("--python-platform", "aarch64-manylinux_2_28", "--python-version", "3.11"),
        *("--only-binary", ":all:", "--target", str(tmp_path)),
        *("--constraint", str(ROOT / "deploy" / "requirements" / "dev.txt")),
        *NOT_IN_IMAGE.split(),
    ]
    subprocess.run(command, check=True)
    began = time.monotonic()
    options = ("-q", "-p", "no:cacheprovider", "--timeout", "1800", "--durations", "5")
    said = emulated("-m", "pytest", *options, *TESTS, folders=[(tmp_path, "/deps")])
    print(f"\n{said.splitlines()[-1]} (emulated, {time.monotonic() - began:.0f} s in all)")
    assert " passed" in said.splitlines()[-1]
