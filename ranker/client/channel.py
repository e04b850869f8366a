"""How a client reaches the ranker: connection, TLS, token, retries."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from features.errors import BadInput
from ranker.v1 import ranker_pb2 as pb

SERVICE: Final = pb.DESCRIPTOR.services_by_name["RankerService"].full_name
HEALTH: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = health_pb2.HealthCheckResponse.SERVING

CHANNEL: Final[Mapping[str, Any]] = {
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.initial_reconnect_backoff_ms": 100,
    # A ranker that came back is found again before the next one may go: whoever is told to stop
    # answers for HEADRACE_STOP_NOTICE_MS, 500, from then on.
    "grpc.max_reconnect_backoff_ms": 300,
    # What one attempt may take, not a pause between them.
    "grpc.min_reconnect_backoff_ms": 2_000,
    "grpc.max_receive_message_length": 64 * 1024 * 1024,
    # Two clients in one process are two connections.
    "grpc.use_local_subchannel_pool": 1,
}


@dataclass(frozen=True)
class Tls:
    """PEM texts; without `ca` the system's authorities, with `certificate` and `key` mutual TLS."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Retries:
    """A call that found no ranker is tried again, within its deadline.

    That is UNAVAILABLE, and CANCELLED, with which gRPC ends what reaches a server just as it stops.

    Each failure takes one of `budget` tokens, each success gives `budget_per_success` back; with
    half of them or fewer nothing is tried again, so that retries cannot multiply an outage.
    """

    attempts_max: int = 3
    """2 to 5, the first one included; 1 turns retries off."""
    first_wait_ms: int = 20
    """10 or more: gRPC loses a call whose wait rounds to nothing."""
    wait_ms_max: int = 500
    budget: int = 10
    budget_per_success: float = 0.1

    def __post_init__(self) -> None:
        """Raises BadInput for what gRPC would not take."""
        if not (1 <= self.attempts_max <= 5 and 10 <= self.first_wait_ms <= self.wait_ms_max):
            raise BadInput(f"{self}: 1 to 5 attempts, and waits of 10 ms or more, rising")


RETRIES: Final = Retries()
NO_RETRIES: Final = Retries(attempts_max=1)


def calls(channel: Any) -> tuple[Any, Any, Any]:
    """What calls Rank, RankBatch and the health check."""
    rank, batch = pb.RankRequest, pb.RankBatchRequest
    check = health_pb2.HealthCheckRequest
    return (
        channel.unary_unary(f"/{SERVICE}/Rank", rank.SerializeToString, pb.RankResponse.FromString),
        channel.unary_unary(
            f"/{SERVICE}/RankBatch", batch.SerializeToString, pb.RankBatchResponse.FromString
        ),
        channel.unary_unary(
            HEALTH, check.SerializeToString, health_pb2.HealthCheckResponse.FromString
        ),
    )


def options(retries: Retries) -> list[tuple[str, Any]]:
    methods: dict[str, Any] = {"name": [{"service": SERVICE}]}
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [methods],
    }
    if retries.attempts_max > 1:
        methods["retryPolicy"] = {
            "maxAttempts": retries.attempts_max,
            "initialBackoff": f"{retries.first_wait_ms / 1000}s",
            "maxBackoff": f"{retries.wait_ms_max / 1000}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
        config["retryThrottling"] = {
            "maxTokens": retries.budget,
            "tokenRatio": retries.budget_per_success,
        }
    return [
        *CHANNEL.items(),
        ("grpc.enable_retries", int(retries.attempts_max > 1)),
        ("grpc.service_config", json.dumps(config)),
    ]


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)


def traced(known: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The metadata of one call, with the trace of whoever calls, if it traces at all."""
    if "opentelemetry.trace" not in sys.modules:
        return known
    from features.traces.context import current

    return (*known, *current())


def metadata(token: str | None, tls: Tls | None) -> tuple[tuple[str, str], ...]:
    if token is None:
        return ()
    if tls is None:
        raise BadInput("a token without TLS can be read by anybody on the way: give `tls` as well")
    return (("authorization", f"Bearer {token}"),)
