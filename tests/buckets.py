"""A server that speaks S3, on a loopback port, buckets in it, and what goes there."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from deploy.ports import HOST, free_port
from deploy.processes import Program, running
from streaming.records import Record

REGION = "eu-central-1"
KEYS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "not-asked-for",  # pragma: allowlist secret
}


@dataclass(frozen=True)
class Bucket:
    """A bucket, and what tells a process where it is."""

    name: str
    environment: Mapping[str, str]

    @property
    def uri(self) -> str:
        """A place in it."""
        return f"s3://{self.name}/home/archive"


@contextlib.contextmanager
def s3_server(log: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server that is gone when the `with` ends."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with running(Program("s3", command, port, _answers, environment or {}), log, 120):
        yield f"http://{HOST}:{port}"


def new_bucket(address: str) -> Bucket:
    """An empty bucket with a name of its own."""
    name = f"tests-{uuid.uuid4().hex[:12]}"
    store = fs.S3FileSystem(
        access_key=KEYS["AWS_ACCESS_KEY_ID"],
        secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=address,
        region=REGION,
        allow_bucket_creation=True,
    )
    store.create_dir(name)
    return Bucket(name, pointing_at(address))


def pointing_at(address: str) -> dict[str, str]:
    """The environment of who uses a server."""
    return {**KEYS, "AWS_ENDPOINT_URL": address, "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


def headrace(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints that succeeds, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rankings(since_ms: int, count: int) -> list[Record]:
    """A serving log; an archive needs no more of a record than that it is JSON."""
    said = [{"request_id": f"r{n}", "now": since_ms + n, "items": ["i"]} for n in range(count)]
    return [
        Record(0, n, None, json.dumps(one).encode(), since_ms + 60_000 * n)
        for n, one in enumerate(said)
    ]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/moto-api/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
