"""The collector in the cluster: what it scrapes of the processes, and how CloudWatch is told.

AWS's distribution of the OpenTelemetry collector. It writes structured logs (EMF) of which
CloudWatch makes metrics: those that an alarm watches, and no more.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from deploy.aws.alarms import CLUSTER, NAMESPACE, WATCHED, Series
from deploy.aws.settings import StackSettings

NAME: Final = "headrace-collector"
REPLICAS: Final = 2
"""Both tell all: shares and largest values stay what they are, and one of them may be away."""
SCRAPE_S: Final = 30
"""Half of an alarm's minute, so that no minute is without a word."""
PORTS: Final = {"http": 8080, "metrics": 9100}
"""The chart's, by the names that its pods give them."""
HEALTH_PORT: Final = 13133
USER: Final = 10001
TOKENS: Final = "/etc/collector/tokens"
LABELS: Final = {"app.kubernetes.io/name": NAME}
PODS: Final = {"app.kubernetes.io/name": "headrace"}


def config(settings: StackSettings, log_group: str) -> dict[str, Any]:
    """The collector's configuration."""
    return {
        "extensions": {"health_check": {"endpoint": f"0.0.0.0:{HEALTH_PORT}"}},
        "receivers": {"prometheus": {"config": {"scrape_configs": [_scrape(settings)]}}},
        "processors": {
            "memory_limiter": {
                "check_interval": "1s", "limit_percentage": 80, "spike_limit_percentage": 20,
            },
            # The receiver adds metrics of its own, as `up`, to each scrape.
            "filter": {
                "metrics": {
                    "include": {"match_type": "strict", "metric_names": list(_metrics())}
                }
            },
        },
        "exporters": {
            "awsemf": {
                "namespace": NAMESPACE,
                "region": settings.region,
                "log_group_name": log_group,
                "log_stream_name": "${env:POD_NAME}",
                "dimension_rollup_option": "NoDimensionRollup",
                "metric_declarations": declarations(),
            }
        },
        "service": {
            "extensions": ["health_check"],
            "pipelines": {
                "metrics": {
                    "receivers": ["prometheus"],
                    "processors": ["memory_limiter", "filter"],
                    "exporters": ["awsemf"],
                }
            },
            "telemetry": {"metrics": {"level": "none"}},
        },
    }  # fmt: skip


def declarations() -> list[dict[str, Any]]:
    """Which metric CloudWatch is told, by which dimensions; `$$` is the collector's `$`."""
    made = []
    for metric in _metrics():
        alike: dict[tuple[str, ...], list[Series]] = {}
        for one in WATCHED:
            if one.metric == metric:
                alike.setdefault(tuple(label for label, _ in one.labels), []).append(one)
        for labels, series in alike.items():
            declaration: dict[str, Any] = {
                "dimensions": [[CLUSTER, *labels]],
                "metric_name_selectors": [f"^{metric}$$"],
            }
            if labels:
                values = "|".join(";".join(value for _, value in one.labels) for one in series)
                declaration["label_matchers"] = [
                    {"label_names": list(labels), "separator": ";", "regex": f"^({values})$$"}
                ]
            made.append(declaration)
    return made


def _metrics() -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.metric for one in WATCHED))


def _scrape(settings: StackSettings) -> dict[str, Any]:
    labels = sorted({label for one in WATCHED for label, _ in one.labels})
    made: dict[str, Any] = {
        "job_name": "headrace",
        "scrape_interval": f"{SCRAPE_S}s",
        "scrape_timeout": "10s",
        "kubernetes_sd_configs": [
            {
                "role": "pod",
                "namespaces": {"names": [settings.namespace]},
                "selectors": [{"role": "pod", "label": _selector()}],
            }
        ],
        "relabel_configs": [
            {
                "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                "regex": "|".join(PORTS),
                "action": "keep",
            },
            {
                "source_labels": ["__meta_kubernetes_pod_phase"],
                "regex": "Pending|Running",
                "action": "keep",
            },
            # Without it the counters of two pods would be one that jumps to and fro.
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {"target_label": CLUSTER, "replacement": settings.name},
        ],
        "metric_relabel_configs": [
            {
                "source_labels": ["__name__", *labels],
                "regex": "|".join(_pattern(one, labels) for one in WATCHED),
                "action": "keep",
            }
        ],
    }
    if settings.ports_tls:
        made["scheme"] = "https"
        # A pod is asked by its address, which the certificate does not name.
        made["tls_config"] = {"insecure_skip_verify": True}
    if settings.ports_tokens:
        made["authorization"] = {"credentials_file": f"{TOKENS}/token"}
    return made


def _pattern(one: Series, labels: Sequence[str]) -> str:
    values = dict(one.labels)
    return ";".join([one.metric, *(values.get(label, "[^;]*") for label in labels)])


def _selector() -> str:
    return ",".join(f"{label}={value}" for label, value in PODS.items())


def manifests(settings: StackSettings, role: str, log_group: str) -> Iterator[dict[str, Any]]:
    """What Kubernetes is given beside the namespace. `role`: the ARN of who writes the log."""
    content = json.dumps(config(settings, log_group), indent=1)
    yield _made(settings, "v1", "ServiceAccount", automountServiceAccountToken=False) | {
        "metadata": _metadata(settings) | {"annotations": {"eks.amazonaws.com/role-arn": role}}
    }
    role_kind, group = "Role", "rbac.authorization.k8s.io"
    may = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    yield _made(settings, f"{group}/v1", role_kind, rules=[may])
    yield _made(
        settings,
        f"{group}/v1",
        "RoleBinding",
        roleRef={"apiGroup": group, "kind": role_kind, "name": NAME},
        subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": settings.namespace}],
    )
    # JSON is YAML.
    yield _made(settings, "v1", "ConfigMap", data={"collector.yaml": content})
    yield _made(
        settings,
        "policy/v1",
        "PodDisruptionBudget",
        spec={"maxUnavailable": 1, "selector": {"matchLabels": LABELS}},
    )
    yield _made(settings, "networking.k8s.io/v1", "NetworkPolicy", spec=_network())
    yield _made(settings, "apps/v1", "Deployment", spec=_deployment(settings, content))


def _made(settings: StackSettings, version: str, kind: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": _metadata(settings), **rest}


def _metadata(settings: StackSettings) -> dict[str, Any]:
    return {"name": NAME, "namespace": settings.namespace, "labels": LABELS}


def _network() -> dict[str, Any]:
    """Nobody calls it but kubelets, which are never refused."""
    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return {
        "podSelector": {"matchLabels": LABELS},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": [
            {"ports": dns},
            {"ports": [{"port": 443}]},
            {
                "ports": [{"port": port} for port in PORTS.values()],
                "to": [{"podSelector": {"matchLabels": PODS}}],
            },
        ],
    }


def _deployment(settings: StackSettings, content: str) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": True,  # it asks for pods
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": LABELS},
            }
        ],
        "containers": [_container(settings)],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    }
    if settings.ports_tokens:
        item = {"key": settings.ports_token_key, "path": "token"}
        secret = {"secretName": settings.ports_tokens, "items": [item]}
        pod["volumes"].append({"name": "tokens", "secret": secret})
    # It reads its configuration once.
    changed = {"headrace.dev/config": hashlib.sha256(content.encode()).hexdigest()[:16]}
    return {
        "replicas": REPLICAS,
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS, "annotations": changed}, "spec": pod},
    }


def _container(settings: StackSettings) -> dict[str, Any]:
    mounts = [{"name": "config", "mountPath": "/etc/collector/config", "readOnly": True}]
    if settings.ports_tokens:
        mounts.append({"name": "tokens", "mountPath": TOKENS, "readOnly": True})
    probe = {"httpGet": {"path": "/", "port": HEALTH_PORT}}
    return {
        "name": "collector",
        "image": settings.collector_image,
        "args": ["--config=/etc/collector/config/collector.yaml"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "AWS_REGION", "value": settings.region},
        ],
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"},
        },
        "readinessProbe": probe,
        "livenessProbe": probe | {"periodSeconds": 20, "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }  # fmt: skip
