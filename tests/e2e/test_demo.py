"""The whole demo, as `make demo` runs it: it takes minutes, so only when it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import local

ROOT = Path(__file__).parents[2]
ASKED = os.environ.get("HEADRACE_TEST_DEMO") == "1"


@pytest.mark.skipif(not ASKED, reason="the whole demo takes minutes: HEADRACE_TEST_DEMO=1 runs it")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["repository", "elsewhere"])
def test_the_demo_streams_trains_ranks_and_clicks(where: str, tmp_path: Path) -> None:
    """Beside the real data if it is there; from elsewhere always with MovieLens-100K."""
    data, repo = tmp_path / "demo", ROOT / "feature_repo"
    command = [sys.executable, "-m", "deploy.cli", "demo", "--data", str(data)]
    done = subprocess.run(
        [*command, "--repo", str(repo)],
        cwd=ROOT if where == "repository" else tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "events/s" in said
    quality = {
        line.split("│")[1].strip(): float(line.split("│")[2])
        for line in said.splitlines()
        if line.count("│") == 4 and "0." in line.split("│")[2]
    }
    assert quality["Headrace"] > max(quality["newest first"], quality["popular, last day"])
    assert "ms from sending the click to Kafka until it changed the ranking" in said
    assert (data / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert local.status(data) == []
