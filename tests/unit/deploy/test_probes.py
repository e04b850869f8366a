"""What counts as an answer: only the right bytes, from a server that is there."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from deploy import ports, probes

PROBES: dict[Callable[[int], bool], bytes] = {
    probes.speaks_kafka: b"\x00\x00\x00\x06\x00\x00\x00\x01\x00\x00",
    probes.speaks_redis: b"+PONG\r\n",
    probes.is_healthy: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of a server that gives one connection this answer and closes it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("probe", PROBES)
def test_a_server_is_known_by_its_answer(probe: Callable[[int], bool]) -> None:
    with answering(PROBES[probe]) as port:
        assert probe(port)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"-LOADING the dataset in memory\r\n",
        b"\x00\x00\x00\x06\x00\x00\x00\x02\x00\x00",  # another correlation id
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_any_other_answer_is_none(probe: Callable[[int], bool], answer: bytes) -> None:
    with answering(answer) as port:
        assert not probe(port)


@pytest.mark.parametrize("probe", PROBES)
def test_nobody_there_is_no_answer(probe: Callable[[int], bool]) -> None:
    assert not probe(ports.free_port())
