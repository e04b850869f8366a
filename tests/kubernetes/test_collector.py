"""The collector of the AWS stack: Kubernetes takes it, and it finds the pods of the chart."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.aws.collector import LABELS, NAME, PODS, PORTS, TOKENS, config, manifests
from deploy.aws.settings import StackSettings
from tests.helm import ROOT, objects, one, rendered
from tests.kubernetes.conftest import GUARDED, PRODUCTION
from tests.pages import blocks

OPEN = StackSettings(namespace="shop")
CLOSED = OPEN.model_copy(update={"ports_tls": True, "ports_tokens": "headrace-tokens"})
GUIDE = ROOT / "deploy" / "guides" / "kubernetes.md"


def made(settings: StackSettings) -> list[dict[str, Any]]:
    return list(manifests(settings, "arn:aws:iam::111111111111:role/collector", "/feed/metrics"))


def scrape(settings: StackSettings) -> dict[str, Any]:
    (found,) = config(settings, "/feed/metrics")["receivers"]["prometheus"]["config"][
        "scrape_configs"
    ]
    return dict(found)


@pytest.mark.parametrize("settings", [OPEN, CLOSED], ids=["open", "guarded"])
@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_kubernetes_knows_every_field_of_the_collector(
    settings: StackSettings, version: str
) -> None:
    for each in made(settings):
        kubernetes_validate.validate(each, version, strict=True)
        assert each["metadata"]["namespace"] == "shop"


def test_its_configuration_is_what_it_mounts_and_a_new_one_restarts_it() -> None:
    held = [
        yaml.safe_load(one(made(s), "ConfigMap", NAME)["data"]["collector.yaml"])
        for s in (OPEN, CLOSED)
    ]
    assert held == [config(s, "/feed/metrics") for s in (OPEN, CLOSED)]
    hashes = {
        str(one(made(s), "Deployment", NAME)["spec"]["template"]["metadata"])
        for s in (OPEN, CLOSED)
    }
    assert len(hashes) == 2


def test_every_process_of_the_chart_has_one_port_that_is_scraped() -> None:
    deployments = [o for o in objects(rendered(PRODUCTION)) if o["kind"] == "Deployment"]
    assert len(deployments) == 4
    for each in deployments:
        template = each["spec"]["template"]
        assert PODS.items() <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        (name,) = set(ports) & set(PORTS)
        assert ports[name] == PORTS[name]


def test_it_shows_the_token_and_speaks_tls_as_the_chart_s_own_monitor_does() -> None:
    assert "scheme" not in scrape(OPEN)
    assert "authorization" not in scrape(OPEN)
    monitor = one(objects(rendered(GUARDED)), "PodMonitor", "feed")
    (endpoint, _) = monitor["spec"]["podMetricsEndpoints"]
    ours = scrape(CLOSED)
    assert ours["scheme"] == endpoint["scheme"] == "https"
    assert ours["tls_config"]["insecure_skip_verify"] is True
    assert ours["authorization"] == {"credentials_file": f"{TOKENS}/token"}
    pod = one(made(CLOSED), "Deployment", NAME)["spec"]["template"]["spec"]
    (secret,) = (v["secret"] for v in pod["volumes"] if "secret" in v)
    wanted = endpoint["authorization"]["credentials"]
    assert secret["secretName"] == wanted["name"]
    assert secret["items"] == [{"key": wanted["key"], "path": "token"}]
    assert {"name": "tokens", "mountPath": TOKENS, "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]


def test_the_guide_s_values_let_the_collector_in_to_every_process() -> None:
    (text,) = (b.text for b in blocks(GUIDE) if b.language == "yaml" and NAME in b.text)
    policies = [
        o for o in objects(rendered(PRODUCTION | yaml.safe_load(text)))
        if o["kind"] == "NetworkPolicy"
    ]  # fmt: skip
    admitted = set()
    for policy in policies:
        for rule in policy["spec"]["ingress"]:
            peers = [
                peer.get("podSelector", {}).get("matchLabels") for peer in rule.get("from", [])
            ]
            if LABELS in peers:
                ports = {port["port"] for port in rule["ports"]}
                assert len(ports & set(PORTS.values())) == 1
                admitted.add(policy["metadata"]["name"].removeprefix("feed-"))
    assert admitted == {"route", "aggregate", "archive", "ranker"}
