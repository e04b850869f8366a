"""The servers that tests share, real ones from wheels, and clean ground for each test."""

import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker of the Kafka protocol, one for the whole run."""
    log = tmp_path_factory.mktemp("broker") / "broker.log"
    with running(servers.broker(free_port()), log) as child:
        yield f"{HOST}:{child.port}"


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


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name that no other test uses, of a topic or a consumer group."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:12]}"
