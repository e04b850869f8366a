"""The chart renders what Kubernetes takes, and refuses what could not run, in words."""

import copy
import functools
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.helm import CHART, ROOT, helm, objects, one, rendered, template
from tests.kubernetes.conftest import DEPLOYMENTS, PRODUCTION, TRIAL
from tests.kubernetes.outline import outline
from tests.pages import blocks

OUTLINES = Path(__file__).with_name("outlines")
KUBERNETES = ("1.29", "1.34")
OPERATORS = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


@functools.cache
def manifests(name: str) -> str:
    return rendered(DEPLOYMENTS[name])


def given(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Values with one of them set: `given(TRIAL, "route.replicas", 0)`."""
    changed = copy.deepcopy(values)
    *parents, last = path.split(".")
    place = changed
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return changed


@every_deployment
def test_helm_finds_nothing_to_say(name: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(DEPLOYMENTS[name]))
    done = helm("lint", "--strict", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@every_deployment
def test_what_is_rendered_is_what_was_agreed(name: str) -> None:
    """To agree anew, delete the file, run this, and read the difference."""
    file = OUTLINES / f"{name}.yaml"
    now = yaml.safe_dump(outline(objects(manifests(name))), sort_keys=False, width=100)
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(now)
        pytest.fail(f"{file} is written anew: read it, then run this again")
    assert now == file.read_text()


@every_deployment
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    for each in objects(manifests(name)):
        if each["apiVersion"] not in OPERATORS:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found_out() -> None:
    ranker = one(objects(manifests("trial")), "Deployment", "feed-ranker")
    ranker["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(ranker, "1.34", strict=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "kafka.bootstrap names the brokers"),
        (given(PRODUCTION, "redis.secret.name", ""), "redis.secret.name names the Secret"),
        (given(PRODUCTION, "route.autoscaling.max", 13), "events has 12 partitions"),
        (given(PRODUCTION, "replay.args", []), "replay.args: what headrace is told"),
        (given(PRODUCTION, "featureStore", {}), "apply.enabled needs a shared registry"),
        (given(TRIAL, "rankr.replicas", 2), "rankr"),
        (given(TRIAL, "route.replicas", 0), "replicas"),
        (given(TRIAL, "image.tag", "latest"), "tag"),
        (given(TRIAL, "settings.HEADRACE_REDIS", "redis://:pw@host"), "HEADRACE_REDIS"),
        (given(TRIAL, "settings.HEADRACE_KAFKA_PASSWORD", "pw"), "HEADRACE_KAFKA_PASSWORD"),
        (given(TRIAL, "settings.HEADRACE_TLS_CA_FILE", "/ca.crt"), "HEADRACE_TLS_CA_FILE"),
        (given(TRIAL, "ranker.resources.limits.memory", None), "memory"),
        (given(TRIAL, "featureStore", {"project": "p"}), "registry"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_could_not_run_is_refused_in_words(values: dict[str, Any], words: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert words in done.stderr


def test_a_pod_may_take_as_long_to_stop_as_its_process_is_told() -> None:
    values = given(given(TRIAL, "ranker.stopNoticeMs", 7_001), "ranker.stopDrainMs", 20_000)
    pod = one(objects(rendered(values)), "Deployment", "feed-ranker")["spec"]["template"]["spec"]
    told = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert told["HEADRACE_STOP_NOTICE_MS"] == "7001"
    assert told["HEADRACE_STOP_DRAIN_MS"] == "20000"
    assert pod["terminationGracePeriodSeconds"] == 28 + 5


def test_what_the_user_sets_wins_over_what_the_chart_sets() -> None:
    values = given(TRIAL, "ranker.settings.HEADRACE_DEADLINE_MS", 120)
    values = given(
        values, "settings", {"HEADRACE_DEADLINE_MS": 90, "HEADRACE_ITEMS_MAX": 2_000_000}
    )
    found = objects(rendered(values))
    ranker = one(found, "Deployment", "feed-ranker")["spec"]["template"]["spec"]["containers"][0]
    told = {entry["name"]: entry.get("value") for entry in ranker["env"]}
    assert told["HEADRACE_DEADLINE_MS"] == "120"
    assert told["HEADRACE_ITEMS_MAX"] == "2000000"


def test_every_setting_that_the_chart_names_exists() -> None:
    from ranker.settings import RankerSettings
    from streaming.settings import StreamingSettings

    known = {
        f"HEADRACE_{field.upper()}"
        for settings in (RankerSettings, StreamingSettings)
        for field in settings.model_fields
    } | {"HEADRACE_RANKER", "HEADRACE_RANKER_CA_FILE", "HEADRACE_RANKER_TOKEN"}
    named = {
        entry["name"]
        for deployment in DEPLOYMENTS
        for each in objects(manifests(deployment))
        for container in containers(each)
        for entry in container.get("env", [])
        if entry["name"].startswith("HEADRACE_")
    }
    assert len(named) > 15
    assert named <= known


def test_probes_reach_ports_that_are_guarded() -> None:
    for name, scheme in (("production", None), ("guarded", "HTTPS")):
        for component in ("route", "aggregate", "ranker"):
            pod = one(objects(manifests(name)), "Deployment", f"feed-{component}")
            (container,) = pod["spec"]["template"]["spec"]["containers"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container[kind]["httpGet"]
                assert asked.get("scheme") == scheme
                assert asked["path"] in ("/livez", "/healthz", "/readyz")  # open without a token


def containers(each: dict[str, Any]) -> list[dict[str, Any]]:
    from tests.kubernetes.outline import pod_of

    pod = pod_of(each)
    return [] if pod is None else [*pod["containers"], *pod.get("initContainers", [])]


@every_deployment
def test_the_notes_name_what_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(DEPLOYMENTS[name]))
    done = helm(
        "install", "feed", str(CHART), "--namespace", "shop", "--dry-run=client",
        "--values", str(tmp_path / "values.yaml"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    scheme = "https" if name == "guarded" else "http"
    assert f" {scheme}://feed-ranker.shop.svc:8080/v1/rank" in notes
    assert ("TRIAL" in notes) == (name == "trial")
    assert ("ranked by popularity" in notes) == (name == "trial")


GUIDE = ROOT / "deploy" / "guides" / "kubernetes.md"


def test_what_the_guide_does_with_the_chart_renders(tmp_path: Path) -> None:
    (values,) = (b for b in blocks(GUIDE) if b.language == "yaml" and "bootstrap" in b.text)
    (tmp_path / "feed.yaml").write_text(values.text)
    lines = [
        shlex.split(line[2:])
        for block in blocks(GUIDE)
        if block.language == "console"
        for line in block.text.splitlines()
        if line.startswith(("$ helm install", "$ helm upgrade"))
    ]
    assert len(lines) == 2
    for _, _, *rest in lines:
        kept = [word for word in rest if word not in ("--install", "--create-namespace")]
        kept = [str(tmp_path / word) if word == "feed.yaml" else word for word in kept]
        kept = [str(ROOT / word) if word.startswith("deploy/helm") else word for word in kept]
        done = helm("template", *kept)
        assert done.returncode == 0, done.stderr
        kinds = [each["kind"] for each in objects(done.stdout)]
        assert kinds.count("Deployment") >= 3
