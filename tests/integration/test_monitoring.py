"""Rules and dashboards over a real Prometheus that scrapes the real processes."""

import itertools
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.aws.alarms import WATCHED
from deploy.aws.collector import config
from deploy.aws.settings import StackSettings
from deploy.monitoring.__main__ import FOLDER
from deploy.monitoring.dashboards import queries
from deploy.monitoring.rules import rules
from deploy.ports import HOST, free_port
from deploy.probes import is_ready
from deploy.processes import Program, running
from tests.collecting import metric_of, samples, told
from tests.records import good_events
from tests.waiting import until
from tests.workers import Stream, stream

NO_PROMETHEUS = "monitoring is tested by a real Prometheus: apt-get install prometheus"
SELECTOR = re.compile(r"(headrace_[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)(=~?|!=)"([^"]*)"')
RARE = {("headrace_partition_stopped", "process")}
"""What a healthy system shows nothing of."""


class Watched:
    """A stream, a ranker, and a Prometheus over them."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        self.port = free_port()
        self._client = httpx.Client(base_url=f"http://{HOST}:{self.port}", trust_env=False)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(FOLDER / "headrace-rules.yaml")],
            "scrape_configs": [
                {
                    "job_name": f"headrace-{name}",
                    "static_configs": [{"targets": [f"{HOST}:{port}"]}],
                }
                for name, port in targets.items()
            ],
        }
        folder.mkdir()
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        binary = shutil.which("prometheus")
        assert binary is not None
        command = [
            *(binary, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"),
            f"--web.listen-address={HOST}:{self.port}",
        ]
        self.program = Program("prometheus", command, self.port, lambda _: self.answers())

    def answers(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body}"
        return body["data"]

    def value(self, query: str) -> list[float]:
        return [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]


@pytest.fixture
def workers(broker: str, empty_valkey: str, applied_repo: Path, tmp_path: Path) -> Iterator[Stream]:
    with stream(broker, empty_valkey, applied_repo, tmp_path / "logs", "watched") as made:
        yield made


@pytest.mark.timeout(400)
def test_every_query_finds_its_metrics_and_an_alert_fires_when_a_process_ends(
    workers: Stream, tmp_path: Path
) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip(NO_PROMETHEUS)
    http = free_port()
    environment = workers.environment() | {
        "HEADRACE_HTTP_PORT": str(http),
        "HEADRACE_GRPC_PORT": "0",
        "HEADRACE_RANKINGS_TOPIC": "watched-rankings",
    }
    command = [sys.executable, "-m", "deploy.cli", "ranker"]
    ranker = Program("ranker", command, http, is_ready, environment)
    workers.start("route", "aggregate")
    ports = {name: child.port for name, child in workers.alive.items()} | {"ranker": http}
    watched = Watched(tmp_path / "prometheus", ports)
    with running(watched.program, tmp_path / "prometheus.log"):
        with running(ranker, tmp_path / "ranker.log", 120):
            workers.send(good_events(3, 200))
            workers.send_values([(b"mia", b'{"type": "purchase"}')])
            workers.wait_until_folding(20)
            _rank(http)
            until(lambda: watched.value("sum(up)") == [3.0], 30, "for scrapes", 0.2)
            _rank(http)
            freshness, seeds = 'headrace:slo_bad:ratio_rate5m{slo="freshness"}', itertools.count(4)

            def compared() -> object:
                # A count that is there at the first scrape has not grown. How many are folded
                # before that one is the machine's business, so there is always more to be counted.
                workers.send(good_events(next(seeds), 20))
                return watched.value(freshness)

            until(compared, 60, "for a ratio", 0.5)
            _known(watched, [*queries(), *_expressions()])
            _sent_to_cloudwatch(ports.values())
            groups = watched.ask("rules")["groups"]
            assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
            assert watched.value('ALERTS{alertname="HeadraceProcessDown"}') == []
            dead = 'headrace_events_total{process="route",kind="dead"}'
            assert watched.value(dead) == [1.0]
        down = 'ALERTS{alertname="HeadraceProcessDown",job="headrace-ranker"}'
        until(lambda: watched.value(down), 30, "for the alert", 0.2)


def _rank(port: int) -> None:
    answer = httpx.post(f"http://{HOST}:{port}/v1/rank", json={"user_id": "u1"}, trust_env=False)
    assert answer.status_code == 200


def _sent_to_cloudwatch(ports: Iterable[int]) -> None:
    """What alarms of the AWS stack watch is shown from the start, but for a fault."""
    pages = [httpx.get(f"http://{HOST}:{port}/metrics", trust_env=False).text for port in ports]
    shown = [sample for page in pages for sample in samples(page)]
    sent = set(told(config(StackSettings(), "/headrace/metrics"), shown))
    missing = {metric_of(one) for one in WATCHED} - sent
    assert {metric for metric, _ in missing} == {"headrace_partition_stopped"}


def _expressions() -> list[str]:
    return [
        rule["expr"]
        for group in rules()["groups"]
        for rule in group["rules"]
        if not rule["expr"].startswith("headrace:")
    ]


def _known(watched: Watched, wanted: list[str]) -> None:
    """Each query can be asked, and each metric and label in it exists in the real processes."""
    series: dict[str, list[dict[str, str]]] = {}
    for one in watched.ask("series", **{"match[]": '{__name__=~"headrace_.+"}'}):
        series.setdefault(one["__name__"], []).append(one)
    told = set(watched.ask("metadata"))
    for query in wanted:
        watched.ask("query", query=query)
        for metric, labels in SELECTOR.findall(query):
            family = re.sub(r"_(bucket|count|sum)$", "", metric)
            assert metric in series or {metric, family} & told, f"no process has {metric}"
            for label, how, value in LABEL.findall(labels):
                if (metric, label) in RARE or metric not in series:
                    continue
                pattern = re.compile(value if how == "=~" else re.escape(value))
                values = {one.get(label, "") for one in series[metric]}
                assert any(pattern.fullmatch(v) for v in values), f"{query}: {label} is in {values}"
