"""The whole stack as a user has it: real servers, real processes, a model trained by the CLI."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import httpx
import pytest

from deploy import local
from deploy.demo.stream import Stream
from deploy.local import Asked
from deploy.ports import free_port
from deploy.stack_file import Stack
from features.events import Event
from ranker.request import RankResponse
from streaming.event_file import write_events
from streaming.kafka import open_sink
from streaming.records import RecordSink
from tests.browsing import browsing

REPO = Path(__file__).parents[2] / "feature_repo"
REQUESTS = 300
STEP_MS = 60_000


@dataclass
class Running:
    """A running stack over a scratch copy of the feature repository."""

    stack: Stack
    stream: Stream
    sink: RecordSink
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where the ranker listens."""
        return f"http://127.0.0.1:{self.stack.children['ranker'].port}"

    def rank(self, **body: Any) -> RankResponse:
        """A feed from the running ranker."""
        answer = httpx.post(f"{self.url}/v1/rank", json=body, timeout=20.0)
        assert answer.status_code == 200, answer.text
        return RankResponse.model_validate_json(answer.content)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the feature repository, pointed at the stack."""
        return subprocess.run(
            command,
            cwd=self.stack.repo,
            env={**os.environ, **self.environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def headrace(self, *arguments: str) -> str:
        """What a `headrace` command prints."""
        return self._said(sys.executable, "-m", "deploy.cli", *arguments)

    def feast(self, *arguments: str) -> str:
        """What a stock `feast` command prints."""
        return self._said(sys.executable, "-m", "feast.cli.cli", *arguments)

    def _said(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Route, aggregate and ranker over what people browsed in the last hours."""
    folder = tmp_path_factory.mktemp("stack")
    data, repo = folder / "data", folder / "feature_repo"
    copytree(REPO, repo, ignore=ignore_patterns("__pycache__", "*.db", "data", "archive"))
    # The ranker's deadlines are for a machine of its own; ours may be busy with other tests.
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("HEADRACE_DEADLINE_MS", "4000")
        environ.setenv("HEADRACE_USER_READ_TIMEOUT_MS", "2000")
        environ.setenv("HEADRACE_ITEM_STALENESS_MS", "2000")
        yield from _running(folder, data, repo)


def _running(folder: Path, data: Path, repo: Path) -> Iterator[Running]:
    start_ms = int(time.time() * 1000) - STEP_MS * (REQUESTS + 1)
    events = browsing(REQUESTS, start_ms=start_ms, step_ms=STEP_MS)
    # Free ports, and not the usual ones: somebody else's stack may run here.
    kafka, redis, http, grpc = (free_port() for _ in range(4))
    asked = Asked(data, repo, None, kafka, redis, http, grpc, workers=("route", "aggregate"))
    try:
        stack = local.up(asked, _silent)
        environment = local.settings(stack)
        sink = open_sink(environment["HEADRACE_KAFKA"])
        try:
            stream = Stream(stack, sink, "events")
            stream.send(events)
            stream.wait()
            model = _train(folder, repo, events, environment)
            stack = local.up(replace(asked, model=model, workers=local.WORKERS), _silent)
            yield Running(stack, stream, sink, local.settings(stack))
        finally:
            sink.close()
    finally:
        local.down(data, _silent)


def _train(
    folder: Path, repo: Path, events: Sequence[Event], environment: Mapping[str, str]
) -> Path:
    file, model = folder / "events.jsonl", folder / "model"
    write_events(file, events)
    command = [sys.executable, "-m", "deploy.cli", "train", str(file), "-o", str(model)]
    command += ["--head", "click", "--trees", "20"]
    # Threads that wait for each other cost more than they bring on so few rows.
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=repo, env=environment, check=True, timeout=120)
    return model


def _silent(message: str) -> None:
    """Nobody reads along."""
