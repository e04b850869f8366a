"""Whether what listens on a loopback port answers as the server it should be."""

import http.client
import socket
import ssl
import struct

from deploy.ports import HOST

TIMEOUT_S = 2.0
# Kafka protocol, ApiVersions v0 (key 18), correlation id 1, no client id: any broker answers it.
API_VERSIONS = struct.pack(">hhih", 18, 0, 1, -1)


def speaks_kafka(port: int) -> bool:
    """True if a broker answers an ApiVersions request."""
    try:
        with socket.create_connection((HOST, port), TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(API_VERSIONS)) + API_VERSIONS)
            answer = _read(connection, 10)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)


def speaks_redis(port: int) -> bool:
    """True if a Redis or Valkey server has loaded its data and answers PING."""
    try:
        with socket.create_connection((HOST, port), TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return _read(connection, 5) == b"+PONG"
    except OSError:
        return False


def is_healthy(port: int, tls: ssl.SSLContext | None = None) -> bool:
    """True if GET /healthz answers 200, over TLS if there is a context for it."""
    return _answers_200(port, "/healthz", tls)


def is_ready(port: int) -> bool:
    """True if GET /readyz answers 200."""
    return _answers_200(port, "/readyz")


def _answers_200(port: int, path: str, tls: ssl.SSLContext | None = None) -> bool:
    connection = (
        http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
        if tls is None
        else http.client.HTTPSConnection(HOST, port, timeout=TIMEOUT_S, context=tls)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (more := connection.recv(size - len(received))):
        received += more
    return received
