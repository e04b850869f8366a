"""Servers that ask for a client's certificate: the right one is let in, others are told why not."""

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.healthcheck import healthy
from deploy.ports import HOST, free_port
from deploy.processes import running
from features.errors import Unavailable
from features.kafka_security import KafkaSecuritySettings
from features.redis_rows import RedisRows
from features.redis_security import RedisSettings
from streaming.health import serve_health
from streaming.kafka import Broker
from streaming.metrics import Observer
from streaming.records import Outgoing
from streaming.settings import StreamingSettings
from tests import kafka_server
from tests.secured import (
    NO_REDIS,
    PASSWORD,
    Certificates,
    grant,
    redis_binary,
    secured_kafka,
    secured_redis,
)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SOON_MS = 3_000
Pair = tuple[Path, Path] | None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made(tmp_path_factory.mktemp("pem") / "files")


@pytest.fixture(scope="module")
def kafka(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Pair], Broker]]:
    """A broker as who shows a pair reaches it; `worker` may do what the processes do."""
    if (why := kafka_server.missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("mutual-kafka")
    program, _, port = secured_kafka(folder, certificates, [])

    def shown(pair: Pair) -> Broker:
        certificate, key = pair or (None, None)
        settings = KafkaSecuritySettings(
            kafka_security_protocol="SSL",
            kafka_ca_file=certificates.ca,
            kafka_cert_file=certificate,
            kafka_key_file=key,
        )
        security = {**settings.kafka_security(), "bootstrap_timeout_ms": SOON_MS}
        return Broker(f"{HOST}:{port}", security)

    with running(program, folder / "broker.log", kafka_server.START_TIMEOUT_S) as child:
        grant(f"{HOST}:{child.port}", "worker")
        yield shown


def test_kafka_knows_a_client_by_its_certificate(
    kafka: Callable[[Pair], Broker], certificates: Certificates, unique: Callable[[str], str]
) -> None:
    topic, broker = unique("events"), kafka((certificates.worker, certificates.worker_key))
    broker.topics({topic: 1})
    sink = broker.sink()
    with contextlib.closing(sink):
        sink.send(Outgoing(topic, None, b"by name"))
        sink.flush()
    assert [record.value for record in broker.scan(topic, 3_000)] == [b"by name"]


def test_kafka_lets_nobody_in_who_shows_no_certificate_or_a_strange_one(
    kafka: Callable[[Pair], Broker], certificates: Certificates
) -> None:
    with pytest.raises(Unavailable, match="set the CERT and KEY files"):
        kafka(None).topics({"events": 1})
    strange = kafka((certificates.strange, certificates.strange_key))
    with pytest.raises(Unavailable, match="does not take our certificate"):
        strange.topics({"events": 1})


def test_a_certificate_of_another_name_is_another_user(
    kafka: Callable[[Pair], Broker], certificates: Certificates, unique: Callable[[str], str]
) -> None:
    """The server's own pair is by the right authority, and nobody granted it anything."""
    other = kafka((certificates.certificate, certificates.key))
    with pytest.raises(Unavailable, match=r"denies this user|Authorization|no partitions"):
        other.topics({unique("events"): 1})


@pytest.fixture(scope="module")
def mutual_redis(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Pair], str]]:
    """The URL of a Redis for who shows a pair."""
    if redis_binary() is None:
        pytest.skip(NO_REDIS)
    folder = tmp_path_factory.mktemp("mutual-redis")
    program = secured_redis(folder / "data", certificates, mutual=True)
    with running(program, folder / "log") as child:

        def url(pair: Pair) -> str:
            certificate, key = pair or (None, None)
            return RedisSettings(
                redis=SecretStr(f"rediss://worker:{PASSWORD}@{HOST}:{child.port}/0"),
                redis_ca_file=certificates.ca,
                redis_cert_file=certificate,
                redis_key_file=key,
            ).redis_url()

        yield url


def test_redis_lets_in_who_shows_its_certificate_and_no_other(
    mutual_redis: Callable[[Pair], str], certificates: Certificates
) -> None:
    known = mutual_redis((certificates.worker, certificates.worker_key))
    with contextlib.closing(RedisRows(known, "p", durability="none")) as rows:
        rows.check()
        assert rows.remember("facts", "a", "1") == "1"
    for pair in (None, (certificates.strange, certificates.strange_key)):
        with (
            pytest.raises(Unavailable, match="knows who signed HEADRACE_REDIS_CERT_FILE") as caught,
            contextlib.closing(RedisRows(mutual_redis(pair), "p", durability="none")) as rows,
        ):
            rows.check()
        assert PASSWORD not in str(caught.value)


def _asked(port: int, context: ssl.SSLContext | None, token: str | None, path: str) -> int:
    """The status of an answer; without a context it is asked for in the open."""
    connection = (
        http.client.HTTPConnection(HOST, port, timeout=10)
        if context is None
        else http.client.HTTPSConnection(HOST, port, context=context, timeout=10)
    )
    with contextlib.closing(connection):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def _showing(ca: Path, pair: Pair = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def test_a_worker_s_port_speaks_tls_asks_for_certificates_and_guards_its_metrics(
    certificates: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    port, ca = free_port(), certificates.ca
    environment = {
        "HEADRACE_METRICS_PORT": str(port),
        "HEADRACE_TLS_CERT_FILE": str(certificates.certificate),
        "HEADRACE_TLS_KEY_FILE": str(certificates.key),
    }
    settings = StreamingSettings(
        metrics_port=port,
        tls_cert_file=certificates.certificate,
        tls_key_file=certificates.key,
        tls_ca_file=ca,
        admin_tokens=SecretStr("old, new"),
    )
    stop = serve_health(Observer("route"), settings, lambda: True)
    try:
        known = _showing(ca, (certificates.worker, certificates.worker_key))
        assert _asked(port, known, None, "/healthz") == 200
        assert _asked(port, known, "new", "/metrics") == 200
        assert _asked(port, known, None, "/metrics") == 401
        assert _asked(port, known, None, "/livez") == 200
        assert _asked(port, known, "wrong", "/metrics") == 401
        for stranger in (
            _showing(ca),
            _showing(ca, (certificates.strange, certificates.strange_key)),
            _showing(certificates.other_ca, (certificates.worker, certificates.worker_key)),
        ):
            with pytest.raises((OSError, http.client.HTTPException)):
                _asked(port, stranger, "new", "/healthz")
        with pytest.raises((OSError, http.client.HTTPException)):
            _asked(port, None, None, "/healthz")
        assert healthy(environment)  # the image asks itself, and shows the process's own pair
    finally:
        stop()
    assert "Traceback" not in capfd.readouterr().err
