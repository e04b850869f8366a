"""Who may what: one role for each ServiceAccount of the chart, by the cluster's OIDC provider."""

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from deploy.aws.cluster import Cluster
from deploy.aws.data import Data
from deploy.aws.settings import StackSettings

REGISTRY = "registry/*"


class Access:
    """Roles of route, aggregate, archive, ranker, replay and apply. Kafka and Redis are opened by
    users and passwords, not by these."""

    def __init__(
        self, stack: cdk.Stack, settings: StackSettings, data: Data, cluster: Cluster
    ) -> None:
        self._stack, self._settings, self._data, self._cluster = stack, settings, data, cluster
        read_registry = self._may("s3:GetObject", data.models, REGISTRY)
        read_models = self._may("s3:GetObject", data.models, "models/*")
        write_models = self._may("s3:PutObject", data.models, "models/*")
        read_archive = self._may("s3:GetObject", data.archive, "*")
        write_archive = self._may("s3:PutObject", data.archive, "*")
        join_archive = self._may("s3:DeleteObject", data.archive, "*")  # joined files' parts go
        self.roles = {
            "route": self._role("route", [read_registry]),
            "aggregate": self._role("aggregate", [read_registry]),
            "archive": self._role(
                "archive",
                [
                    read_registry,
                    read_archive,
                    write_archive,
                    join_archive,
                    self._list(data.archive),
                ],
            ),
            "ranker": self._role("ranker", [read_registry, read_models, self._list(data.models)]),
            "replay": self._role(
                "replay",
                [read_registry, read_archive, write_models, self._list(data.archive)],
            ),
            "apply": self._role(
                "apply", [read_registry, self._may("s3:PutObject", data.models, REGISTRY)]
            ),
        }

    def _may(self, action: str, bucket: s3.Bucket, keys: str) -> iam.PolicyStatement:
        return iam.PolicyStatement(actions=[action], resources=[bucket.arn_for_objects(keys)])

    def _list(self, bucket: s3.Bucket) -> iam.PolicyStatement:
        return iam.PolicyStatement(actions=["s3:ListBucket"], resources=[bucket.bucket_arn])

    def _role(self, component: str, statements: Sequence[iam.PolicyStatement]) -> iam.Role:
        account = f"headrace-{component}"
        role = self._cluster.role_of(self._stack, self._settings, component, account)
        for statement in statements:
            role.add_to_policy(statement)
        keys = iam.PolicyStatement(
            actions=["kms:Decrypt", "kms:GenerateDataKey"],
            resources=[self._data.key.key_arn],
            conditions={
                "StringEquals": {"kms:ViaService": f"s3.{self._settings.region}.amazonaws.com"}
            },
        )
        role.add_to_policy(keys)
        cdk.CfnOutput(self._stack, f"RoleOf{component.title()}", value=role.role_arn)
        return role
