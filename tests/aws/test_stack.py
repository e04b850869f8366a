"""What the template holds, what AWS's own schemas and the usual rules say of it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("aws_cdk", reason="the AWS stack's own environment: make aws-test")

from aws_cdk import Validations
from cdk_nag import AwsSolutionsChecks

from deploy.aws.alarms import WATCHED
from deploy.aws.app import make_app
from deploy.aws.exceptions import EXCEPTIONS
from deploy.aws.settings import StackSettings
from tests.collecting import told

SETTINGS = StackSettings()
# Zones are named, so that the template says where it is; CDK says twice what depends on what.
KNOWN = ("W3010", "W3005")


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the template, and of the report of cdk-nag and CloudFormation's schemas."""
    folder = tmp_path_factory.mktemp("cdk")
    app, _ = make_app(SETTINGS, folder)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    with pytest.raises(Exception, match="ValidationFailed"):  # for its findings: see below
        app.synth()
    return folder


@pytest.fixture(scope="session")
def template(synthesised: Path) -> dict[str, Any]:
    """The template's resources by their logical names."""
    found = json.loads((synthesised / f"{SETTINGS.name}.template.json").read_text())
    return dict(found["Resources"])


def of_type(template: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one["Properties"] for one in template.values() if one["Type"] == kind]


def findings(report: Any) -> Iterator[str]:
    """The rules that a report says are broken, wherever in it they are."""
    if isinstance(report, dict):
        rule = report.get("ruleName") or report.get("id")
        if isinstance(rule, str) and "-" in rule:
            yield rule
        for value in report.values():
            yield from findings(value)
    elif isinstance(report, list):
        for value in report:
            yield from findings(value)


def plain(rule: str) -> str:
    """A rule's name without what changes from one synthesis to the next."""
    rule = re.sub(r"^.*AwsSolutions-", "", rule)
    rule = rule.replace("arn:<AWS::Partition>:iam::aws:policy/", "")
    rule = re.sub(r"Policy::\{.*", "Policy::{Fn::If}]", rule)
    rule = re.sub(r"<([A-Za-z]+?)[0-9A-F]{8}\.Arn>", r"<\1.Arn>", rule)
    return re.sub(r"eu-central-1:[0-9]{12}", "…", rule)


def test_every_finding_of_cdk_nag_is_argued_and_every_argument_is_needed(synthesised: Path) -> None:
    report = json.loads((synthesised / "validation-report.json").read_text())
    found = set(findings(report))
    nag = {plain(rule) for rule in found if "AwsSolutions-" in rule}
    assert nag == set(EXCEPTIONS)


def test_the_template_fits_the_schemas(synthesised: Path) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("cfn-lint")), "--format", "parseable",
            "--ignore-checks", *KNOWN, "--",
            str(synthesised / f"{SETTINGS.name}.template.json"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_nodes_are_graviton_on_demand_to_serve_and_spot_for_batches(
    template: dict[str, Any],
) -> None:
    pools = {one["CapacityType"]: one for one in of_type(template, "AWS::EKS::Nodegroup")}
    assert {one["AmiType"] for one in pools.values()} == {"AL2023_ARM_64_STANDARD"}
    assert set(pools) == {"ON_DEMAND", "SPOT"}
    assert pools["ON_DEMAND"].get("Taints") is None
    assert pools["SPOT"]["Taints"] == [
        {"Effect": "NO_SCHEDULE", "Key": "headrace.dev/spot", "Value": "true"}
    ]
    assert pools["SPOT"]["ScalingConfig"]["MinSize"] == 0
    assert all(i.split(".")[0].endswith(("g", "gn", "gd")) for i in pools["SPOT"]["InstanceTypes"])
    (nodes,) = of_type(template, "AWS::EC2::LaunchTemplate")
    assert nodes["LaunchTemplateData"]["MetadataOptions"]["HttpTokens"] == "required"


def test_brokers_speak_tls_to_known_users_in_every_zone(template: dict[str, Any]) -> None:
    (brokers,) = of_type(template, "AWS::MSK::Cluster")
    assert brokers["EncryptionInfo"]["EncryptionInTransit"] == {
        "ClientBroker": "TLS",
        "InCluster": True,
    }
    assert brokers["ClientAuthentication"]["Sasl"]["Scram"]["Enabled"] is True
    assert brokers["ClientAuthentication"]["Unauthenticated"]["Enabled"] is False
    assert brokers["NumberOfBrokerNodes"] == len(SETTINGS.zones) == 3
    (settings,) = of_type(template, "AWS::MSK::Configuration")
    for line in ("min.insync.replicas=2", "unclean.leader.election.enable=false",
                 "log.message.timestamp.type=LogAppendTime"):  # fmt: skip
        assert line in str(settings["ServerProperties"])


def test_the_cache_evicts_nothing_and_knows_its_users(template: dict[str, Any]) -> None:
    (cache,) = of_type(template, "AWS::ElastiCache::ReplicationGroup")
    assert cache["Engine"] == "valkey"
    assert cache["NumNodeGroups"] == SETTINGS.cache_shards
    for name in ("MultiAZEnabled", "AutomaticFailoverEnabled", "TransitEncryptionEnabled",
                 "AtRestEncryptionEnabled"):  # fmt: skip
        assert cache[name] is True, name
    (parameters,) = of_type(template, "AWS::ElastiCache::ParameterGroup")
    assert parameters["Properties"]["maxmemory-policy"] == "noeviction"
    users = {
        one["UserName"]: one["AccessString"] for one in of_type(template, "AWS::ElastiCache::User")
    }
    assert users["default"] == "off -@all"
    assert "-@all" in users["ranker"]
    assert "+@write" not in users["ranker"]


def test_buckets_are_closed_versioned_and_encrypted(template: dict[str, Any]) -> None:
    buckets = of_type(template, "AWS::S3::Bucket")
    assert len(buckets) == 3
    for one in buckets:
        assert one["VersioningConfiguration"] == {"Status": "Enabled"}
        assert all(one["PublicAccessBlockConfiguration"].values())
        assert one["BucketEncryption"]
        assert one["LifecycleConfiguration"]
    kept = [r["DeletionPolicy"] for r in template.values() if r["Type"] == "AWS::S3::Bucket"]
    assert set(kept) == {"Retain"}


def test_each_role_is_one_service_account_s_and_writes_only_what_it_must(
    template: dict[str, Any],
) -> None:
    roles = {
        one["RoleName"].removeprefix("headrace-"): name
        for name, resource in template.items()
        if resource["Type"] == "AWS::IAM::Role" and (one := resource["Properties"]).get("RoleName")
    }
    assert set(roles) == {
        *("route", "aggregate", "archive", "ranker", "replay", "apply", "collector"),
    }
    writers, joiners = set(), set()
    for component, logical in roles.items():
        trust = json.dumps(template[logical]["Properties"]["AssumeRolePolicyDocument"])
        assert "sts:AssumeRoleWithWebIdentity" in trust
        for policy in of_type(template, "AWS::IAM::Policy"):
            if {"Ref": logical} in policy["Roles"]:
                assert '"*"' not in json.dumps(
                    [s["Action"] for s in policy["PolicyDocument"]["Statement"]]
                )
                if "s3:PutObject" in json.dumps(policy):
                    writers.add(component)
                if "s3:DeleteObject" in json.dumps(policy):
                    joiners.add(component)
    assert joiners == {"archive"}
    assert writers == {"archive", "replay", "apply"}


def test_every_experiment_stops_when_the_ranker_s_alarms_ring(template: dict[str, Any]) -> None:
    experiments = of_type(template, "AWS::FIS::ExperimentTemplate")
    alarms = {
        n for n, r in template.items() if r["Type"] == "AWS::CloudWatch::Alarm" and "Ranker" in n
    }
    actions = set()
    for one in experiments:
        stops = {stop["Value"]["Fn::GetAtt"][0] for stop in one["StopConditions"]}
        assert stops == alarms
        assert len(alarms) == 3
        actions |= {action["ActionId"] for action in one["Actions"].values()}
    assert actions == {
        "aws:eks:pod-network-latency",
        "aws:eks:pod-cpu-stress",
        "aws:eks:terminate-nodegroup-instances",
        "aws:network:disrupt-connectivity",
        "aws:elasticache:replicationgroup-interrupt-az-power",
    }


def manifest(template: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What a resource gives to Kubernetes; what is known at the deployment alone stands as `?`."""
    (found,) = (
        resource["Properties"]["Manifest"]
        for logical, resource in template.items()
        if "KubernetesResource" in resource["Type"] and logical.startswith(name)
    )
    parts = found["Fn::Join"][1] if isinstance(found, dict) else [found]
    return list(json.loads("".join(one if isinstance(one, str) else "?" for one in parts)))


def watched(alarm: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of an alarm, or of its expression."""
    if "Metrics" not in alarm:
        return [alarm]
    return [one["MetricStat"]["Metric"] for one in alarm["Metrics"] if "MetricStat" in one]


def test_every_alarm_s_metrics_are_what_the_collector_of_the_template_sends(
    template: dict[str, Any],
) -> None:
    (held,) = (o for o in manifest(template, "Collector") if o["kind"] == "ConfigMap")
    content = yaml.safe_load(held["data"]["collector.yaml"])
    sender = content["exporters"]["awsemf"]
    ours = [
        (alarm["AlarmName"], metric)
        for alarm in of_type(template, "AWS::CloudWatch::Alarm")
        for metric in watched(alarm)
        if not metric["Namespace"].startswith("AWS/")
    ]
    assert len({name for name, _ in ours}) == 7
    found = set()
    for _, metric in ours:
        assert metric["Namespace"] == sender["namespace"]
        dimensions = {one["Name"]: one["Value"] for one in metric["Dimensions"]}
        labels = {k: v for k, v in dimensions.items() if k != "ClusterName"}
        sample = [(metric["MetricName"], labels)]
        wanted = (metric["MetricName"], frozenset(dimensions.items()))
        assert told(content, sample) == [wanted]
        found.add(wanted)
    assert len(found) == len(WATCHED)


def test_the_collector_may_write_its_log_and_nothing_else(template: dict[str, Any]) -> None:
    (log,) = (
        name for name, one in template.items()
        if one["Type"] == "AWS::Logs::LogGroup"
        and one["Properties"].get("LogGroupName") == "/headrace/metrics"
    )  # fmt: skip
    (policy,) = (
        one for one in of_type(template, "AWS::IAM::Policy")
        if any("Rolecollector" in role["Ref"] for role in one["Roles"])
    )  # fmt: skip
    assert policy["PolicyDocument"]["Statement"] == [
        {
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Effect": "Allow",
            "Resource": {"Fn::GetAtt": [log, "Arn"]},
        }
    ]
    kinds = {one["kind"]: one for one in manifest(template, "Collector")}
    (rule,) = kinds["Role"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    assert kinds["ServiceAccount"]["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "?"}


def test_the_stack_s_end_leaves_the_namespace(template: dict[str, Any]) -> None:
    (one,) = manifest(template, "Namespace")
    assert (one["kind"], one["metadata"]["name"]) == ("Namespace", SETTINGS.namespace)
    kept = [
        r["DeletionPolicy"] for name, r in template.items()
        if "KubernetesResource" in r["Type"] and name.startswith("Namespace")
    ]  # fmt: skip
    assert kept == ["Retain"]


def test_every_alarm_tells_somebody(template: dict[str, Any]) -> None:
    alarms = of_type(template, "AWS::CloudWatch::Alarm")
    assert len(alarms) > 12
    assert all(one["AlarmActions"] and one["OKActions"] for one in alarms)
