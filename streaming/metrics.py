"""What a worker tells the world: Prometheus metrics and a health answer, over HTTP."""

import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client import Counter as Total


class Observer:
    """Totals and gauges of one worker. Names are few and fixed, so labels stay bounded."""

    def __init__(self, process: str) -> None:
        self.registry = CollectorRegistry()
        self._totals = Total(
            "headrace_events",
            "What a streaming worker did, by kind.",
            ("process", "kind"),
            registry=self.registry,
        )
        self._gauges = Gauge(
            "headrace_state",
            "Where a streaming worker stands, by kind.",
            ("process", "kind"),
            registry=self.registry,
        )
        self._process = process

    def add(self, counts: Counter[str]) -> None:
        """Count what happened since the last call."""
        for kind, amount in counts.items():
            if amount:
                self._totals.labels(self._process, kind).inc(amount)

    def set(self, kind: str, value: float) -> None:
        """Say where something stands."""
        self._gauges.labels(self._process, kind).set(value)


def serve_health(observer: Observer, port: int, healthy: Callable[[], bool]) -> Callable[[], None]:
    """Answer /metrics and /healthz on a port (0: not at all); returns what stops it."""
    if port == 0:
        return lambda: None

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, generate_latest(observer.registry))
            elif self.path in ("/healthz", "/readyz"):
                good = healthy()
                self._answer(200 if good else 503, b"ok\n" if good else b"not joined yet\n")
            else:
                self._answer(404, b"try /metrics or /healthz\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Health probes are not news."""

    server = ThreadingHTTPServer(("0.0.0.0", port), Answers)
    threading.Thread(target=server.serve_forever, daemon=True, name="health").start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
