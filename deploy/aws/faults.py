"""Experiments of the Fault Injection Service; each ends at once when the ranker's alarms ring."""

from collections.abc import Mapping
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_fis as fis
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs

from deploy.aws.cluster import Cluster
from deploy.aws.settings import StackSettings
from deploy.aws.watch import Watch

SERVICE_ACCOUNT = "fis"
"""In the namespace; with the Role that the FIS documentation gives for pod actions."""


class Faults:
    """Network latency and CPU pressure in pods, a stopped node, a zone without power."""

    def __init__(
        self, stack: cdk.Stack, settings: StackSettings, cluster: Cluster, watch: Watch
    ) -> None:
        self._stack, self._settings, self._watch = stack, settings, watch
        self._log = logs.LogGroup(stack, "FaultLogs", retention=logs.RetentionDays.SIX_MONTHS)
        self._role = self._make_role(cluster)
        ranker, workers = self._pods(cluster, "ranker"), self._pods(cluster, "aggregate")
        minutes = "PT5M"
        self._experiment(
            "NetworkLatency",
            "200 ms on every packet of half the rankers",
            {"Pods": {**ranker, "selectionMode": "PERCENT(50)"}},
            "aws:eks:pod-network-latency",
            {"duration": minutes, "delayMilliseconds": "200", **self._in_pod()},
        )
        self._experiment(
            "CpuPressure",
            "80 % of the processors of half the workers taken",
            {"Pods": {**workers, "selectionMode": "PERCENT(50)"}},
            "aws:eks:pod-cpu-stress",
            {"duration": minutes, "percent": "80", "workers": "0", **self._in_pod()},
        )
        nodes = {
            "resourceType": "aws:eks:nodegroup",
            "resourceArns": [cluster.serving.nodegroup_arn],
            "selectionMode": "ALL",
        }
        self._experiment(
            "NodeStop",
            "a third of the serving nodes ended",
            {"Nodegroups": nodes},
            "aws:eks:terminate-nodegroup-instances",
            {"instanceTerminationPercentage": "34"},
        )
        subnets = {
            "resourceType": "aws:ec2:subnet",
            "resourceTags": {"project": settings.name},
            "filters": [{"path": "AvailabilityZone", "values": [settings.zones[0]]}],
            "selectionMode": "ALL",
        }
        cache = {
            "resourceType": "aws:elasticache:replicationgroup",
            "resourceTags": {"project": settings.name},
            "parameters": {"availabilityZoneIdentifier": settings.zones[0]},
            "selectionMode": "ALL",
        }
        self._experiment(
            "ZonePower",
            "one zone cut off, and its caches without power",
            {"Subnets": subnets, "ReplicationGroups": cache},
            "aws:network:disrupt-connectivity",
            {"duration": "PT10M", "scope": "availability-zone"},
            also={
                "Cache": fis.CfnExperimentTemplate.ExperimentTemplateActionProperty(
                    action_id="aws:elasticache:replicationgroup-interrupt-az-power",
                    parameters={"duration": "PT10M"},
                    targets={"ReplicationGroups": "ReplicationGroups"},
                )
            },
        )

    def _pods(self, cluster: Cluster, component: str) -> dict[str, Any]:
        return {
            "resourceType": "aws:eks:pod",
            "parameters": {
                "clusterIdentifier": cluster.eks.cluster_name,
                "namespace": self._settings.namespace,
                "selectorType": "labelSelector",
                "selectorValue": f"app.kubernetes.io/component={component}",
            },
        }

    def _in_pod(self) -> dict[str, str]:
        return {"kubernetesServiceAccount": SERVICE_ACCOUNT}

    def _experiment(
        self,
        name: str,
        description: str,
        targets: Mapping[str, Mapping[str, Any]],
        action: str,
        parameters: Mapping[str, str],
        also: Mapping[str, fis.CfnExperimentTemplate.ExperimentTemplateActionProperty]
        | None = None,
    ) -> None:
        template = fis.CfnExperimentTemplate
        first = next(iter(targets))
        template(
            self._stack,
            f"Fault{name}",
            description=description,
            role_arn=self._role.role_arn,
            tags={"Name": f"{self._settings.name}-{name}"},
            stop_conditions=[
                template.ExperimentTemplateStopConditionProperty(
                    source="aws:cloudwatch:alarm", value=alarm.alarm_arn
                )
                for alarm in self._watch.ranker
            ],
            targets={
                key: template.ExperimentTemplateTargetProperty(
                    resource_type=one["resourceType"],
                    selection_mode=one["selectionMode"],
                    resource_arns=one.get("resourceArns"),
                    resource_tags=one.get("resourceTags"),
                    parameters=one.get("parameters"),
                    filters=one.get("filters"),
                )
                for key, one in targets.items()
            },
            actions={
                "Fault": template.ExperimentTemplateActionProperty(
                    action_id=action, parameters=dict(parameters), targets={first: first}
                ),
                **(also or {}),
            },
            log_configuration=template.ExperimentTemplateLogConfigurationProperty(
                log_schema_version=2,
                # CDK hands this on as it is, so its key is CloudFormation's.
                cloud_watch_logs_configuration={"LogGroupArn": self._log.log_group_arn},
            ),
        )

    def _make_role(self, cluster: Cluster) -> iam.Role:
        settings = self._settings
        role = iam.Role(
            self._stack,
            "FaultRole",
            assumed_by=iam.ServicePrincipal(
                "fis.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": settings.account}},
            ),
        )

        def may(actions: list[str], resources: list[str], tagged: bool = False) -> None:
            ours = {"StringEquals": {"aws:ResourceTag/project": settings.name}}
            role.add_to_policy(
                iam.PolicyStatement(
                    actions=actions, resources=resources, conditions=ours if tagged else None
                )
            )

        may(["eks:DescribeCluster"], [cluster.eks.cluster_arn])
        may(["eks:DescribeNodegroup"], [cluster.serving.nodegroup_arn])
        may(["ec2:TerminateInstances"], [settings.arn("ec2", "instance/*")], tagged=True)
        may(
            ["elasticache:InterruptClusterAzPower"],
            [settings.arn("elasticache", "replicationgroup:*")],
            tagged=True,
        )
        # Reading, and network ACLs that FIS makes and removes: AWS knows no narrower resource.
        may(
            [
                "ec2:DescribeInstances", "ec2:DescribeSubnets", "ec2:DescribeNetworkAcls",
                "ec2:DescribeVpcs", "ec2:DescribeManagedPrefixLists", "tag:GetResources",
                "elasticache:DescribeReplicationGroups", "cloudwatch:DescribeAlarms",
            ],
            ["*"],
        )  # fmt: skip
        acls = [settings.arn("ec2", kind) for kind in ("network-acl/*", "vpc/*", "subnet/*")]
        may(
            [
                "ec2:CreateNetworkAcl", "ec2:CreateNetworkAclEntry", "ec2:DeleteNetworkAcl",
                "ec2:ReplaceNetworkAclAssociation", "ec2:CreateTags",
            ],
            acls,
        )  # fmt: skip
        may(
            ["logs:CreateLogDelivery", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies",
             "logs:DescribeLogGroups"],
            ["*"],
        )  # fmt: skip
        return role
