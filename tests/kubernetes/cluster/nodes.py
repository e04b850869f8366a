"""Nodes that are not there: pods bound to them become ready, and go, as a kubelet would report.

No image is pulled, no probe asked, nothing runs: what is tested is what Kubernetes does with the
chart's objects, not the processes. A pod whose image holds `broken` never starts.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from tests.kubernetes.cluster.control_plane import NAMESPACE, Cluster

ZONES: Final = ("a", "b", "c")
START_S: Final = 1.0
"""From being bound to a node until readiness; and half of it from SIGTERM until the end."""
COMPONENT: Final = "app.kubernetes.io/component"
_JSON: Final = {"content-type": "application/strategic-merge-patch+json"}


class Nodes:
    """What the nodes report, and how many pods of each component were ready."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods: dict[str, dict[str, Any]] = {}
        self._due: dict[str, float] = {}
        self._changed = threading.Lock()
        self._stopped = threading.Event()
        self._fewest: dict[str, int] = {}

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Those of a component that are there now."""
        with self._changed:
            return [pod for pod in self._pods.values() if _component(pod) == component]

    def begin(self) -> None:
        """Look anew from here on."""
        with self._changed:
            self._fewest = dict(self._ready())

    def fewest_ready(self, component: str) -> int:
        """The fewest that were ready at any time since `begin`."""
        return self._fewest[component]

    def watch(self) -> None:
        """Follow every change of the pods, until stopped."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        with (
            self._until_stopped(),
            self._cluster.client() as client,
            client.stream("GET", path, params={"watch": "1"}, timeout=None) as stream,
        ):
            for line in stream.iter_lines():
                self._take(json.loads(line))

    def report(self) -> None:
        """Do what kubelets would for each pod, until stopped."""
        with self._until_stopped(), self._cluster.client() as client:
            while not self._stopped.wait(0.05):
                with self._changed:
                    pods = dict(self._pods)
                for uid, pod in pods.items():
                    self._tend(client, uid, pod)

    def stop(self) -> None:
        """End both."""
        self._stopped.set()

    @contextmanager
    def _until_stopped(self) -> Iterator[None]:
        """The API server may go first."""
        try:
            yield
        except httpx.HTTPError:
            if not self._stopped.is_set():
                raise

    def _take(self, event: Mapping[str, Any]) -> None:
        pod = event["object"]
        with self._changed:
            if event["type"] == "DELETED":
                self._pods.pop(pod["metadata"]["uid"], None)
            else:
                self._pods[pod["metadata"]["uid"]] = pod
            ready = self._ready()
            for component, fewest in self._fewest.items():
                self._fewest[component] = min(fewest, ready[component])

    def _ready(self) -> Counter[str]:
        return Counter(_component(pod) for pod in self._pods.values() if _is_ready(pod))

    def _tend(self, client: httpx.Client, uid: str, pod: dict[str, Any]) -> None:
        """One step of a pod's life, when it is time for it."""
        metadata, spec = pod["metadata"], pod["spec"]
        phase = pod.get("status", {}).get("phase")
        leaving = "deletionTimestamp" in metadata
        if "nodeName" not in spec:
            return
        step = "end" if leaving else "start" if phase == "Pending" else "finish"
        wanted = leaving or phase == "Pending" or (phase == "Running" and _is_of_a_job(pod))
        if not wanted or (step == "start" and _is_broken(pod)):
            return
        wait_s = START_S if step == "start" else START_S / 2
        due = self._due.setdefault(f"{uid} {step}", time.monotonic() + wait_s)
        if time.monotonic() < due:
            return
        self._due[f"{uid} {step}"] = time.monotonic() + 10 * START_S  # if it came to nothing
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{metadata['name']}"
        if leaving:
            body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            client.request("DELETE", path, json=body)
        else:
            status = json.dumps({"status": _status(pod, finished=step == "finish")})
            client.patch(f"{path}/status", content=status, headers=_JSON)


def _component(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("labels", {}).get(COMPONENT, ""))


def _is_of_a_job(pod: Mapping[str, Any]) -> bool:
    return any(one["kind"] == "Job" for one in pod["metadata"].get("ownerReferences", ()))


def _is_broken(pod: Mapping[str, Any]) -> bool:
    return any("broken" in one["image"] for one in pod["spec"]["containers"])


def _is_ready(pod: Mapping[str, Any]) -> bool:
    """Ready, and told nothing else: who is told to go is out of its Services at once."""
    conditions = pod.get("status", {}).get("conditions", ())
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _status(pod: Mapping[str, Any], finished: bool) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    done = {"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}}
    going = {"running": {"startedAt": now}}
    ready = "False" if finished else "True"

    def told(container: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
        said = {"name": container["name"], "image": container["image"], "imageID": "simulated"}
        return {**said, "ready": not finished, "restartCount": 0, "state": state}

    spec = pod["spec"]
    return {
        "phase": "Succeeded" if finished else "Running",
        "startTime": now,
        "podIP": "127.0.0.1",
        "conditions": [
            {"type": "Initialized", "status": "True", "lastTransitionTime": now},
            {"type": "ContainersReady", "status": ready, "lastTransitionTime": now},
            {"type": "Ready", "status": ready, "lastTransitionTime": now},
        ],
        "initContainerStatuses": [told(c, done) for c in spec.get("initContainers", ())],
        "containerStatuses": [told(c, done if finished else going) for c in spec["containers"]],
    }


def node(zone: str, number: int) -> dict[str, Any]:
    """A node of Graviton's kind: 4 cores, 16 GiB."""
    size = {"cpu": "4", "memory": "16Gi", "pods": "50", "ephemeral-storage": "100Gi"}
    name = f"node-{zone}{number}"
    labels = {
        "kubernetes.io/arch": "arm64",
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": f"zone-{zone}",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": size,
            "allocatable": size,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated"}],
        },
    }


@contextmanager
def simulated_nodes(cluster: Cluster) -> Iterator[Nodes]:
    """Three nodes in each of three zones, inside the `with`."""
    nodes = Nodes(cluster)
    with cluster.client() as client:
        for zone in ZONES:
            for number in range(1, 4):
                one = node(zone, number)
                client.post("/api/v1/nodes", json=one).raise_for_status()
                client.patch(
                    f"/api/v1/nodes/{one['metadata']['name']}/status",
                    content=json.dumps({"status": one["status"]}),
                    headers=_JSON,
                ).raise_for_status()
    for work in (nodes.watch, nodes.report):
        threading.Thread(target=work, daemon=True, name=f"nodes-{work.__name__}").start()
    try:
        yield nodes
    finally:
        nodes.stop()
