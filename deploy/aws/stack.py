"""The stack: a network, and in it what keeps data, what runs, who may, and what watches."""

import aws_cdk as cdk

from deploy.aws.access import Access
from deploy.aws.cluster import Cluster
from deploy.aws.data import Data
from deploy.aws.faults import Faults
from deploy.aws.network import Network
from deploy.aws.settings import StackSettings
from deploy.aws.shipping import Shipping
from deploy.aws.watch import Watch


def fill(stack: cdk.Stack, settings: StackSettings) -> None:
    """Everything that `deploy/helm/headrace` needs of AWS."""
    network = Network(stack, settings)
    data = Data(stack, settings, network)
    cluster = Cluster(stack, settings, network, data)
    Access(stack, settings, data, cluster)
    Shipping(stack, settings, cluster)
    watch = Watch(stack, settings, data)
    Faults(stack, settings, cluster, watch)
