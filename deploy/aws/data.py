"""What keeps data: Kafka (MSK), Redis (ElastiCache for Valkey), buckets, images, their keys."""

import json

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_elasticache as elasticache
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_msk as msk
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secrets

from deploy.aws.network import Network
from deploy.aws.settings import StackSettings

KAFKA_VERSION = "3.9.x.kraft"
VALKEY_VERSION = "8.0"
# As deploy/guides/operator.md asks of brokers.
BROKER_SETTINGS = """auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
unclean.leader.election.enable=false
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
log.message.timestamp.type=LogAppendTime
allow.everyone.if.no.acl.found=false
"""
RANKER_MAY = "on ~* &* -@all +@read +@connection +@pubsub +client +info +cluster"
WORKERS_MAY = "on ~* &* +@all -@admin -@dangerous +info +cluster +wait +waitaof +config|get +keys"


class Data:
    """Stores, each encrypted with the key of the stack, and the secrets that open them."""

    def __init__(self, stack: cdk.Stack, settings: StackSettings, network: Network) -> None:
        self._stack, self._settings, self._network = stack, settings, network
        self.key = kms.Key(
            stack, "Key", description=f"{settings.name}: data at rest", enable_key_rotation=True
        )
        self.logs = self._bucket("Logs", expire_days=90)
        self.archive = self._bucket("Archive", expire_days=settings.archive_expire_days)
        self.models = self._bucket("Models")
        self.images = ecr.Repository(
            stack,
            "Images",
            repository_name=settings.name,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,
            image_scan_on_push=True,
            encryption=ecr.RepositoryEncryption.KMS,
            encryption_key=self.key,
            lifecycle_rules=[ecr.LifecycleRule(max_image_count=50)],
        )
        self.kafka_secret = self._user("Kafka", f"AmazonMSK_{settings.name}", settings.name)
        self.worker_secret = self._user("RedisWorkers", f"{settings.name}/redis-workers", "workers")
        self.ranker_secret = self._user("RedisRanker", f"{settings.name}/redis-ranker", "ranker")
        self.brokers = self._brokers()
        self.cache = self._cache()

    def _bucket(self, name: str, expire_days: int | None = None) -> s3.Bucket:
        logs_of_its_own = name == "Logs"
        old = s3.LifecycleRule(
            noncurrent_version_expiration=cdk.Duration.days(30),
            abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
            expiration=None if expire_days is None else cdk.Duration.days(expire_days),
            transitions=[
                s3.Transition(
                    storage_class=s3.StorageClass.INTELLIGENT_TIERING,
                    transition_after=cdk.Duration.days(1),
                )
            ]
            if name == "Archive"
            else None,
        )
        return s3.Bucket(
            self._stack,
            name,
            versioned=True,
            # Servers' access logs cannot be written with a key of ours.
            encryption=s3.BucketEncryption.S3_MANAGED
            if logs_of_its_own
            else s3.BucketEncryption.KMS,
            encryption_key=None if logs_of_its_own else self.key,
            bucket_key_enabled=not logs_of_its_own,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            lifecycle_rules=[old],
            removal_policy=cdk.RemovalPolicy.RETAIN,
            server_access_logs_bucket=None if logs_of_its_own else self.logs,
            server_access_logs_prefix=None if logs_of_its_own else f"s3/{name.lower()}/",
        )

    def _user(self, name: str, secret_name: str, username: str) -> secrets.Secret:
        return secrets.Secret(
            self._stack,
            f"{name}Secret",
            secret_name=secret_name,
            encryption_key=self.key,
            generate_secret_string=secrets.SecretStringGenerator(
                secret_string_template=json.dumps({"username": username}),
                generate_string_key="password",
                exclude_punctuation=True,
                password_length=40,
            ),
        )

    def _brokers(self) -> msk.CfnCluster:
        stack, settings = self._stack, self._settings
        log = logs.LogGroup(stack, "BrokerLogs", retention=logs.RetentionDays.ONE_MONTH)
        configuration = msk.CfnConfiguration(
            stack,
            "BrokerSettings",
            name=settings.name,
            server_properties=BROKER_SETTINGS,
        )
        brokers = msk.CfnCluster(
            stack,
            "Brokers",
            cluster_name=settings.name,
            kafka_version=KAFKA_VERSION,
            number_of_broker_nodes=len(settings.zones),
            broker_node_group_info=msk.CfnCluster.BrokerNodeGroupInfoProperty(
                instance_type=settings.broker_instance,
                client_subnets=self._network.data.subnet_ids,
                security_groups=[self._network.stores.security_group_id],
                storage_info=msk.CfnCluster.StorageInfoProperty(
                    ebs_storage_info=msk.CfnCluster.EBSStorageInfoProperty(
                        volume_size=settings.broker_gib
                    )
                ),
            ),
            configuration_info=msk.CfnCluster.ConfigurationInfoProperty(
                arn=configuration.attr_arn, revision=1
            ),
            client_authentication=msk.CfnCluster.ClientAuthenticationProperty(
                sasl=msk.CfnCluster.SaslProperty(scram=msk.CfnCluster.ScramProperty(enabled=True)),
                unauthenticated=msk.CfnCluster.UnauthenticatedProperty(enabled=False),
            ),
            encryption_info=msk.CfnCluster.EncryptionInfoProperty(
                encryption_at_rest=msk.CfnCluster.EncryptionAtRestProperty(
                    data_volume_kms_key_id=self.key.key_arn
                ),
                encryption_in_transit=msk.CfnCluster.EncryptionInTransitProperty(
                    client_broker="TLS", in_cluster=True
                ),
            ),
            enhanced_monitoring="PER_TOPIC_PER_BROKER",
            logging_info=msk.CfnCluster.LoggingInfoProperty(
                broker_logs=msk.CfnCluster.BrokerLogsProperty(
                    cloud_watch_logs=msk.CfnCluster.CloudWatchLogsProperty(
                        enabled=True, log_group=log.log_group_name
                    )
                )
            ),
        )
        brokers.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
        msk.CfnBatchScramSecret(
            stack,
            "BrokerUsers",
            cluster_arn=brokers.attr_arn,
            secret_arn_list=[self.kafka_secret.secret_arn],
        )
        return brokers

    def _cache(self) -> elasticache.CfnReplicationGroup:
        stack, settings = self._stack, self._settings
        users = [
            self._cache_user("CacheWorkers", "workers", WORKERS_MAY, self.worker_secret),
            self._cache_user("CacheRanker", "ranker", RANKER_MAY, self.ranker_secret),
        ]
        # A group must have a user called `default`: this one may do nothing.
        nobody = elasticache.CfnUser(
            stack,
            "CacheNobody",
            engine="valkey",
            user_id=f"{settings.name}-nobody",
            user_name="default",
            access_string="off -@all",
            authentication_mode={"Type": "no-password-required"},
        )
        group = elasticache.CfnUserGroup(
            stack,
            "CacheUsers",
            engine="valkey",
            user_group_id=settings.name,
            user_ids=[nobody.ref, *(user.ref for user in users)],
        )
        parameters = elasticache.CfnParameterGroup(
            stack,
            "CacheSettings",
            cache_parameter_group_family="valkey8",
            description="Nothing is evicted; rows stay compact",
            properties={
                "cluster-enabled": "yes",
                "maxmemory-policy": "noeviction",
                "hash-max-listpack-value": "4096",
            },
        )
        subnets = elasticache.CfnSubnetGroup(
            stack,
            "CacheSubnets",
            description="Data subnets",
            subnet_ids=self._network.data.subnet_ids,
        )
        log = logs.LogGroup(stack, "CacheLogs", retention=logs.RetentionDays.ONE_MONTH)
        cache = elasticache.CfnReplicationGroup(
            stack,
            "Cache",
            replication_group_description=f"{settings.name}: rows",
            engine="valkey",
            engine_version=VALKEY_VERSION,
            cache_node_type=settings.cache_node,
            cache_parameter_group_name=parameters.ref,
            cache_subnet_group_name=subnets.ref,
            security_group_ids=[self._network.stores.security_group_id],
            num_node_groups=settings.cache_shards,
            replicas_per_node_group=1,
            automatic_failover_enabled=True,
            multi_az_enabled=True,
            transit_encryption_enabled=True,
            transit_encryption_mode="required",
            at_rest_encryption_enabled=True,
            kms_key_id=self.key.key_id,
            user_group_ids=[group.ref],
            snapshot_retention_limit=7,
            snapshot_window="03:00-04:00",
            log_delivery_configurations=[
                elasticache.CfnReplicationGroup.LogDeliveryConfigurationRequestProperty(
                    destination_type="cloudwatch-logs",
                    destination_details=elasticache.CfnReplicationGroup.DestinationDetailsProperty(
                        cloud_watch_logs_details=elasticache.CfnReplicationGroup.CloudWatchLogsDestinationDetailsProperty(
                            log_group=log.log_group_name
                        )
                    ),
                    log_format="json",
                    log_type="slow-log",
                )
            ],
        )
        cache.apply_removal_policy(cdk.RemovalPolicy.SNAPSHOT)
        return cache

    def _cache_user(
        self, construct: str, name: str, may: str, secret: secrets.Secret
    ) -> elasticache.CfnUser:
        password = secret.secret_value_from_json("password").unsafe_unwrap()
        return elasticache.CfnUser(
            self._stack,
            construct,
            engine="valkey",
            user_id=f"{self._settings.name}-{name}",
            user_name=name,
            access_string=may,
            authentication_mode={"Type": "password", "Passwords": [password]},
        )
