"""The ranker as a real process: both faces, a graceful stop under load, several on one port."""

import contextlib
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.ports import HOST, free_port
from deploy.probes import is_ready
from deploy.processes import Child, Program, running
from ranker.client import NO_RETRIES, Client, RankRequest, Unreachable
from streaming.kafka import Broker
from tests.waiting import until

START_TIMEOUT_S = 120


class Ranker:
    """Where one listens, and what starts it."""

    def __init__(self, kafka: str, redis: str, repo: Path, topic: str, processes: int) -> None:
        self.http_port, self.grpc_port = free_port(), free_port()
        self.topic, self._kafka = topic, kafka
        environment = {
            "HEADRACE_KAFKA": kafka,
            "HEADRACE_REDIS": redis,
            "HEADRACE_REPO": str(repo),
            "HEADRACE_RANKINGS_TOPIC": topic,
            "HEADRACE_HTTP_PORT": str(self.http_port),
            "HEADRACE_GRPC_PORT": str(self.grpc_port),
            "HEADRACE_RANKER_PROCESSES": str(processes),
            "HEADRACE_QUEUE_WAIT_MS_MAX": "2000",
        }
        command = [sys.executable, "-P", "-m", "deploy.cli", "ranker"]
        self.program = Program("ranker", command, self.http_port, is_ready, environment)

    def client(self) -> Client:
        return Client(f"{HOST}:{self.grpc_port}", timeout_s=10, retries=NO_RETRIES)

    def logged(self) -> list[str]:
        """The request ids in the serving log; every record is whole."""
        records = [
            json.loads(record.value or b"") for record in Broker(self._kafka, {}).scan(self.topic)
        ]
        return [record["request_id"] for record in records]


@pytest.fixture
def make(
    broker: str, empty_valkey: str, applied_repo: Path, unique: Callable[[str], str]
) -> Callable[[int], Ranker]:
    """Makes a ranker of so many processes, not started yet."""
    return lambda processes: Ranker(
        broker, empty_valkey, applied_repo, unique("rankings"), processes
    )


class Load:
    """Callers over both faces, each asking again as soon as it is answered."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self.answered: list[str] = []
        self.broken: list[str] = []
        self._over = threading.Event()
        ways = (self._by_grpc, self._by_grpc, self._by_http, self._by_http)
        self._threads = [
            threading.Thread(target=self._ask, args=(way, n)) for n, way in enumerate(ways)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, way: Callable[[], Any], number: int) -> None:
        with way() as ask:
            for count in range(1_000_000):
                if self._over.is_set():
                    return
                request_id = f"{number}-{count}"
                try:
                    if not ask(request_id):
                        return
                except Exception as error:  # noqa: BLE001 - any is a finding
                    self.broken.append(f"{request_id}: {error!r}")
                    return
                self.answered.append(request_id)

    @contextlib.contextmanager
    def _by_grpc(self) -> Iterator[Callable[[str], bool]]:
        with self._ranker.client() as client:

            def ask(request_id: str) -> bool:
                try:
                    feed = client.rank(RankRequest(user_id="mia", request_id=request_id))
                except Unreachable:  # nobody took it
                    return False
                return feed.request_id == request_id

            yield ask

    @contextlib.contextmanager
    def _by_http(self) -> Iterator[Callable[[str], bool]]:
        connection = http.client.HTTPConnection(HOST, self._ranker.http_port, timeout=10)

        def ask(request_id: str) -> bool:
            body = json.dumps({"user_id": "mia", "request_id": request_id})
            try:
                connection.request("POST", "/v1/rank", body)
                answer = connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):  # nobody took it
                return False
            content = answer.read()
            assert answer.status == 200, content
            return bool(json.loads(content)["request_id"] == request_id)

        with contextlib.closing(connection):
            yield ask


@pytest.mark.parametrize("processes", [1, 2])
def test_no_answer_and_no_record_is_lost_when_a_ranker_is_stopped_under_load(
    make: Callable[[int], Ranker], tmp_path: Path, processes: int
) -> None:
    ranker = make(processes)
    unready: list[float] = []
    with running(ranker.program, tmp_path / "ranker.log", START_TIMEOUT_S) as child:
        with ranker.client() as client:
            until(client.is_ready, 60)
        with Load(ranker) as load:
            until(lambda: len(load.answered) > 200, 30)
            os.kill(child.pid, signal.SIGTERM)
            told = time.monotonic()
            until(lambda: not is_ready(ranker.http_port), 10)
            unready.append(time.monotonic() - told)
            answered = len(load.answered)
            until(lambda: child.process() is None, 30)
        assert len(load.answered) > answered, "what came after readiness flipped was answered too"
        assert load.broken == []
        _, status = os.waitpid(child.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, child.log_tail()
    assert unready[0] < 0.5
    assert sorted(ranker.logged()) == sorted(load.answered)


def test_two_processes_share_the_ports_and_the_work(
    make: Callable[[int], Ranker], tmp_path: Path
) -> None:
    ranker = make(2)
    with running(ranker.program, tmp_path / "ranker.log", START_TIMEOUT_S) as child:
        until(lambda: len(listeners(child, ranker.http_port)) == 2, START_TIMEOUT_S)
        until(lambda: len(listeners(child, ranker.grpc_port)) == 2, START_TIMEOUT_S)
        replicas = listeners(child, ranker.http_port)
        spent = {one: sum(psutil.Process(one).cpu_times()[:2]) for one in replicas}
        for _ in range(40):
            with ranker.client() as client:
                client.rank(RankRequest(user_id="mia"))
        assert all(
            sum(psutil.Process(one).cpu_times()[:2]) > before for one, before in spent.items()
        )


def test_when_one_of_them_ends_all_end(make: Callable[[int], Ranker], tmp_path: Path) -> None:
    ranker = make(2)
    with running(ranker.program, tmp_path / "ranker.log", START_TIMEOUT_S) as child:
        until(lambda: len(listeners(child, ranker.http_port)) == 2, START_TIMEOUT_S)
        one, other = sorted(listeners(child, ranker.http_port))
        os.kill(one, signal.SIGKILL)
        until(lambda: child.process() is None, 30)
        assert not psutil.pid_exists(other)
        assert "ended by itself" in (tmp_path / "ranker.log").read_text()


def test_a_taken_port_is_refused_by_name(make: Callable[[int], Ranker], tmp_path: Path) -> None:
    ranker = make(1)
    with running(ranker.program, tmp_path / "ranker.log", START_TIMEOUT_S):
        second = Program(
            "second",
            ranker.program.command,
            ranker.http_port,
            is_ready,
            {**ranker.program.environment, "HEADRACE_HTTP_PORT": str(free_port())},
        )
        with (
            pytest.raises(Exception, match="set HEADRACE_GRPC_PORT"),
            running(second, tmp_path / "second.log", START_TIMEOUT_S),
        ):
            pass


def listeners(child: Child, port: int) -> set[int]:
    """The ids of the processes of a child that listen on a port."""
    found = set()
    for process in psutil.Process(child.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in process.net_connections(kind="tcp"):
                if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                    found.add(process.pid)
    return found
