"""The client for threads."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2

from features.errors import Unavailable
from ranker.client.channel import (
    RETRIES,
    SERVING,
    Retries,
    Tls,
    calls,
    credentials,
    metadata,
    options,
    traced,
)
from ranker.client.errors import RankError, of_call, results
from ranker.request import RankRequest, RankResponse
from ranker.v1 import ranker_pb2 as pb
from ranker.wire import read_response, write_request


class Client:
    """A connection to one ranker, or to each that its name resolves to; for any thread."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 1.0,
        tls: Tls | None = None,
        token: str | None = None,
        retries: Retries = RETRIES,
    ) -> None:
        """`address` is `host:port`, or `dns:///host:port` for all that the name resolves to.

        Raises BadInput for a token without TLS: anybody on the way could read it.
        """
        self._timeout_s, self._metadata = timeout_s, metadata(token, tls)
        chosen = options(retries)
        self._channel = (
            grpc.insecure_channel(address, chosen)
            if tls is None
            else grpc.secure_channel(address, credentials(tls), chosen)
        )
        self._rank, self._rank_batch, self._check = calls(self._channel)

    def rank(self, request: RankRequest, timeout_s: float | None = None) -> RankResponse:
        """The feed for a request. Raises `RankError`."""
        answer = self._call(self._rank, write_request(request), timeout_s)
        return read_response(answer)

    def rank_batch(
        self, requests: Sequence[RankRequest], timeout_s: float | None = None
    ) -> list[RankResponse | RankError]:
        """What became of each of up to 100 requests. Raises `RankError` when nothing came."""
        batch = pb.RankBatchRequest(requests=map(write_request, requests))
        return results(self._call(self._rank_batch, batch, timeout_s))

    def is_ready(self, timeout_s: float | None = None) -> bool:
        """Whether the ranker says that requests may be sent to it."""
        try:
            answer = self._call(self._check, health_pb2.HealthCheckRequest(), timeout_s)
        except Unavailable:
            return False
        return bool(answer.status == SERVING)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, call: Any, message: Any, timeout_s: float | None) -> Any:
        try:
            return call(
                message, timeout=timeout_s or self._timeout_s, metadata=traced(self._metadata)
            )
        except grpc.RpcError as error:
            raise of_call(error) from None
