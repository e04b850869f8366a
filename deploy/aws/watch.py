"""What watches: alarms on what users would notice first, and on what is about to run out."""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions

from deploy.aws.alarms import (
    CLUSTER,
    NAMESPACE,
    RANKER,
    STREAM,
    Level,
    Series,
    Share,
    of_services,
)
from deploy.aws.data import Data
from deploy.aws.settings import StackSettings


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
        self.ranker = [self._alarm(one) for one in RANKER]
        for one in STREAM:
            self._alarm(one)
        for level in of_services(settings.name, len(settings.zones), data.cache.ref):
            self._alarm(level)

    def _alarm(self, declared: Share | Level) -> cloudwatch.Alarm:
        silence = cloudwatch.TreatMissingData.NOT_BREACHING
        if isinstance(declared, Share) and declared.silence_rings:
            silence = cloudwatch.TreatMissingData.BREACHING
        alarm = cloudwatch.Alarm(
            self._stack,
            f"Alarm{declared.name}",
            alarm_name=f"{self._settings.name}-{declared.name}",
            metric=self._metric(declared),
            threshold=declared.above,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=declared.minutes,
            treat_missing_data=silence,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))
        return alarm

    def _metric(self, declared: Share | Level) -> cloudwatch.IMetric:
        if isinstance(declared, Level):
            return self._watched(declared.namespace, declared.of, "Maximum")
        series = {
            name: self._watched(NAMESPACE, one, "Sum") for name, one in declared.series.items()
        }
        return cloudwatch.MathExpression(
            expression=declared.expression,
            label=declared.name,
            using_metrics=series,
            period=cdk.Duration.minutes(1),
        )

    def _watched(self, namespace: str, one: Series, statistic: str) -> cloudwatch.Metric:
        ours = {CLUSTER: self._settings.name} if namespace == NAMESPACE else {}
        return cloudwatch.Metric(
            namespace=namespace,
            metric_name=one.metric,
            dimensions_map={**ours, **dict(one.labels)},
            statistic=statistic,
            period=cdk.Duration.minutes(1),
        )
