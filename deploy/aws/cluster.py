"""What runs: EKS on Graviton, on-demand nodes to serve, spot nodes for replay and training."""

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_eks_v2 as eks
from aws_cdk import aws_iam as iam
from aws_cdk.lambda_layer_kubectl_v35 import KubectlV35Layer

from deploy.aws.data import Data
from deploy.aws.network import Network
from deploy.aws.settings import StackSettings

NODE_POLICIES = (
    "AmazonEKSWorkerNodePolicy",
    "AmazonEKS_CNI_Policy",
    "AmazonEC2ContainerRegistryPullOnly",
)


class Cluster:
    """The Kubernetes cluster; its API server is reached from inside the network alone."""

    def __init__(
        self, stack: cdk.Stack, settings: StackSettings, network: Network, data: Data
    ) -> None:
        self.eks = eks.Cluster(
            stack,
            "Cluster",
            cluster_name=settings.name,
            version=eks.KubernetesVersion.of(settings.kubernetes),
            vpc=network.vpc,
            vpc_subnets=[ec2.SubnetSelection(subnet_group_name="nodes")],
            default_capacity_type=eks.DefaultCapacityType.NODEGROUP,
            default_capacity=0,
            endpoint_access=eks.EndpointAccess.PRIVATE,
            secrets_encryption_key=data.key,
            cluster_logging=list(eks.ClusterLoggingTypes),
            kubectl_provider_options=eks.KubectlProviderOptions(
                kubectl_layer=KubectlV35Layer(stack, "Kubectl")
            ),
        )
        for name in (
            "vpc-cni",
            "kube-proxy",
            "coredns",
            "eks-pod-identity-agent",
            "metrics-server",
        ):
            eks.Addon(stack, f"Addon-{name}", cluster=self.eks, addon_name=name)
        role = iam.Role(
            stack,
            "NodeRole",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name(n) for n in NODE_POLICIES
            ],
        )
        template = self._launch_template(stack)
        least, most = settings.serving_nodes
        self.serving = self._nodes(
            stack,
            "Serving",
            role,
            template,
            eks.CapacityType.ON_DEMAND,
            (settings.serving_instance,),
            least,
            most,
        )
        self.batch = self._nodes(
            stack,
            "Batch",
            role,
            template,
            eks.CapacityType.SPOT,
            settings.batch_instances,
            0,
            settings.batch_nodes_max,
        )

    def role_of(
        self, stack: cdk.Stack, settings: StackSettings, component: str, account: str
    ) -> iam.Role:
        """A role that one ServiceAccount of the namespace has, and nobody else."""
        provider = self.eks.open_id_connect_provider
        issuer = provider.open_id_connect_provider_issuer
        subject = f"system:serviceaccount:{settings.namespace}:{account}"
        claims = cdk.CfnJson(
            stack,
            f"Claims-{component}",
            value={f"{issuer}:aud": "sts.amazonaws.com", f"{issuer}:sub": subject},
        )
        return iam.Role(
            stack,
            f"Role-{component}",
            role_name=f"{settings.name}-{component}",
            assumed_by=iam.FederatedPrincipal(
                provider.open_id_connect_provider_arn,
                {"StringEquals": claims},
                "sts:AssumeRoleWithWebIdentity",
            ),
        )

    def _launch_template(self, stack: cdk.Stack) -> ec2.LaunchTemplate:
        return ec2.LaunchTemplate(
            stack,
            "Nodes",
            # Pods cannot ask the node for its role: one hop does not reach them.
            http_tokens=ec2.LaunchTemplateHttpTokens.REQUIRED,
            http_put_response_hop_limit=1,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        60, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3
                    ),
                )
            ],
        )

    def _nodes(
        self,
        stack: cdk.Stack,
        name: str,
        role: iam.Role,
        template: ec2.LaunchTemplate,
        capacity: eks.CapacityType,
        instances: tuple[str, ...],
        least: int,
        most: int,
    ) -> eks.Nodegroup:
        spot = capacity == eks.CapacityType.SPOT
        taint = eks.TaintSpec(
            effect=eks.TaintEffect.NO_SCHEDULE, key="headrace.dev/spot", value="true"
        )
        return eks.Nodegroup(
            stack,
            name,
            cluster=self.eks,
            node_role=role,
            ami_type=eks.NodegroupAmiType.AL2023_ARM_64_STANDARD,
            capacity_type=capacity,
            instance_types=[ec2.InstanceType(one) for one in instances],
            min_size=least,
            max_size=most,
            desired_size=least,
            subnets=ec2.SubnetSelection(subnet_group_name="nodes"),
            labels={"headrace.dev/pool": name.lower()},
            taints=[taint] if spot else None,
            launch_template_spec=eks.LaunchTemplateSpec(
                id=template.launch_template_id or "", version=template.latest_version_number
            ),
        )
