"""Redis or Kafka stands still, or Redis dies: workers wait in their groups, then catch up."""

import contextlib
import os
import re
import signal
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import Child, Program, running, spawn, stop, wait_until_ready
from features.plan import FeatureRepo
from features.spec import Plan
from tests.pipeline import final_rows
from tests.records import good_events
from tests.waiting import until
from tests.workers import Stream, stream

PAUSE_S = 60.0 if os.environ.get("HEADRACE_TEST_LONG") else 9.0
"""Longer than a session of the group (6 s)."""
GROWTH_MAX = 48 * 1024 * 1024
"""Bytes that a worker may grow by while it waits; its buffers are bounded."""
BATCH = 250


@dataclass
class Ground:
    """A stream, and the servers under it, which a test may stop."""

    stream: Stream
    valkey: Program
    redis_log: Path
    children: dict[str, Child] = field(default_factory=dict)


@pytest.fixture(scope="session")
def plan(applied_repo: Path) -> Plan:
    """The plan of our own feature repository."""
    return FeatureRepo(applied_repo).open().read()


@pytest.fixture
def ground(applied_repo: Path, tmp_path: Path) -> Iterator[Ground]:
    """Workers that fold already, on servers of their own."""
    program, log = servers.valkey(free_port(), tmp_path / "data"), tmp_path / "valkey.log"
    url = f"redis://{HOST}:{program.port}/0"
    with (
        contextlib.ExitStack() as stack,
        running(servers.broker(free_port()), tmp_path / "broker.log") as broker,
        stream(f"{HOST}:{broker.port}", url, applied_repo, tmp_path, uuid.uuid4().hex[:8]) as made,
    ):
        ground = Ground(made, program, log, {"broker": broker})
        stack.callback(lambda: stop([ground.children["valkey"]]))
        _start_valkey(ground)
        made.start("route", "aggregate")
        yield ground


def _start_valkey(ground: Ground) -> None:
    ground.children["valkey"] = child = spawn(ground.valkey, ground.redis_log)
    wait_until_ready([(ground.valkey, child)], 30)


def _rss(ground: Ground, worker: str) -> int:
    return int(psutil.Process(ground.stream.alive[worker].pid).memory_info().rss)


def _log_lines(ground: Ground, worker: str, what: str) -> int:
    return len(re.findall(what, (ground.stream.logs / f"{worker}.log").read_text()))


def _metric(ground: Ground, worker: str, series: str) -> float:
    """The sum of the values of a series, 0 when there is none."""
    url = f"http://{HOST}:{ground.stream.alive[worker].port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(rf"^{series} (\S+)$", text, re.MULTILINE)))


def test_a_redis_that_stands_still_is_waited_for_in_the_group(ground: Ground, plan: Plan) -> None:
    made, events = ground.stream, good_events(19, 8000)
    made.send(events[:2000])
    made.wait_for(final_rows(events[:2000], plan))
    before = {worker: _rss(ground, worker) for worker in made.alive}
    rebalances = _rebalances(ground)
    os.killpg(ground.children["valkey"].pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        grown = 0
        for at in range(2000, 8000, BATCH):  # under load, as long as it stands still
            made.send(events[at : at + BATCH])
            _wait_until(began + PAUSE_S * (at - 2000) / 6000)
            grown = max(grown, *(_rss(ground, w) - before[w] for w in before))
        _wait_until(began + PAUSE_S)
    finally:
        os.killpg(ground.children["valkey"].pid, signal.SIGCONT)
    made.wait_for(final_rows(events, plan))
    assert grown < GROWTH_MAX
    assert _log_lines(ground, "aggregate", "starts again") == 0
    assert _log_lines(ground, "route", "starts again") == 0
    assert _rebalances(ground) == rebalances
    if PAUSE_S > 15:  # a call gives up after 10 s
        assert _metric(ground, "aggregate", r'headrace_events_total{kind="holds",.*}') >= 1


def test_a_redis_that_dies_and_comes_back_is_waited_for_in_the_group(
    ground: Ground, plan: Plan
) -> None:
    made, events = ground.stream, good_events(23, 6000)
    made.send(events[:2000])
    made.wait_until_folding(50)
    rebalances = _rebalances(ground)
    os.killpg(ground.children["valkey"].pid, signal.SIGKILL)
    os.waitpid(ground.children["valkey"].pid, 0)
    made.send(events[2000:4000])
    until(
        lambda: _metric(ground, "aggregate", r'headrace_state{kind="holding",.*}') == 1,
        30,
        "for aggregate to hold",
        pause_s=0.1,
    )
    _start_valkey(ground)
    made.send(events[4000:])
    made.wait_for(final_rows(events, plan))
    assert _log_lines(ground, "aggregate", "starts again") == 0
    assert _metric(ground, "aggregate", r'headrace_state{kind="holding",.*}') == 0
    assert _rebalances(ground) == rebalances


def test_a_broker_that_stands_still_is_waited_for(ground: Ground, plan: Plan) -> None:
    """Blocks cannot be sent: nothing more is read, and nothing is lost."""
    made, events = ground.stream, good_events(29, 6000)
    made.send(events[:2000])
    made.wait_for(final_rows(events[:2000], plan))  # kernels take memory when they are first used
    before = {worker: _rss(ground, worker) for worker in made.alive}
    made.send(events[2000:4000])
    os.killpg(ground.children["broker"].pid, signal.SIGSTOP)
    began = time.monotonic()
    grown = 0
    try:
        while time.monotonic() - began < PAUSE_S:
            grown = max(grown, *(_rss(ground, w) - before[w] for w in before))
            until(lambda: True, pause_s=0.1)
    finally:
        os.killpg(ground.children["broker"].pid, signal.SIGCONT)
    made.send(events[4000:])
    made.wait_for(final_rows(events, plan))
    assert grown < GROWTH_MAX


def _rebalances(ground: Ground) -> float:
    return _metric(ground, "aggregate", r'headrace_events_total{kind="rebalances",.*}')


def _wait_until(moment: float) -> None:
    until(lambda: time.monotonic() >= moment, PAUSE_S + 5)
