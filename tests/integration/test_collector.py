"""The collector's own binary over guarded ports: what it would send to CloudWatch.

Needs `HEADRACE_TEST_COLLECTOR`, a collector with the components that the configuration names: AWS's
distribution or a build of the same modules.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.aws.alarms import NAMESPACE, OURS, WATCHED, Share
from deploy.aws.collector import HEALTH_PORT, TOKENS, config
from deploy.aws.settings import StackSettings
from deploy.ports import HOST, free_port
from ranker.metrics import Observer as RankerObserver
from ranker.request import Freshness, RankResponse
from streaming.health import serve_health
from streaming.metrics import Observer
from streaming.settings import StreamingSettings
from tests.collecting import Told, metric_of
from tests.secured import Certificates
from tests.waiting import until

COLLECTOR = os.environ.get("HEADRACE_TEST_COLLECTOR", "")
pytestmark = pytest.mark.skipif(
    not COLLECTOR, reason="HEADRACE_TEST_COLLECTOR names the binary of a collector"
)
TOKEN = "opensesame"  # pragma: allowlist secret
FRESH = Freshness(user_updated_at=None, user_age_ms=None, item_staleness_ms=0.0)


class Ranker(Observer):
    """A ranker's metrics on a worker's port."""

    def __init__(self) -> None:
        super().__init__("ranker")
        self.ranker = RankerObserver()

    def exposition(self) -> bytes:
        return self.ranker.text()

    def answer(self, took_ms: float, times: int) -> None:
        for _ in range(times):
            self.ranker.answered(
                RankResponse(
                    request_id="r", now=0, items=[], model="m", freshness=FRESH,
                    next_cursor=None, degraded=[], took_ms=took_ms,
                )
            )  # fmt: skip


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[dict[int, Observer]]:
    """Two rankers and a route by their ports, guarded by TLS and a token."""
    route = Observer("route")
    route.expect("accepted", "repeated", "dead")
    files = Certificates.made(tmp_path / "certificates")
    stops, made = [], {}
    for observer in (Ranker(), Ranker(), route):
        settings = StreamingSettings(
            metrics_port=(port := free_port()),
            admin_tokens=TOKEN,
            tls_cert_file=files.certificate,
            tls_key_file=files.key,
        )
        stops.append(serve_health(observer, settings, lambda: True))
        made[port] = observer
    yield made
    for stop in stops:
        stop()


def written(folder: Path, ports: list[int]) -> Path:
    """The stack's configuration, with pods that are named here and events told to a file."""
    closed = StackSettings(ports_tls=True, ports_tokens="headrace-tokens")
    made = config(closed, "/headrace/metrics")
    (scrape,) = made["receivers"]["prometheus"]["config"]["scrape_configs"]
    del scrape["kubernetes_sd_configs"]
    scrape["scrape_interval"] = scrape["scrape_timeout"] = "1s"
    scrape["static_configs"] = [
        {
            "targets": [f"{HOST}:{port}"],
            "labels": {
                "__meta_kubernetes_pod_container_port_name": "metrics",
                "__meta_kubernetes_pod_phase": "Running",
                "__meta_kubernetes_pod_name": f"pod-{number}",
            },
        }
        for number, port in enumerate(ports)
    ]
    (folder / "token").write_text(TOKEN)
    made["exporters"]["awsemf"]["output_destination"] = "stdout"
    text = json.dumps(made).replace(TOKENS, str(folder))
    file = folder / "collector.yaml"
    file.write_text(text.replace(f"0.0.0.0:{HEALTH_PORT}", f"{HOST}:{free_port()}"))
    return file


def sums(log: Path) -> dict[Told, float]:
    """The sum of each metric's values, as CloudWatch takes them from the events."""
    added: dict[Told, float] = {}
    for event in events(log):
        for directive in event["_aws"]["CloudWatchMetrics"]:
            assert directive["Namespace"] == NAMESPACE
            for metric in directive["Metrics"]:
                for dimensions in directive["Dimensions"]:
                    key = metric["Name"], frozenset((d, event[d]) for d in dimensions)
                    added[key] = added.get(key, 0.0) + event[metric["Name"]]
    return added


def events(log: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    assert all("_aws" in event for event in found), "an event that is no metric costs, and is none"
    return found


def test_events_are_the_metrics_of_the_alarms_and_add_up_over_pods(
    pods: dict[int, Observer], tmp_path: Path
) -> None:
    first, second, route = pods.values()
    assert isinstance(first, Ranker)
    assert isinstance(second, Ranker)
    told = {metric_of(one) for one in WATCHED}
    known = {one for one in told if ("process", "aggregate") not in one[1]}
    first.answer(10.0, 1000)  # before the first scrape: nobody saw them come
    log = tmp_path / "events"
    with log.open("w") as out, (tmp_path / "log").open("w") as err:
        child = subprocess.Popen(
            [COLLECTOR, f"--config={written(tmp_path, list(pods))}"],
            env={"PATH": "/usr/bin:/bin", "POD_NAME": "collector-0", "AWS_ACCESS_KEY_ID": "none",
                 "AWS_SECRET_ACCESS_KEY": "none"},  # pragma: allowlist secret
            stdout=out, stderr=err,
        )  # fmt: skip
        try:
            until(lambda: len(sums(log)) > 8, 60, "for the first events", 0.2)
            first.answer(10.0, 60)
            second.answer(400.0, 40)
            second.ranker.declined("failed")
            second.ranker.declined("refused")
            route.add(Counter(accepted=90, dead=10, blocks=5))
            route.lag(0, 70)
            route.lag(1, 60)
            route.stopped(1, "a fault")
            wanted = {"RankerSlow": 0.4, "RankerFails": 1 / 101, "DeadLetters": 0.1}
            until(lambda: shares(log).items() >= wanted.items(), 30, f"for {wanted}", 0.2)
            until(lambda: watched(log) == known, 30, "for every metric", 0.2)
        finally:
            child.terminate()
            child.wait(20)
    assert "Duplicate metric" not in (tmp_path / "log").read_text()


def watched(log: Path) -> set[Told]:
    return set(sums(log))


def shares(log: Path) -> dict[str, float]:
    added = sums(log)
    found = {}
    for alarm in OURS:
        if isinstance(alarm, Share):
            bad, every = (
                sum(added.get(metric_of(one), 0.0) for one in part)
                for part in (alarm.bad, alarm.every)
            )
            found[alarm.name] = bad / every if every else 0.0
    return found
