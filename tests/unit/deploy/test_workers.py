"""What the processes must have in place before they import Feast."""

import subprocess
import sys
from pathlib import Path

import pytest

STARTED = """
from deploy.commands import workers
from features.errors import Refused

try:
    workers.{worker}()
except Refused:
    import feast
    from prometheus_client import values

    print(feast.__name__, values.ValueClass.__name__)
"""


@pytest.mark.parametrize("worker", ["route", "ranker"])
def test_metrics_stay_in_memory_although_feast_would_keep_them_in_files(
    worker: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STARTED.format(worker=worker)],
        env={"HEADRACE_REPO": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["feast", "MutexValue"], done.stderr
