"""What a security review asks of the chart: the Pod Security Standard "restricted", and more."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm import objects, rendered
from tests.helm import one as the
from tests.kubernetes.conftest import DEPLOYMENTS
from tests.kubernetes.outline import pod_of

GUESTS = ("trial-kafka", "trial-valkey", "test")
every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


def findings(found: list[dict[str, Any]]) -> list[str]:
    """What is wrong with objects, a line each."""
    selected = [
        one["spec"]["podSelector"]["matchLabels"] for one in found if one["kind"] == "NetworkPolicy"
    ]
    lines = []
    for one in found:
        what = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in ("Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            lines.append(f"{what}: the chart makes none")
        if (pod := pod_of(one)) is None:
            continue
        lines += [f"{what}: {why}" for why in _of_pod(pod)]
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            lines += [f"{what}, {container['name']}: {why}" for why in _of_container(container)]
        labels = _labels(one)
        served = labels["app.kubernetes.io/component"] not in GUESTS
        if served and not any(each.items() <= labels.items() for each in selected):
            lines.append(f"{what}: no NetworkPolicy is for its pods")
        if one["kind"] == "Deployment" and served:
            keys = [t["topologyKey"] for t in pod.get("topologySpreadConstraints", [])]
            if keys != ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]:
                lines.append(f"{what}: not spread over zones and nodes")
            if not any(_guards(each, labels) for each in found):
                lines.append(f"{what}: no PodDisruptionBudget")
    return lines


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token of the API server"
    if pod.get("enableServiceLinks") is not False:
        yield "is told of all services"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"has {key}"
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"mounts the node's {volume['hostPath']['path']}"


def _of_container(one: dict[str, Any]) -> Iterator[str]:
    context = one.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write its root file system"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("privileged"):
        yield "is privileged"
    requests, limits = (one.get("resources", {}).get(k, {}) for k in ("requests", "limits"))
    if not {"cpu", "memory"} <= requests.keys() or "memory" not in limits:
        yield "has no requests, or no limit of memory"
    image = one["image"].rpartition("/")[2]
    if (":" not in image and "@" not in image) or image.endswith(":latest"):
        yield f"image {one['image']} has no version"
    for entry in one.get("env", []):
        word = entry["name"].rpartition("_")[2]
        if word in ("PASSWORD", "TOKEN", "SECRET") and "valueFrom" not in entry:
            yield f"{entry['name']} stands there in plain"


def _labels(one: dict[str, Any]) -> dict[str, str]:
    if one["kind"] == "Pod":
        return dict(one["metadata"]["labels"])
    spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
    return dict(spec["template"]["metadata"]["labels"])


def _guards(each: dict[str, Any], labels: dict[str, str]) -> bool:
    if each["kind"] != "PodDisruptionBudget":
        return False
    selected: dict[str, str] = each["spec"]["selector"]["matchLabels"]
    return selected.items() <= labels.items()


@every_deployment
def test_a_review_finds_nothing(name: str) -> None:
    assert findings(objects(rendered(DEPLOYMENTS[name]))) == []


def test_a_review_would_find_each_of_these() -> None:
    found = objects(rendered(DEPLOYMENTS["production"]))
    found = [o for o in found if o["kind"] not in ("NetworkPolicy", "PodDisruptionBudget")]
    ranker = the(found, "Deployment", "feed-ranker")
    pod = ranker["spec"]["template"]["spec"]
    pod["securityContext"] = {}
    pod["hostNetwork"] = True
    del pod["topologySpreadConstraints"], pod["automountServiceAccountToken"]
    pod["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}})
    container = pod["containers"][0]
    container["image"] = "registry.example:5000/headrace"
    container["securityContext"] = {"privileged": True}
    container["resources"] = {}
    container["env"].append({"name": "HEADRACE_KAFKA_PASSWORD", "value": "hunter2"})
    found.append({"kind": "Secret", "metadata": {"name": "leak"}})
    text = "\n".join(findings(found))
    for word in (
        "may run as root", "no seccomp", "token of the API", "hostNetwork", "node's /etc",
        "may gain", "may write", "keeps capabilities", "is privileged", "no requests",
        "no version", "in plain", "no NetworkPolicy", "no PodDisruptionBudget", "not spread",
        "makes none",
    ):  # fmt: skip
        assert word in text, word
