"""The container's own health check: whichever process runs, it is asked."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from deploy.healthcheck import healthy
from deploy.ports import HOST, free_port


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["HEADRACE_METRICS_PORT", "HEADRACE_HTTP_PORT"])
@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_a_process_is_as_well_as_it_says(name: str, status: int, well: bool) -> None:
    handler = type("Handler", (Answering,), {"status": status})
    ports = {"HEADRACE_METRICS_PORT": "0", "HEADRACE_HTTP_PORT": str(free_port())}
    with HTTPServer((HOST, 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert healthy({**ports, name: str(server.server_address[1])}) is well
        server.shutdown()


def test_nobody_there_is_not_well() -> None:
    assert not healthy({"HEADRACE_METRICS_PORT": "0", "HEADRACE_HTTP_PORT": str(free_port())})
