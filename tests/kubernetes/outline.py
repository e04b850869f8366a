"""What a person looks for in manifests, short enough to read."""

from collections.abc import Sequence
from typing import Any


def outline(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Kind and name of each object, with what matters about it."""
    rows = {f"{one['kind']} {one['metadata']['name']}": _told(one) for one in found}
    return dict(sorted(rows.items()))


def pod_of(one: dict[str, Any]) -> dict[str, Any] | None:
    """The specification of the pods that an object makes, if it makes any."""
    spec = one.get("spec", {})
    if one["kind"] == "Pod":
        return dict(spec)
    if one["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    made: dict[str, Any] | None = spec.get("template", {}).get("spec")
    return made


def _told(one: dict[str, Any]) -> Any:
    spec = one.get("spec", {})
    if (pod := pod_of(one)) is not None:
        containers = (*pod.get("initContainers", ()), *pod["containers"])
        return {
            **{key: spec[key] for key in ("replicas", "schedule") if key in spec},
            "stop": pod.get("terminationGracePeriodSeconds"),
            **{c["name"]: _container(c) for c in containers},
        }
    match one["kind"]:
        case "Service":
            return " ".join(f"{port['name']}:{port['port']}" for port in spec["ports"])
        case "ServiceAccount":
            return one["metadata"].get("annotations")
        case "PodDisruptionBudget":
            return {k: v for k, v in spec.items() if k.endswith("vailable")}
        case "NetworkPolicy":
            return {
                "in": [_ports(rule) for rule in spec["ingress"]],
                "out": [_ports(rule) for rule in spec["egress"]],
            }
        case "ScaledObject":
            return [
                f"{spec['minReplicaCount']} to {spec['maxReplicaCount']}",
                *(trigger["metadata"] for trigger in spec["triggers"]),
            ]
        case "HorizontalPodAutoscaler":
            return [
                f"{spec['minReplicas']} to {spec['maxReplicas']}",
                *(_metric(metric) for metric in spec["metrics"]),
            ]
        case "PrometheusRule":
            return [rule["record"] for group in spec["groups"] for rule in group["rules"]]
    return None


def _metric(one: dict[str, Any]) -> dict[str, Any]:
    if one["type"] == "Resource":
        return {one["resource"]["name"]: one["resource"]["target"]}
    return {one["external"]["metric"]["name"]: one["external"]["target"]}


def _container(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "runs": " ".join(one.get("command", []) + one.get("args", [])),
        "env": " ".join(
            entry["name"].removeprefix("HEADRACE_")
            + (f"={entry['value']}" if "value" in entry else " (secret)")
            for entry in one.get("env", [])
        ),
        "resources": " ".join(
            f"{bound[:3]}:{kind}={size}"
            for bound in ("requests", "limits")
            for kind, size in one["resources"].get(bound, {}).items()
        ),
        "probes": " ".join(
            f"{kind.removesuffix('Probe')}:{_asked(one[kind])}"
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if kind in one
        ),
        "mounts": " ".join(mount["mountPath"] for mount in one.get("volumeMounts", [])),
    }


def _asked(probe: dict[str, Any]) -> str:
    request = probe.get("httpGet", {"path": "tcp"})
    return " ".join(filter(None, (request.get("scheme"), request["path"])))


def _ports(rule: dict[str, Any]) -> str:
    ports = ",".join(str(port["port"]) for port in rule["ports"])
    peers = rule.get("to", rule.get("from"))
    return ports + (f" ({len(peers)} peers)" if peers else "")
