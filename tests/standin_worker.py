"""A worker that does nothing but answer /healthz, with the settings it was started with."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Healthz(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({name: os.environ[name] for name in os.environ if _ours(name)}).encode()
        self.send_response(200 if self.path == "/healthz" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _ours(name: str) -> bool:
    return name.startswith(("HEADRACE_", "FEAST_"))


if __name__ == "__main__":
    print("a stand-in for", sys.argv[1], flush=True)
    if "dies" in sys.argv:
        sys.exit("it cannot go on")
    setting = "HEADRACE_HTTP_PORT" if sys.argv[1] == "ranker" else "HEADRACE_METRICS_PORT"
    HTTPServer(("127.0.0.1", int(os.environ[setting])), Healthz).serve_forever()
