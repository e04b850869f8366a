"""A worker's own port: its metrics and a health answer, over HTTP or HTTPS."""

import contextlib
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from features.errors import Refused
from features.guard import REALM, Guard
from streaming.metrics import Observer
from streaming.settings import StreamingSettings

log = logging.getLogger("headrace")

SILENCE_S: Final = 10.0
"""A caller that says nothing for so long is let go; the handshake counts."""


def serve_health(
    observer: Observer, settings: StreamingSettings, healthy: Callable[[], bool]
) -> Callable[[], None]:
    """Answer /metrics, /healthz and /livez on the settings' port (0: none); returns what stops it.

    A worker that holds or stopped a partition is alive: a restart would mend nothing. The answer
    says so in a line each. Raises Refused where the port is taken or a certificate is of no use.
    """
    port, guard = settings.metrics_port, Guard.of(None, settings.admin_tokens)
    if port == 0:
        return lambda: None

    class Answers(BaseHTTPRequestHandler):
        timeout = SILENCE_S

        def do_GET(self) -> None:
            if self.path == "/metrics":
                if guard.admits("admin", self.headers.get("authorization")):
                    self._answer(200, observer.exposition())
                else:
                    self._answer(401, b"a token is needed\n", {"WWW-Authenticate": REALM})
            elif self.path in ("/healthz", "/readyz"):
                good = healthy()
                lines = ["ok" if good else "not joined yet", *observer.faults()]
                self._answer(200 if good else 503, "".join(f"{x}\n" for x in lines).encode())
            elif self.path == "/livez":
                self._answer(200, b"ok\n")
            else:
                self._answer(404, b"try /metrics, /healthz or /livez\n")

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Health probes are not news."""

    try:
        server = _Server(port, Answers, settings.server_tls())
    except (ssl.SSLError, OSError) as error:
        raise Refused(
            f"metrics cannot be served ({error}): check HEADRACE_METRICS_PORT={port} and the "
            "HEADRACE_TLS_ files"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True, name="health").start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop


class _Server(ThreadingHTTPServer):
    """Makes each caller's handshake on a thread of its own: a slow one holds up nobody."""

    def __init__(
        self, port: int, answers: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None
    ) -> None:
        self._tls = tls
        super().__init__(("0.0.0.0", port), answers)

    def get_request(self) -> tuple[socket.socket, Any]:
        caller, address = super().get_request()
        if self._tls is not None:
            caller = self._tls.wrap_socket(
                caller, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
        return caller, address

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):  # who was refused has gone
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("%s was not served: %s", client_address[0], error)
        else:
            log.error("the metrics port failed", exc_info=error)
