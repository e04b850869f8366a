"""What of the AWS stack is for the user to choose."""

from pydantic import BaseModel, ConfigDict, Field


class StackSettings(BaseModel):
    """Sizes and names; the defaults serve some 10 million users (COST.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("headrace", pattern=r"^[a-z][a-z0-9-]{1,30}$")
    account: str = Field("111111111111", pattern=r"^[0-9]{12}$")
    region: str = "eu-central-1"
    zones: tuple[str, ...] = ("eu-central-1a", "eu-central-1b", "eu-central-1c")
    """Named, so that the template says where it is; three, as many as brokers."""
    kubernetes: str = "1.34"
    namespace: str = "headrace"
    serving_instance: str = "c7g.2xlarge"
    serving_nodes: tuple[int, int] = (3, 12)
    batch_instances: tuple[str, ...] = ("c7g.4xlarge", "c7gn.4xlarge", "m7g.4xlarge")
    batch_nodes_max: int = 8
    broker_instance: str = "kafka.m7g.large"
    broker_gib: int = Field(500, ge=1)
    cache_node: str = "cache.r7g.xlarge"
    cache_shards: int = Field(3, ge=1)
    archive_expire_days: int = Field(400, ge=30)
    alarm_email: str | None = None
    collector_image: str = "public.ecr.aws/aws-observability/aws-otel-collector:v0.49.0"
    """What ships metrics to CloudWatch; from a registry of your own, and by digest, if you like."""
    ports_tls: bool = False
    """As the chart's: whether `ports.tls` names a Secret."""
    ports_tokens: str = ""
    """As the chart's `ports.tokens.name`: the Secret whose key `ports_token_key` is a token."""
    ports_token_key: str = "admin"

    def arn(self, service: str, resource: str) -> str:
        """The ARN of something in this account and region."""
        return f"arn:aws:{service}:{self.region}:{self.account}:{resource}"
