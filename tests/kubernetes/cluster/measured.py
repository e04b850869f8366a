"""The metrics that a cluster scales by, as an adapter would serve them, and a test sets them."""

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.ports import HOST
from tests.kubernetes.cluster.control_plane import NAMESPACE, Cluster
from tests.kubernetes.cluster.nodes import Nodes

EXTERNAL, RESOURCE = "external.metrics.k8s.io", "metrics.k8s.io"


@dataclass
class Measured:
    """What is measured now."""

    external: dict[str, int] = field(default_factory=dict)
    """By name of an external metric."""
    cpu_millicores: int = 100
    """Of each ranker."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often the autoscaler asked for an external metric."""


@contextmanager
def served_metrics(cluster: Cluster, nodes: Nodes) -> Iterator[Measured]:
    """An API server of both kinds of metrics, behind the cluster's own."""
    measured = Measured()
    server = ThreadingHTTPServer((HOST, 0), _answers(measured, nodes))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cluster.folder / "server.pem", cluster.folder / "server-key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True, name="metrics").start()
    try:
        cluster.kubectl("apply", "-f", "-", given=_behind(server.server_address[1]))
        yield measured
    finally:
        server.shutdown()
        server.server_close()


def _behind(port: int) -> dict[str, Any]:
    where = {"namespace": "kube-system", "name": "measured"}
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": where,
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    apis: list[dict[str, Any]] = [
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{group}"},
            "spec": {
                "service": {**where, "port": port},
                "group": group,
                "version": "v1beta1",
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        }
        for group in (EXTERNAL, RESOURCE)
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [service, *apis]}


def _answers(measured: Measured, nodes: Nodes) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/").split("/")
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            if len(path) <= 3:
                self._say(_resources(path[1] if len(path) > 1 else EXTERNAL))
            elif path[1] == EXTERNAL:
                name = path[-1]
                measured.asked[name] += 1
                item: dict[str, Any] = {"metricName": name, "metricLabels": {}, "timestamp": now}
                items = [{**item, "value": str(measured.external.get(name, 0))}]
                self._say(_list(EXTERNAL, "ExternalMetricValueList", items))
            else:
                usage = {"cpu": f"{measured.cpu_millicores}m", "memory": "500Mi"}
                items = [
                    {
                        "metadata": {"name": pod["metadata"]["name"], "namespace": NAMESPACE},
                        "timestamp": now,
                        "window": "10s",
                        "containers": [{"name": "ranker", "usage": usage}],
                    }
                    for pod in nodes.pods("ranker")
                ]
                self._say(_list(RESOURCE, "PodMetricsList", items))

        def _say(self, body: Any) -> None:
            text = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nobody reads them."""

    return Answers


def _list(group: str, kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": f"{group}/v1beta1", "metadata": {}, "items": items}


def _resources(group: str) -> dict[str, Any]:
    """What a group has: an adapter lists each metric, the autoscaler asks for it by name."""
    pods = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics"}
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/v1beta1",
        "resources": [{**pods, "verbs": ["get", "list"]}] if group == RESOURCE else [],
    }
