"""KEDA's and the Prometheus operator's objects, against those operators' own schemas (by npm).

Wrong types and missing fields are found; fields that the operators do not know are not.
"""

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helm import CACHE, objects, rendered
from tests.kubernetes.conftest import PRODUCTION

HERE = Path(__file__).with_name("operators")
FOLDER = CACHE / "operators"
OPERATORS = ("keda.sh/", "monitoring.coreos.com/")


@pytest.fixture(scope="module", autouse=True)
def _schemas() -> None:
    """Fetched once, at the versions and hashes of the lock beside this file."""
    lock = "package-lock.json"
    if (FOLDER / "made").is_file() and (FOLDER / "made").read_text() == (HERE / lock).read_text():
        return
    if shutil.which("npm") is None:
        pytest.skip("npm is not here: apt-get install npm")
    shutil.copytree(HERE, FOLDER, dirs_exist_ok=True)
    command = ["npm", "ci", "--silent", "--no-fund", "--no-audit", "--ignore-scripts"]
    done = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=200, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"the operators' schemas cannot be fetched: {done.stderr.strip()[-200:]}")
    (FOLDER / "made").write_text((HERE / lock).read_text())


def findings(found: list[dict[str, Any]]) -> list[str]:
    """What the operators would refuse, a line each."""
    done = subprocess.run(
        ["node", "check.mjs"], cwd=FOLDER, input=json.dumps(found),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert bool(done.stdout) == bool(done.returncode)
    return done.stdout.splitlines()


def test_the_operators_take_what_is_rendered_and_refuse_what_is_wrong() -> None:
    found = [o for o in objects(rendered(PRODUCTION)) if o["apiVersion"].startswith(OPERATORS)]
    assert {one["kind"] for one in found} == {
        "ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule",
    }  # fmt: skip
    assert findings(found) == []
    broken = copy.deepcopy(found)
    for one in broken:
        if one["kind"] == "ScaledObject":
            one["spec"]["minReplicaCount"] = "two"
        if one["kind"] == "PodMonitor":
            del one["spec"]["selector"]
    assert sorted(line.split(":")[0] for line in findings(broken)) == [
        "PodMonitor feed", "ScaledObject feed-aggregate", "ScaledObject feed-route",
    ]  # fmt: skip
