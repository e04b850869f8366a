"""The chart in a real API server, over simulated nodes: `make cluster-test`.

What Kubernetes makes of the chart's objects: admission, scheduling, rollouts, budgets, scaling. No
image runs: that is `make image`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.kubernetes.cluster.binaries import missing
from tests.kubernetes.cluster.control_plane import NAMESPACE, Cluster, control_plane
from tests.kubernetes.cluster.measured import Measured, served_metrics
from tests.kubernetes.cluster.nodes import Nodes, simulated_nodes
from tests.kubernetes.conftest import PRODUCTION
from tests.waiting import until

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("HEADRACE_TEST_CLUSTER"),
        reason="asked for by make cluster-test",
    ),
    pytest.mark.timeout(900),
]
SOON_S = 180.0
GROUPS = {
    "keda.sh": ("v1alpha1", "ScaledObject", "TriggerAuthentication"),
    "monitoring.coreos.com": ("v1", "PodMonitor", "PrometheusRule", "ServiceMonitor"),
}
RANKERS, WORKERS = 3, 2
Tell = Callable[..., None]


@pytest.fixture(scope="module")
def tell() -> Iterator[Tell]:
    """Takes a row of the table that is printed at the end."""
    table = Table("step", "asked", "seen", "seconds", title="the chart in a cluster")
    began = [time.monotonic()]

    def row(step: str, asked: str, seen: str) -> None:
        table.add_row(step, asked, seen, f"{time.monotonic() - began[0]:.0f}")
        began[0] = time.monotonic()

    yield row
    Console(width=150).print("\n", table)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if (why := missing()) is not None:
        pytest.skip(why)
    with control_plane(tmp_path_factory.mktemp("cluster")) as made:
        for group, (version, *kinds) in GROUPS.items():
            for kind in kinds:
                made.kubectl("create", "-f", "-", given=_definition(group, version, kind))
        made.kubectl("create", "-f", "-", given=_namespace())
        yield made


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    with simulated_nodes(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def measured(cluster: Cluster, nodes: Nodes) -> Iterator[Measured]:
    with served_metrics(cluster, nodes) as made:
        yield made


@pytest.fixture
def installed(cluster: Cluster, nodes: Nodes, measured: Measured) -> Cluster:
    """With the production deployment, as it is after the first installation."""
    done = cluster.release(_values("first"))
    assert done.returncode == 0, done.stderr

    def scaled() -> bool:
        """The autoscaler sets how many rankers there are: of a new Deployment, one at first."""
        return _wished(cluster) == RANKERS and _settled(cluster)

    until(scaled, SOON_S, "for the rankers", 0.2)
    nodes.begin()
    return cluster


def _values(version: str) -> dict[str, Any]:
    """The production deployment, at a version of the image."""
    values = {key: value for key, value in PRODUCTION.items() if key != "image"}
    values["image"] = {"repository": "registry.example/headrace", "tag": version}
    # KEDA is not here: what it would set is set.
    for worker in ("route", "aggregate"):
        values[worker] = {"replicas": WORKERS}
    return values


def _definition(group: str, version: str, kind: str) -> dict[str, Any]:
    """An operator's kind of object, with any fields; what they are is `test_operators`' affair."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    said = {"name": version, "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [{**said, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def _namespace() -> dict[str, Any]:
    """Where nothing is let in that the Pod Security Standard `restricted` does not allow."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _images(nodes: Nodes, component: str) -> set[str]:
    """The tags that pods of a component run, without those that are told to go."""
    staying = [p for p in nodes.pods(component) if "deletionTimestamp" not in p["metadata"]]
    return {c["image"].rpartition(":")[2] for p in staying for c in p["spec"]["containers"]}


def _wished(cluster: Cluster) -> int:
    """How many rankers there shall be."""
    return int(cluster.get("deployment", "feed-ranker")["spec"]["replicas"])


def _settled(cluster: Cluster) -> bool:
    """Whether every Deployment has as many as it wants, all new, and none on its way out."""
    return all(
        one["status"].get("observedGeneration") == one["metadata"]["generation"]
        and one["status"].get("updatedReplicas") == one["spec"]["replicas"]
        and one["status"].get("availableReplicas") == one["spec"]["replicas"]
        and one["status"].get("replicas") == one["spec"]["replicas"]
        for one in cluster.get("deployments")
    )


def test_it_is_let_in_and_spread_over_zones(installed: Cluster, nodes: Nodes, tell: Tell) -> None:
    rankers = nodes.pods("ranker")
    places = {pod["spec"]["nodeName"] for pod in rankers}
    assert len(rankers) == RANKERS
    assert len({place[:-1] for place in places}) == 3  # node-a1 is in zone a
    kinds = [one["kind"] for one in installed.get("deployments,cronjobs,hpa,pdb,networkpolicies")]
    assert kinds.count("Deployment") == 4
    tell(
        "install",
        "Pod Security `restricted` enforced; hook before all else; ready",
        f"{len(kinds)} objects, rankers in {len(places)} zones",
    )


def test_what_the_policy_of_the_namespace_forbids_is_not_let_in(installed: Cluster) -> None:
    """What the test above says is the namespace's doing."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "c", "image": "i", "securityContext": {"runAsUser": 0}}]},
    }
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        installed.kubectl("create", "-f", "-", given=pod)


def test_a_rollout_keeps_every_ranker_and_takes_one_worker_at_a_time(
    installed: Cluster, nodes: Nodes, tell: Tell
) -> None:
    done = installed.release(_values("second"))
    assert done.returncode == 0, done.stderr
    until(lambda: _settled(installed), SOON_S, "for the old to go", 0.2)
    assert _images(nodes, "ranker") == _images(nodes, "route") == {"second"}
    assert nodes.fewest_ready("ranker") >= RANKERS
    for worker in ("route", "aggregate"):
        assert nodes.fewest_ready(worker) >= WORKERS - 1
    tell(
        "rollout",
        f"{RANKERS} rankers ready at any time; one worker away at most",
        f"fewest ready: ranker {nodes.fewest_ready('ranker')}, "
        f"route {nodes.fewest_ready('route')}, aggregate {nodes.fewest_ready('aggregate')}",
    )


def test_an_image_that_does_not_start_takes_no_ranker_away_and_is_rolled_back(
    installed: Cluster, nodes: Nodes, tell: Tell
) -> None:
    values = {**_values("broken"), "apply": {"enabled": False}}
    done = installed.release(values, "--timeout", "15s")
    assert done.returncode != 0
    assert nodes.fewest_ready("ranker") >= RANKERS
    back = installed.helm("rollback", "feed", "--wait", "--timeout", "120s")
    assert back.returncode == 0, back.stderr
    until(lambda: _settled(installed), SOON_S, "for what is broken to go", 0.2)
    assert _images(nodes, "ranker") == _images(nodes, "route") == {"first"}
    assert nodes.fewest_ready("ranker") >= RANKERS
    assert nodes.fewest_ready("route") >= WORKERS - 1
    tell(
        "rollback",
        "a broken image is never served; `helm rollback` brings the old one back",
        f"fewest ready: ranker {nodes.fewest_ready('ranker')}, route {nodes.fewest_ready('route')}",
    )


def _drained(cluster: Cluster, nodes: Nodes, component: str) -> list[str]:
    """Drains every node that has a pod of a component, all at once; gives them back afterwards."""
    places = sorted({pod["spec"]["nodeName"] for pod in nodes.pods(component)})
    nodes.begin()

    def drain(place: str) -> None:
        options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=150s")
        cluster.kubectl("drain", place, *options, timeout_s=170)

    with ThreadPoolExecutor(len(places)) as pool:
        list(pool.map(drain, places))
    until(lambda: _settled(cluster), SOON_S, "for the moved to be ready", 0.2)
    for place in places:
        cluster.kubectl("uncordon", place)
    return places


def test_nodes_that_are_drained_together_take_one_ranker_at_a_time(
    installed: Cluster, nodes: Nodes, tell: Tell
) -> None:
    places = _drained(installed, nodes, "ranker")
    assert len(places) == RANKERS
    assert nodes.fewest_ready("ranker") >= RANKERS - 1
    guarded = nodes.fewest_ready("ranker")
    installed.kubectl("-n", NAMESPACE, "delete", "pdb", "feed-ranker")
    _drained(installed, nodes, "ranker")
    unguarded = nodes.fewest_ready("ranker")
    assert unguarded < RANKERS - 1  # else the budget was not what held it
    tell(
        "drain",
        f"{len(places)} nodes at once, each with a ranker: one ranker away at a time",
        f"fewest ready {guarded}; without the budget {unguarded}",
    )


def test_rankers_follow_requests_in_flight_and_none_goes_while_people_turn_away(
    installed: Cluster, nodes: Nodes, measured: Measured, tell: Tell
) -> None:
    measured.external["headrace_ranker_in_flight"] = 27  # 3 for each replica are wished for
    until(lambda: _wished(installed) == 9, SOON_S, "for more rankers", 0.5)
    until(lambda: nodes.fewest_ready("ranker") >= RANKERS and _settled(installed), SOON_S)
    tell(
        "scale out", "27 requests in flight, 3 for each: 9 rankers", f"{_wished(installed)} rankers"
    )
    # Its own pace would take ten minutes; the rule is the same.
    at_once = {"stabilizationWindowSeconds": 0, "policies": [_policy()], "selectPolicy": "Max"}
    patch = {"spec": {"behavior": {"scaleDown": at_once}}}
    measured.external["headrace_ranker_replicas_to_keep"] = 9
    measured.external["headrace_ranker_in_flight"] = 3
    installed.kubectl("-n", NAMESPACE, "patch", "hpa", "feed-ranker", "-p", json.dumps(patch))
    looked = measured.asked["headrace_ranker_replicas_to_keep"] + 4
    until(
        lambda: measured.asked["headrace_ranker_replicas_to_keep"] >= looked,
        SOON_S,
        "for the autoscaler to look",
        0.1,
    )
    assert _wished(installed) == 9
    measured.external["headrace_ranker_replicas_to_keep"] = 0
    until(lambda: _wished(installed) == RANKERS, SOON_S, "for fewer rankers", 0.5)
    tell(
        "scale in",
        "3 in flight: none goes while the guard says keep 9, then down to 3 (no wait)",
        f"kept 9, then {_wished(installed)}",
    )
    measured.external.clear()


def _policy() -> dict[str, Any]:
    return {"type": "Percent", "value": 100, "periodSeconds": 1}
