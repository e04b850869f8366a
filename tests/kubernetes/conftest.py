"""Helm, and the values of the deployments that the tests look at."""

from typing import Any

import pytest

from tests.helm import missing

TRIAL: dict[str, Any] = {"trial": {"enabled": True}}
PRODUCTION: dict[str, Any] = {
    "image": {"repository": "registry.example/headrace", "digest": "sha256:" + "0" * 64},
    "kafka": {
        "bootstrap": "b-1.example:9096,b-2.example:9096",
        "secret": {"name": "headrace-kafka"},
        "ca": {"name": "kafka-ca"},
    },
    "redis": {"secret": {"name": "headrace-redis"}},
    "featureStore": {
        "project": "headrace",
        "provider": "local",
        "registry": {"registry_type": "file", "path": "s3://registry.example/registry.pb"},
        "online_store": {"type": "features.online_store.HeadraceOnlineStore"},
        "entity_key_serialization_version": 3,
    },
    "apply": {"enabled": True},
    "settings": {"HEADRACE_DEDUP_HORIZON_OFFSETS": 200_000},
    "route": {
        "autoscaling": {"enabled": True},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}},
    },
    "aggregate": {"autoscaling": {"enabled": True}},
    "archive": {"enabled": True},
    "ranker": {"autoscaling": {"enabled": True}, "model": {"source": "s3://models.example/home"}},
    "replay": {"enabled": True, "schedule": "0 3 * * *", "args": ["replay", "--help"]},
    "networkPolicy": {
        "callers": [{"namespaceSelector": {"matchLabels": {"name": "feed"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "kafka": {"peers": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]},
    },
    "prometheusOperator": {"enabled": True},
}
GUARDED: dict[str, Any] = PRODUCTION | {
    "ports": {"tls": {"name": "headrace-ports"}, "tokens": {"name": "headrace-tokens"}}
}
DEPLOYMENTS = {"trial": TRIAL, "production": PRODUCTION, "guarded": GUARDED}


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
