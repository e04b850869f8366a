"""The servers that tests share, real ones from wheels, and clean ground for each test."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import prometheus_client  # noqa: F401 - before Feast, which would keep its values in shared files
import pytest
import redis
from hypothesis import settings

from deploy import servers
from deploy.feature_store import SETTINGS, applying, write_settings
from deploy.ports import HOST, free_port
from deploy.processes import running
from tests import kafka_server
from tests.buckets import Bucket, new_bucket, s3_server
from tests.redis_cluster import Cluster, redis_cluster

# OpenMP threads that wait for a busy core make tiny trainings a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A kernel compiles inside the first example, which no deadline per example can allow for.
settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker of the Kafka protocol, one for the whole run."""
    log = tmp_path_factory.mktemp("broker") / "broker.log"
    with running(servers.broker(free_port()), log) as child:
        yield f"{HOST}:{child.port}"


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Apache Kafka, one for the whole run; skips where it cannot run."""
    if (why := kafka_server.missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("apache-kafka")
    program = kafka_server.apache_kafka(free_port(), folder)
    with running(program, folder / "broker.log", kafka_server.START_TIMEOUT_S) as child:
        yield f"{HOST}:{child.port}"


@pytest.fixture(params=["in-memory", "apache"])
def any_broker(request: pytest.FixtureRequest) -> str:
    """The address of a broker of each kind in turn, shared by the whole run."""
    name = "broker" if request.param == "in-memory" else "apache_kafka"
    address: str = request.getfixturevalue(name)
    return address


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey server, one for the whole run; `empty_valkey` for a clean one."""
    folder = tmp_path_factory.mktemp("valkey")
    with running(servers.valkey(free_port(), folder), folder / "valkey.log") as child:
        yield f"redis://{HOST}:{child.port}/0"


@pytest.fixture
def empty_valkey(valkey: str) -> str:
    """The URL of the same server, emptied of keys, functions and scripts before the test."""
    with redis.Redis.from_url(valkey) as client:
        client.flushall()
        client.function_flush()
        client.script_flush()
    return valkey


@pytest.fixture(scope="session")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Redis Cluster of three primaries and three replicas, one for the whole run."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    """The same Cluster, whole and empty, whatever the test before left of it."""
    whole_cluster.mend()
    whole_cluster.clear()
    return whole_cluster


@pytest.fixture(scope="session")
def applied_repo(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our feature repository, with a project of its own, that `feast apply` has been
    run on; its online store is the shared Valkey."""
    folder = tmp_path_factory.mktemp("applied")
    repo = folder / "repo"
    ours = Path(__file__).parents[1] / "feature_repo"
    shutil.copytree(ours, repo, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    settings_file = repo / SETTINGS
    port = urlsplit(valkey).port
    assert port is not None
    write_settings(repo, settings_file, port)
    project = settings_file.read_text().replace("project: headrace", "project: tests")
    settings_file.write_text(project)
    with applying(repo, settings_file, folder / "apply.log") as wait:
        wait()
    return repo


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks S3, one for the whole run."""
    with s3_server(tmp_path_factory.mktemp("s3") / "s3.log") as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, at which this process and its children are pointed."""
    made = new_bucket(s3)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name that no other test uses, of a topic or a consumer group."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:12]}"
