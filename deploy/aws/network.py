"""The network: public, private and isolated subnets in three zones, and who reaches the stores."""

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs

from deploy.aws.settings import StackSettings

KAFKA_SCRAM, REDIS = 9096, 6379


class Network:
    """The VPC. Brokers and caches are in subnets without a way out."""

    def __init__(self, stack: cdk.Stack, settings: StackSettings) -> None:
        self.vpc = ec2.Vpc(
            stack,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr("10.40.0.0/16"),
            availability_zones=list(settings.zones),
            nat_gateways=len(settings.zones),
            restrict_default_security_group=False,  # its custom resource is a Lambda of its own
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="public",
                    subnet_type=ec2.SubnetType.PUBLIC,
                    cidr_mask=24,
                    map_public_ip_on_launch=False,
                ),
                ec2.SubnetConfiguration(
                    name="nodes", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS, cidr_mask=20
                ),
                ec2.SubnetConfiguration(
                    name="data", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24
                ),
            ],
        )
        self.vpc.add_flow_log(
            "Flows",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(
                logs.LogGroup(
                    stack,
                    "FlowLogs",
                    retention=logs.RetentionDays.ONE_MONTH,
                    removal_policy=cdk.RemovalPolicy.DESTROY,
                )
            ),
        )
        # Images, models and archives come without a way through the NAT.
        self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        self.nodes = self.vpc.select_subnets(subnet_group_name="nodes")
        self.data = self.vpc.select_subnets(subnet_group_name="data")
        self.stores = ec2.SecurityGroup(
            stack,
            "Stores",
            vpc=self.vpc,
            description="Brokers and caches: reached from the subnets of the nodes alone",
            allow_all_outbound=False,
        )
        for number, subnet in enumerate(self.nodes.subnets):
            peer = ec2.Peer.ipv4(subnet.ipv4_cidr_block)
            for port in (KAFKA_SCRAM, REDIS):
                self.stores.add_ingress_rule(peer, ec2.Port.tcp(port), f"zone {number}")
        # Brokers and caches talk to each other.
        self.stores.add_ingress_rule(self.stores, ec2.Port.all_traffic(), "among themselves")
        self.stores.add_egress_rule(self.stores, ec2.Port.all_traffic(), "among themselves")
