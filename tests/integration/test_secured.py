"""TLS, users and rights on real servers: the right user works, others are told what to check.

What is refused is refused, never tried again in the open.
"""

import contextlib
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from deploy.ports import HOST, free_port
from deploy.probes import speaks_kafka
from deploy.processes import Program, running
from features.errors import Unavailable
from features.redis_rows import RedisRows
from features.redis_security import RedisSettings
from ranker.client import NO_RETRIES, Client, NotAllowed, RankRequest, Tls, Unreachable
from ranker.tables.live_feed import redis_feeds
from streaming.kafka import Broker, KafkaSink
from streaming.records import Outgoing
from streaming.settings import StreamingSettings
from tests import kafka_server
from tests.records import good_events
from tests.secured import (
    NO_REDIS,
    PASSWORD,
    Certificates,
    grant,
    redis_binary,
    secured_kafka,
    secured_redis,
)
from tests.waiting import until
from tests.workers import Stream, stream

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
TOKEN, ADMIN = "rank-and-file", "watchman"
SOON_MS = 3_000
"""A client that nobody lets in gives up after so long; in earnest after ten seconds."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made(tmp_path_factory.mktemp("pem") / "files")


@dataclass(frozen=True)
class SafeKafka:
    """A broker's two addresses, and how `worker` gets in by the safe one."""

    plain: str
    safe: str
    security: dict[str, object]

    def broker(self, **other: object) -> Broker:
        """As `worker`, but for what is other."""
        return Broker(self.safe, {**self.security, "bootstrap_timeout_ms": SOON_MS, **other})


@pytest.fixture(scope="module")
def kafka(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SafeKafka]:
    if (why := kafka_server.missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("safe-kafka")
    program, port, _ = secured_kafka(folder, certificates, ["worker", "stranger"])
    with running(program, folder / "broker.log", kafka_server.START_TIMEOUT_S) as child:
        plain = f"{HOST}:{child.port}"
        grant(plain, "worker")
        security: dict[str, object] = {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_plain_username": "worker",
            "sasl_plain_password": PASSWORD,
            "ssl_cafile": str(certificates.ca),
        }
        yield SafeKafka(plain, f"{HOST}:{port}", security)


def test_a_user_with_rights_writes_and_reads_over_tls(
    kafka: SafeKafka, unique: Callable[[str], str]
) -> None:
    topic, broker = unique("events"), kafka.broker()
    broker.topics({topic: 1})
    sink = broker.sink()
    sink.send(Outgoing(topic, None, b"whispered"))
    sink.flush()
    sink.close()
    assert [record.value for record in broker.scan(topic, 3_000)] == [b"whispered"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            {"sasl_plain_password": "wrong"},  # pragma: allowlist secret
            "check user 'worker', its password and SCRAM-SHA-256",
        ),
        ({"sasl_plain_username": "nobody"}, "check user 'nobody'"),
        ({"sasl_mechanism": "SCRAM-SHA-512"}, "SCRAM-SHA-512"),
        ({"ssl_cafile": "other"}, "not trusted .*check the CA file"),
        ({"security_protocol": "PLAINTEXT"}, "this port speaks PLAINTEXT"),
        ({"security_protocol": "SASL_PLAINTEXT"}, "this port speaks SASL_PLAINTEXT"),
    ],
)
def test_who_is_not_known_to_kafka_is_told_what_to_check(
    kafka: SafeKafka, certificates: Certificates, other: dict[str, str], says: str
) -> None:
    if other.get("ssl_cafile"):
        other = {"ssl_cafile": str(certificates.other_ca)}
    if other.get("security_protocol") == "PLAINTEXT":
        other |= {name: None for name in kafka.security if name.startswith("sasl")}  # type: ignore[misc]
    with pytest.raises(Unavailable, match=says) as caught:
        kafka.broker(**other).topics({"events": 1})
    assert PASSWORD not in str(caught.value)


def test_a_client_that_wants_tls_does_not_fall_back_to_a_plain_port(kafka: SafeKafka) -> None:
    assert speaks_kafka(int(kafka.plain.rpartition(":")[2]))
    broker = Broker(kafka.plain, {**kafka.security, "bootstrap_timeout_ms": SOON_MS})
    with pytest.raises(Unavailable, match="TLS"):
        broker.topics({"events": 1})


def test_a_user_without_rights_is_told_to_ask_for_an_acl(
    kafka: SafeKafka, unique: Callable[[str], str]
) -> None:
    topic = unique("events")
    kafka.broker().topics({topic: 1})
    stranger = kafka.broker(sasl_plain_username="stranger")
    with pytest.raises(Unavailable, match=r"denies this user|Authorization|no partitions"):
        stranger.topics({topic: 1})
    sink = stranger.sink()
    with contextlib.closing(sink), pytest.raises(Unavailable, match="Authorization"):
        _sent(sink, Outgoing(topic, None, b"smuggled"))
    assert list(kafka.broker().scan(topic, 1_000)) == []


def _sent(sink: KafkaSink, outgoing: Outgoing) -> None:
    sink.send(outgoing)
    sink.flush()


@pytest.fixture(scope="module")
def safe_redis(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a Redis that speaks TLS alone."""
    if redis_binary() is None:
        pytest.skip(NO_REDIS)
    folder = tmp_path_factory.mktemp("safe-redis")
    with running(secured_redis(folder / "data", certificates), folder / "log") as child:
        yield child.port


def url_of(port: int, user: str, ca: Path | None, password: str = PASSWORD) -> str:
    """What the settings make of a user and an authority."""
    url = f"rediss://{user}:{password}@{HOST}:{port}/0"
    return RedisSettings(redis=SecretStr(url), redis_ca_file=ca).redis_url()


def test_redis_users_do_what_their_process_needs_and_no_more(
    safe_redis: int, certificates: Certificates
) -> None:
    rows = RedisRows(url_of(safe_redis, "worker", certificates.ca), "p", durability="none")
    with contextlib.closing(rows):
        rows.check()
        assert rows.remember("facts", "a", "1") == "1"
    ranking = url_of(safe_redis, "ranker", certificates.ca)
    with contextlib.closing(redis_feeds(ranking)("p", ["item_id"])) as feed:
        assert feed.read([b"nothing"]) == [{}]
    rows = RedisRows(ranking, "p", durability="none")
    with contextlib.closing(rows), pytest.raises(Unavailable, match="extend its ACL"):
        rows.remember("facts", "b", "2")


def test_who_is_not_known_to_redis_is_told_what_to_check(
    safe_redis: int, certificates: Certificates
) -> None:
    ours, other = certificates.ca, certificates.other_ca
    wrong = {
        url_of(safe_redis, "worker", ours, "wrong"): "check user and password",
        url_of(safe_redis, "nobody", ours): "check user and password",
        url_of(safe_redis, "worker", other): "HEADRACE_REDIS_CA_FILE",
        url_of(safe_redis, "worker", None): "HEADRACE_REDIS_CA_FILE",
        f"redis://worker:{PASSWORD}@{HOST}:{safe_redis}/0": "speaks TLS",
    }
    for url, says in wrong.items():
        with (
            contextlib.closing(RedisRows(url, "p", durability="none")) as rows,
            pytest.raises(Unavailable, match=says) as caught,
        ):
            rows.check()
        assert PASSWORD not in str(caught.value)


def test_a_redis_without_tls_is_not_spoken_to_in_the_open(
    empty_valkey: str, certificates: Certificates
) -> None:
    port = int(empty_valkey.rpartition(":")[2].partition("/")[0])
    url = RedisSettings(
        redis=SecretStr(f"rediss://{HOST}:{port}/0"), redis_ca_file=certificates.ca
    ).redis_url()
    with (
        contextlib.closing(RedisRows(url, "p", durability="none")) as rows,
        pytest.raises(Unavailable, match="TLS"),
    ):
        rows.check()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, "needs HEADRACE_KAFKA_SASL_MECHANISM"),
        ({"kafka_username": "worker"}, "PLAINTEXT uses none"),
        ({"kafka_ca_file": __file__}, "is not encrypted"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": "/nowhere"}, "no such file"),
        ({"kafka_security_protocol": "SSL", "kafka_cert_file": __file__}, "go together"),
        ({"kafka_security_protocol": "TLS"}, "PLAINTEXT"),
        ({"redis_ca_file": __file__}, "begin it with rediss"),
    ],
)
def test_settings_that_would_leave_a_secret_unused_are_refused(
    settings: dict[str, str], says: str
) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        StreamingSettings(**settings)  # type: ignore[arg-type]
    assert "input_value" not in str(caught.value)


@pytest.fixture(scope="module")
def safe_stream(
    kafka: SafeKafka,
    safe_redis: int,
    certificates: Certificates,
    applied_repo: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stream]:
    """A stream whose workers know the safe ports alone."""
    settings = {
        "HEADRACE_KAFKA": kafka.safe,
        "HEADRACE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "HEADRACE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
        "HEADRACE_KAFKA_USERNAME": "worker",
        "HEADRACE_KAFKA_PASSWORD": PASSWORD,
        "HEADRACE_KAFKA_CA_FILE": str(certificates.ca),
        "HEADRACE_REDIS": f"rediss://worker:{PASSWORD}@{HOST}:{safe_redis}/0",
        "HEADRACE_REDIS_CA_FILE": str(certificates.ca),
        "HEADRACE_DURABILITY": "none",
    }
    logs = tmp_path_factory.mktemp("safe-stream")
    ours = url_of(safe_redis, "worker", certificates.ca)
    with stream(kafka.plain, ours, applied_repo, logs, "safe", settings) as made:
        yield made


@pytest.mark.timeout(400)
def test_the_whole_path_runs_over_tls_and_tells_nobody_a_password(
    safe_stream: Stream, safe_redis: int, certificates: Certificates
) -> None:
    ports = free_port(), free_port()
    environment = safe_stream.environment() | {
        "HEADRACE_REDIS": f"rediss://ranker:{PASSWORD}@{HOST}:{safe_redis}/0",
        "HEADRACE_RANKINGS_TOPIC": "safe-rankings",
        "HEADRACE_HTTP_PORT": str(ports[0]),
        "HEADRACE_GRPC_PORT": str(ports[1]),
        "HEADRACE_TLS_CERT_FILE": str(certificates.certificate),
        "HEADRACE_TLS_KEY_FILE": str(certificates.key),
        "HEADRACE_RANK_TOKENS": f"old, {TOKEN}",
        "HEADRACE_ADMIN_TOKENS": ADMIN,
        "HEADRACE_DEADLINE_MS": "5000",
    }
    command = [sys.executable, "-m", "deploy.cli", "ranker"]
    log = safe_stream.logs / "ranker.log"
    tls = Tls(ca=certificates.ca.read_bytes())
    target = f"localhost:{ports[1]}"
    ready = _ready_over(certificates.ca)
    with running(Program("ranker", command, ports[0], ready, environment), log, 120):
        safe_stream.start("route", "aggregate")
        safe_stream.send(good_events(7, 300))
        safe_stream.wait_until_folding(20)
        with Client(target, timeout_s=10, tls=tls, token=TOKEN, retries=NO_RETRIES) as client:

            def ranked() -> bool:
                feed = client.rank(RankRequest(user_id="u1"))
                return bool(feed.items) and "item_table" not in feed.degraded

            until(ranked, 30, "for a feed")
        for token in (None, "wrong", ADMIN):
            with (
                Client(target, timeout_s=10, tls=tls, token=token, retries=NO_RETRIES) as client,
                pytest.raises(NotAllowed),
            ):
                client.rank(RankRequest(user_id="u1"))
        with Client(target, timeout_s=3, retries=NO_RETRIES) as client, pytest.raises(Unreachable):
            client.rank(RankRequest(user_id="u1"))
        _ask_over_http(f"https://{HOST}:{ports[0]}", certificates)
    for file in safe_stream.logs.iterdir():
        text = file.read_text()
        assert PASSWORD not in text, file
        assert TOKEN not in text, file


def _ask_over_http(url: str, certificates: Certificates) -> None:

    known = ssl.create_default_context(cafile=str(certificates.ca))
    body = {"user_id": "u1"}
    with httpx.Client(base_url=url, verify=known, trust_env=False) as client:

        def status(path: str, token: str | None) -> int:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            if path == "/v1/rank":
                return client.post(path, json=body, headers=headers, timeout=10).status_code
            return client.get(path, headers=headers).status_code

        assert status("/v1/rank", TOKEN) == status("/v1/rank", "old") == 200
        assert status("/v1/rank", None) == status("/v1/rank", ADMIN) == 401
        assert status("/metrics", ADMIN) == 200
        assert status("/metrics", None) == status("/metrics", TOKEN) == 401
        assert status("/openapi.json", None) == 404
        assert status("/readyz", None) == 200
    strange = ssl.create_default_context(cafile=str(certificates.other_ca))
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/healthz", verify=strange, trust_env=False)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url.replace('https', 'http')}/healthz", trust_env=False)


def _ready_over(ca: Path) -> Callable[[int], bool]:
    known = ssl.create_default_context(cafile=str(ca))

    def ready(port: int) -> bool:
        try:
            url = f"https://{HOST}:{port}/readyz"
            return httpx.get(url, verify=known, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    return ready
