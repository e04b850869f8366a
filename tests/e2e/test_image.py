"""The image as it will run: `make image` builds it and names it in HEADRACE_TEST_IMAGE."""

import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack

import httpx
import pytest
import redis

from deploy import probes, servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from features.events import Event, ItemEvent, dump_event, record_key
from streaming.kafka import open_sink
from streaming.records import Outgoing, RecordSink
from tests import kafka_server
from tests.browsing import browsing
from tests.containers import Container, container, described, run_once
from tests.waiting import until

IMAGE = os.environ.get("HEADRACE_TEST_IMAGE", "")
pytestmark = pytest.mark.skipif(not IMAGE, reason="no image is named: make image")
ITEMS = int(os.environ.get("HEADRACE_TEST_IMAGE_ITEMS", "100000"))
STREAMING_READY_S = 3.0
RANKER_READY_S = 5.0
# A busy machine makes even processor time longer: by half at ten times as many tasks as cores.
BUSY = 1.5
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
STOCK_BROKER = {"group.initial.rebalance.delay.ms": "3000"}
COMPILERS = ("gcc", "cc", "g++", "c++", "clang", "ld", "as", "make", "pip", "pip3", "uv", "rustc")
"""What an intruder would build or fetch with."""


@pytest.fixture(scope="module")
def emulated() -> bool:
    """Whether the image is of another processor: then it is correct or not, and never quick."""
    return bool(described(IMAGE)["Architecture"] != ARCHITECTURES[platform.machine()])


def test_it_runs_as_nobody_from_files_that_nobody_can_change() -> None:
    said = described(IMAGE)
    assert said["Config"]["User"] == "10001:10001"
    labels = said["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"]
    assert "deploy.healthcheck" in json.dumps(
        said["HealthCheck" if "HealthCheck" in said else "Healthcheck"]
    )
    owned = run_once(
        IMAGE, "-c", "id -u; find / -xdev -writable -not -path '/proc/*' -not -path '/dev/*' "
        "-not -path '/tmp*' -type f 2>/dev/null | head", entrypoint="sh",
    )  # fmt: skip
    assert owned.split() == ["10001"]
    leaks = run_once(IMAGE, "-c", "env; ls /run /opt", entrypoint="sh")
    assert "build-ca" not in leaks
    assert "PIP_CERT" not in leaks


def test_nothing_in_it_compiles() -> None:
    found = run_once(
        IMAGE,
        "-c",
        f"for c in {' '.join(COMPILERS)}; do command -v $c; done; true",
        entrypoint="sh",
    )
    assert found == ""


def test_its_bill_of_materials_is_what_is_installed() -> None:
    bill = json.loads(run_once(IMAGE, "/opt/headrace/sbom.cdx.json", entrypoint="cat"))
    assert bill["bomFormat"] == "CycloneDX"
    told = {(one["name"].lower().replace("_", "-"), one["version"]) for one in bill["components"]}
    script = (
        "import importlib.metadata as m; found = list(m.distributions());"
        "print(*{(d.name.lower().replace('_','-'), d.version) for d in found}, sep='\\n')"
    )
    installed = {
        eval(line) for line in run_once(IMAGE, "-c", script, entrypoint="python").splitlines()
    }
    assert len(installed) > 50
    assert told == installed


@pytest.mark.timeout(1_200)
def test_every_kernel_is_there_and_for_the_stated_processor() -> None:
    script = (
        "import os, time; began = time.perf_counter()\n"
        "from deploy.kernels import compile_kernels; compile_kernels()\n"
        "import gc; from numba.core.dispatcher import Dispatcher\n"
        "ours = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.signatures"
        " and d.py_func.__module__.split('.')[0] in ('features', 'ranker', 'streaming')]\n"
        "missed = {d.py_func.__name__ for d in ours if d.stats.cache_misses}\n"
        "print(len(ours), sum(sum(d.stats.cache_hits.values()) for d in ours), sorted(missed),"
        " os.environ['NUMBA_CPU_NAME'])"
    )
    said = run_once(IMAGE, "-c", script, entrypoint="python").split()
    assert int(said[0]) > 10
    assert int(said[1]) > 10
    assert said[2] == "[]"
    assert said[3] in {"x86-64-v3", "neoverse-n1"}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A broker and a Valkey beside the containers; Apache Kafka where this machine can run it."""
    folder = tmp_path_factory.mktemp("servers")
    if kafka_server.missing():
        broker_program = servers.broker(free_port())
    else:
        broker_program = kafka_server.apache_kafka(free_port(), folder / "kafka", STOCK_BROKER)
    with ExitStack() as stack:
        broker = stack.enter_context(running(broker_program, folder / "broker.log"))
        valkey = stack.enter_context(
            running(servers.valkey(free_port(), folder / "valkey"), folder / "valkey.log")
        )
        yield {
            "HEADRACE_KAFKA": f"{HOST}:{broker.port}",
            "HEADRACE_REDIS": f"redis://{HOST}:{valkey.port}/0",
        }


@pytest.mark.timeout(3_600)
def test_the_whole_path_runs_in_containers_and_says_what_it_takes(
    addresses: dict[str, str], emulated: bool
) -> None:
    """Start-up, memory and stopping, of each process: the figures of `deploy/helm/headrace`.

    A worker is started twice: as the first of its group, and beside another, as in a rollout.
    """
    patience = 30 if emulated else 1
    rows: list[tuple[str, float, float, float, float]] = []

    def stopped(name: str, one: Container) -> None:
        memory, log = one.rss_mib(), one.log()
        assert "cannot be kept" not in log
        took_s, code = one.stop()
        assert code == 0, log
        rows.append((name, one.started_s, one.started_cpu_s, memory, took_s))

    with ExitStack() as stack:

        def started(
            command: str, probe: Callable[[int], bool], port: int, more: dict[str, str]
        ) -> Container:
            one = stack.enter_context(
                container(IMAGE, command, {**addresses, **more}, lambda: probe(port), 60 * patience)
            )
            assert one.execute("python", "-P", "-m", "deploy.healthcheck").returncode == 0
            return one

        def worker(name: str) -> Container:
            port = free_port()
            return started(name, probes.is_healthy, port, {"HEADRACE_METRICS_PORT": str(port)})

        workers = {name: worker(name) for name in ("route", "aggregate")}
        publish(addresses["HEADRACE_KAFKA"])
        until_loaded(addresses["HEADRACE_REDIS"], 300 * patience)
        until(lambda: idle(list(workers.values())), timeout_s=60 * patience, pause_s=0)
        port = free_port()
        asked = {
            "HEADRACE_HTTP_PORT": str(port),
            "HEADRACE_GRPC_PORT": str(free_port()),
            "HEADRACE_METRICS_PORT": "0",
            "HEADRACE_DEADLINE_MS": "10000" if emulated else "4000",
            "HEADRACE_USER_READ_TIMEOUT_MS": "5000" if emulated else "2000",
        }
        ranker = started("ranker", probes.is_ready, port, asked)
        body = {"user_id": "u1", "limit": 20}
        answer = httpx.post(f"http://{HOST}:{port}/v1/rank", json=body, timeout=20).json()
        assert len(answer["items"]) == 20, answer
        stopped("ranker", ranker)
        for name, one in workers.items():
            stopped(f"{name}, beside another", worker(name))
            stopped(name, one)
    print(f"\n{'process':26} {'ready, s':>9} {'CPU-s':>6} {'RSS, MiB':>9} {'stop, s':>8}")
    for name, ready_s, cpu_s, memory, took_s in rows:
        print(f"{name:26} {ready_s:9.2f} {cpu_s:6.2f} {memory:9.0f} {took_s:8.2f}")
    aims = {"ranker": RANKER_READY_S}
    for name, _, cpu_s, _, _ in rows:  # by the clock it depends on who else is there
        assert emulated or cpu_s < BUSY * aims.get(name, STREAMING_READY_S), (name, cpu_s)


def idle(containers: Collection[Container]) -> bool:
    """Whether they leave the processors to others, for a second."""
    before = [one.cpu_s() for one in containers]
    time.sleep(1)
    return all(now.cpu_s() - then < 0.3 for now, then in zip(containers, before, strict=True))


def publish(kafka: str) -> None:
    """Items, and what some people did with the first of them."""
    sink, now = open_sink(kafka), int(time.time() * 1000)
    for number in range(ITEMS):
        put(
            sink,
            ItemEvent(
                event_id=f"item-{number}",
                event_time=now - 1000,
                item_id=f"item-{number}",
                author_id=f"author-{number % 1000}",
                categories=[f"c{number % 20}"],
            ),
        )
        if number % 5000 == 0:  # a broker in memory on a busy machine: not all at once
            sink.flush()
    for event in browsing(200, start_ms=now - 10_000):
        put(sink, event)
    sink.flush()
    sink.close()


def put(sink: RecordSink, event: Event) -> None:
    sink.send(Outgoing("events", record_key(event), dump_event(event)))


def until_loaded(url: str, timeout_s: float) -> None:
    client = redis.Redis.from_url(url)
    until(lambda: int(str(client.dbsize())) >= ITEMS, timeout_s=timeout_s, pause_s=0.2)
    client.close()
