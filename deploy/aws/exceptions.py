"""What cdk-nag's AwsSolutions rules find in the stack and stays, each with the reason.

`make aws-test` fails for a finding that is not here, and for an entry that is not found any more.
"""

from typing import Final

KUBECTL: Final = "the Lambda by which CDK applies manifests, as CDK makes it"
NODES: Final = "AWS's own policy for EKS nodes, whose content AWS keeps up with EKS"
PREFIX: Final = "objects below one prefix of one bucket: keys are made later"
FAULTS: Final = "what FIS ends or cuts off is chosen by the tag of this stack when it runs"

EXCEPTIONS: Final = {
    "AEC5": "the port says nothing that an intruder could not scan; TLS and ACL users guard it",
    "AEC6": "ACL users (a user group) take the place of the one AUTH token",
    "IAM4[Policy::AmazonEKSClusterPolicy]": NODES,
    "IAM4[Policy::AmazonEKSWorkerNodePolicy]": NODES,
    "IAM4[Policy::AmazonEKS_CNI_Policy]": NODES,
    "IAM4[Policy::AmazonEC2ContainerRegistryPullOnly]": NODES,
    "IAM4[Policy::AmazonEC2ContainerRegistryReadOnly]": KUBECTL,
    "IAM4[Policy::service-role/AWSLambdaBasicExecutionRole]": KUBECTL,
    "IAM4[Policy::service-role/AWSLambdaVPCAccessExecutionRole]": KUBECTL,
    "IAM4[Policy::{Fn::If}]": KUBECTL,
    "IAM5[Resource::<ClusterKubectlProviderHandler.Arn>:*]": KUBECTL,
    "IAM5[Resource::<Archive.Arn>/*]": PREFIX,
    "IAM5[Resource::<Models.Arn>/models/*]": PREFIX,
    "IAM5[Resource::<Models.Arn>/registry/*]": PREFIX,
    "IAM5[Resource::*]": "FIS's role lists what there is; AWS knows no narrower resource for these",
    "IAM5[Resource::arn:aws:ec2:…:instance/*]": FAULTS,
    "IAM5[Resource::arn:aws:ec2:…:network-acl/*]": FAULTS,
    "IAM5[Resource::arn:aws:ec2:…:subnet/*]": FAULTS,
    "IAM5[Resource::arn:aws:ec2:…:vpc/*]": FAULTS,
    "IAM5[Resource::arn:aws:elasticache:…:replicationgroup:*]": FAULTS,
    "L1": KUBECTL,
    "SMG4": "processes read passwords once: changing them is a step of the operator",
}
