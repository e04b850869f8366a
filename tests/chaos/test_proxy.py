"""The proxy's own word: what it does to a link is what it was told to."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from deploy.ports import HOST
from tests.chaos.proxy import NONE, Proxy, Trouble, proxied


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while chunk := self.request.recv(65536):
            self.request.sendall(chunk)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer((HOST, 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with proxied(server.server_address[1]) as made:
            yield made
        server.shutdown()
        thread.join()


def echoed(connection: socket.socket, content: bytes, timeout_s: float = 5.0) -> float:
    """Seconds until all of it came back."""
    connection.settimeout(timeout_s)
    began, left = time.monotonic(), len(content)
    connection.sendall(content)
    while left:
        received = connection.recv(65536)
        assert received, "the connection was closed"
        left -= len(received)
    return time.monotonic() - began


def test_a_link_without_trouble_passes_everything(proxy: Proxy) -> None:
    with socket.create_connection((HOST, proxy.port)) as connection:
        assert echoed(connection, b"x" * 1_000_000) < 5


def test_latency_is_paid_in_both_directions(proxy: Proxy) -> None:
    with socket.create_connection((HOST, proxy.port)) as connection:
        proxy.suffer(Trouble(latency_ms=100))
        assert 0.2 <= echoed(connection, b"ping") < 2.0
        proxy.suffer(NONE)
        assert echoed(connection, b"ping") < 0.2


def test_a_narrow_link_takes_its_time(proxy: Proxy) -> None:
    with socket.create_connection((HOST, proxy.port)) as connection:
        proxy.suffer(Trouble(bytes_per_s=200_000))
        assert echoed(connection, b"x" * 100_000) >= 0.45


def test_lost_chunks_come_late_and_in_order(proxy: Proxy) -> None:
    with socket.create_connection((HOST, proxy.port)) as connection:
        proxy.suffer(Trouble(loss=0.5))
        took = [echoed(connection, b"%02d" % number) for number in range(20)]
        assert max(took) >= 0.2
        assert min(took) < 0.2


def test_a_silent_link_says_nothing_and_goes_on_where_it_stood(proxy: Proxy) -> None:
    with socket.create_connection((HOST, proxy.port)) as connection:
        proxy.suffer(Trouble(silent=True))
        with pytest.raises(TimeoutError):
            echoed(connection, b"anybody?", 0.3)
        proxy.suffer(NONE)
        assert connection.recv(100) == b"anybody?"


def test_a_reset_ends_connections_and_makes_none(proxy: Proxy) -> None:
    with socket.create_connection((HOST, proxy.port)) as connection:
        echoed(connection, b"ping")
        proxy.suffer(Trouble(reset=True))
        with pytest.raises((AssertionError, ConnectionError)):
            echoed(connection, b"ping")
    with (
        socket.create_connection((HOST, proxy.port)) as connection,
        pytest.raises((AssertionError, ConnectionError)),
    ):
        echoed(connection, b"ping")
