"""What watches: alarms on what users would notice first, and on what is about to run out."""

from collections.abc import Mapping

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions

from deploy.aws.data import Data
from deploy.aws.settings import StackSettings

OURS = "Headrace"
"""The namespace to which the cluster's collector sends `headrace_*` (guides/kubernetes.md)."""


# No word of the ranker is as bad as a bad one.
BREACH = cloudwatch.TreatMissingData.BREACHING


class Watch:
    """Alarms, told to one topic. `ranker` are those that stop an experiment."""

    def __init__(self, stack: cdk.Stack, settings: StackSettings, data: Data) -> None:
        self._stack, self._settings = stack, settings
        self.topic = sns.Topic(stack, "Alarms", master_key=data.key, enforce_ssl=True)
        data.key.grant(
            iam.ServicePrincipal("cloudwatch.amazonaws.com"), "kms:Decrypt", "kms:GenerateDataKey*"
        )
        if settings.alarm_email is not None:
            self.topic.add_subscription(subscriptions.EmailSubscription(settings.alarm_email))
        of_cluster = {"ClusterName": settings.name}
        self.ranker = [
            self._alarm(
                f"Ranker{name}", OURS, metric, of_cluster, above, minutes=minutes, missing=BREACH
            )
            for name, metric, above, minutes in (
                ("Slow", "headrace_ranker_p99_ms", 150, 3),
                ("Fails", "headrace_rank_failed_share", 0.01, 2),
                ("Degraded", "headrace_rank_degraded_share", 0.05, 5),
            )
        ]
        self._alarm("EventsBehind", OURS, "headrace_lag_records", of_cluster, 500_000, minutes=5)
        self._alarm("DeadLetters", OURS, "headrace_dead_letters_rate", of_cluster, 1, minutes=10)
        self._alarm(
            "PartitionStopped", OURS, "headrace_partition_stopped", of_cluster, 0, minutes=1
        )
        brokers = {"Cluster Name": settings.name}
        for broker in range(1, len(settings.zones) + 1):
            one = {**brokers, "Broker ID": str(broker)}
            self._alarm(
                f"BrokerDisk{broker}", "AWS/Kafka", "KafkaDataLogsDiskUsed", one, 75, minutes=15
            )
            self._alarm(f"BrokerBusy{broker}", "AWS/Kafka", "CpuUser", one, 60, minutes=15)
        self._alarm("BrokerAway", "AWS/Kafka", "UnderReplicatedPartitions", brokers, 0, minutes=10)
        cache = {"ReplicationGroupId": data.cache.ref}
        # `noeviction`: a full cache refuses writes, and the stream waits.
        self._alarm(
            "CacheFull", "AWS/ElastiCache", "DatabaseMemoryUsagePercentage", cache, 70, minutes=10
        )
        self._alarm("CacheBusy", "AWS/ElastiCache", "EngineCPUUtilization", cache, 70, minutes=10)
        self._alarm("CacheReplicaBehind", "AWS/ElastiCache", "ReplicationLag", cache, 5, minutes=5)

    def _alarm(
        self,
        name: str,
        namespace: str,
        metric: str,
        dimensions: Mapping[str, str],
        above: float,
        *,
        minutes: int,
        missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> cloudwatch.Alarm:
        alarm = cloudwatch.Alarm(
            self._stack,
            f"Alarm{name}",
            alarm_name=f"{self._settings.name}-{name}",
            metric=cloudwatch.Metric(
                namespace=namespace,
                metric_name=metric,
                dimensions_map=dict(dimensions),
                statistic="Maximum",
                period=cdk.Duration.minutes(1),
            ),
            threshold=above,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=minutes,
            treat_missing_data=missing,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))
        return alarm
