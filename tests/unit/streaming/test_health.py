"""What a worker's own port answers."""

import http.client
from pathlib import Path

import pytest

from deploy.ports import HOST, free_port
from features.errors import Refused
from streaming.health import serve_health
from streaming.metrics import Observer
from streaming.settings import StreamingSettings


def test_health_names_what_is_stopped_and_held_yet_is_alive() -> None:
    port, observer = free_port(), Observer("aggregate")
    stop = serve_health(observer, StreamingSettings(metrics_port=port), lambda: True)
    try:
        assert _health(port) == (200, "ok\n")
        observer.stopped(2, "offset 17: the block is damaged")
        observer.hold(True)
        assert _health(port) == (
            200,
            (
                "ok\nthe store is away, nothing is read\n"
                "partition 2 is stopped: offset 17: the block is damaged\n"
            ),
        )
        observer.disowned(2)
        observer.hold(False)
        assert _health(port) == (200, "ok\n")
    finally:
        stop()


def _health(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_port_that_is_taken_or_a_certificate_of_no_use_is_refused_in_words(
    tmp_path: Path,
) -> None:
    port = free_port()
    settings = StreamingSettings(metrics_port=port)
    stop = serve_health(Observer("route"), settings, lambda: True)
    try:
        with pytest.raises(Refused, match=f"HEADRACE_METRICS_PORT={port}"):
            serve_health(Observer("route"), settings, lambda: True)
    finally:
        stop()
    empty = tmp_path / "empty.pem"
    empty.touch()
    settings = StreamingSettings(metrics_port=port, tls_cert_file=empty, tls_key_file=empty)
    with pytest.raises(Refused, match="HEADRACE_TLS_ files"):
        serve_health(Observer("route"), settings, lambda: True)
