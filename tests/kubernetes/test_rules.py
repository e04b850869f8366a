"""The metrics that scaling follows, as Prometheus computes them from rankers and route."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import objects, one, rendered
from tests.kubernetes.conftest import PRODUCTION

OF = 'app_kubernetes_io_instance="feed"'
BUSY = f'headrace_ranker_state{{{OF},kind="requests_busy",pod="%s"}}'
ACCEPTED = f'headrace_events_total{{{OF},process="route",kind="accepted"}}'
ANSWERED = f'headrace_rank_requests_total{{{OF},outcome="ok"}}'
BUCKET = f'headrace_rank_seconds_bucket{{{OF},le="%s"}}'


@pytest.fixture
def promtool() -> str:
    if (found := shutil.which("promtool")) is None:
        pytest.skip("promtool is not here: apt-get install prometheus")
    return found


def groups() -> dict[str, Any]:
    found = one(objects(rendered(PRODUCTION)), "PrometheusRule", "feed-scaling")
    return dict(found["spec"])


def told(metric: str, at: str, value: float) -> dict[str, Any]:
    sample = {"labels": f'{metric}{{release="feed"}}', "value": value}
    return {"expr": metric, "eval_time": at, "exp_samples": [sample]}


def test_prometheus_computes_what_scaling_follows(promtool: str, tmp_path: Path) -> None:
    """Three rankers; people act 12 times for an answer, and from the second hour on 6 times."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups()))
    series = {
        **{BUSY % pod: "2x300" for pod in "abc"},
        ACCEPTED: "0+720x120 86400+360x180",
        ANSWERED: "0+60x300",
        BUCKET % "0.01": "0+50x300",
        BUCKET % "0.05": "0+60x300",
        BUCKET % "+Inf": "0+60x300",
    }
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    told("headrace_ranker_in_flight", "90m", 6),
                    told("headrace_ranker_p99_ms", "90m", 47.6),
                    told("headrace_engagement", "90m", 12),
                    told("headrace_ranker_replicas_to_keep", "110m", 0),
                    told("headrace_engagement", "150m", 6),
                    told("headrace_ranker_replicas_to_keep", "150m", 3),
                    # Worse for longer than an hour is how it is: nothing to wait for.
                    told("headrace_ranker_replicas_to_keep", "250m", 0),
                ],
            },
            {
                "interval": "1m",
                "input_series": [{"series": BUSY % "a", "values": "0x90"}],
                "promql_expr_test": [
                    told("headrace_ranker_in_flight", "80m", 0),
                    told("headrace_ranker_p99_ms", "80m", 0),
                    told("headrace_ranker_replicas_to_keep", "80m", 0),
                ],
            },
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(
            [promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
