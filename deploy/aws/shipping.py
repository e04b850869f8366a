"""How the processes' metrics come to CloudWatch: the collector, its log, and what it may."""

import aws_cdk as cdk
from aws_cdk import aws_eks_v2 as eks
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs

from deploy.aws.cluster import Cluster
from deploy.aws.collector import NAME, manifests
from deploy.aws.settings import StackSettings


class Shipping:
    """The collector beside the processes, in their namespace: it may show their token."""

    def __init__(self, stack: cdk.Stack, settings: StackSettings, cluster: Cluster) -> None:
        name = f"/{settings.name}/metrics"
        log = logs.LogGroup(
            stack,
            "MetricsLogs",
            log_group_name=name,
            # CloudWatch has made its metrics of a line when it has come.
            retention=logs.RetentionDays.THREE_DAYS,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        role = cluster.role_of(stack, settings, "collector", NAME)
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["logs:CreateLogStream", "logs:PutLogEvents"],
                resources=[log.log_group_arn],
            )
        )
        namespace = eks.KubernetesManifest(
            stack,
            "Namespace",
            cluster=cluster.eks,
            manifest=[
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": settings.namespace},
                }
            ],
            # It may be there, and it holds what is not the stack's.
            overwrite=True,
            prune=False,
            removal_policy=cdk.RemovalPolicy.RETAIN,
        )
        collector = eks.KubernetesManifest(
            stack,
            "Collector",
            cluster=cluster.eks,
            manifest=list(manifests(settings, role.role_arn, name)),
            overwrite=True,
        )
        collector.node.add_dependency(namespace, log)
