"""gRPC: `ranker.v1.RankerService` over the front desk, with health and reflection."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from features.guard import OPEN, Guard
from features.traces import HEADER
from ranker.api import Service
from ranker.front_desk import BODY_BYTES_MAX, Declined, FrontDesk, Read, unreadable
from ranker.request import RankResponse
from ranker.v1 import ranker_pb2 as pb
from ranker.wire import read_request, write_problems, write_response

SERVICE: Final = pb.DESCRIPTOR.services_by_name["RankerService"].full_name
PROBLEMS_KEY: Final = "headrace-problems-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
READY_CHECK_S: Final = 0.1
LAST_ANSWER_S: Final = 0.2
"""For the last answers to leave, once they are made."""

OPTIONS: Final = {
    "grpc.max_receive_message_length": BODY_BYTES_MAX,
    "grpc.max_send_message_length": -1,
    # Idle clients may ask every few seconds whether we live.
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
}


def server_tls(certificate: Path, key: Path, ca: Path | None) -> grpc.ServerCredentials:
    """TLS of the port, from PEM files; with `ca` every caller must show a certificate."""
    pair = (key.read_bytes(), certificate.read_bytes())
    root = None if ca is None else ca.read_bytes()
    return grpc.ssl_server_credentials([pair], root, require_client_auth=ca is not None)


Context = ServicerContext[bytes, bytes]
Answer = Callable[[bytes, Context], Awaitable[bytes]]


class RpcServer:
    """The gRPC face of a ranker, in the running event loop."""

    def __init__(
        self,
        service: Service,
        address: str,
        share_port: bool = False,
        tls: grpc.ServerCredentials | None = None,
        guard: Guard = OPEN,
    ) -> None:
        """Raises OSError when the address cannot be listened on."""
        self._service = service
        options = [*OPTIONS.items(), ("grpc.so_reuseport", int(share_port))]
        self._server = grpc.aio.server(options=options)
        self._health = health.HealthServicer()
        self._server.add_generic_rpc_handlers((_handlers(service.desk, guard),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, HEALTH, reflection.SERVICE_NAME)
        if not guard.guards("admin"):
            reflection.enable_server_reflection(names, self._server)
        try:
            self.port: int = (
                self._server.add_insecure_port(address)
                if tls is None
                else self._server.add_secure_port(address, tls)
            )
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from error
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve, and tell whether we are ready."""
        await self._tell()
        await self._server.start()
        self._following = asyncio.create_task(self._follow())

    async def stop(self, drain_s: float) -> None:
        """Take no more calls, and let those that began end."""
        if self._following is not None:
            self._following.cancel()
        ending = asyncio.create_task(self._server.stop(drain_s))
        # Whoever watches our health would hold us up until the end: rankings alone are waited for.
        idle = asyncio.create_task(self._service.desk.idle())
        await asyncio.wait((ending, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await self._server.stop(LAST_ANSWER_S)
        await ending

    async def not_serving(self) -> None:
        """Tell whoever asks or watches that calls should be made elsewhere."""
        await self._health.enter_graceful_shutdown()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(READY_CHECK_S)
            await self._tell()

    async def _tell(self) -> None:
        status = health_pb2.HealthCheckResponse
        ready = self._service.unready() is None
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)


def _handlers(desk: FrontDesk, guard: Guard) -> grpc.GenericRpcHandler:
    """The calls, from bytes to bytes: a call that is turned away is not even parsed."""

    def admit(context: Context) -> None:
        if not guard.guards("rank"):
            return
        if not guard.admits("rank", _shown(context, "authorization")):
            raise desk.turn_away()

    async def rank(content: bytes, context: Context) -> bytes:
        admit(context)
        left_ms = _left_ms(context)
        desk.knock(left_ms)
        response = await desk.rank(_parser(content), left_ms, trace=_shown(context, HEADER))
        return write_response(response).SerializeToString()

    async def rank_batch(content: bytes, context: Context) -> bytes:
        admit(context)
        batch = _parse(pb.RankBatchRequest, content)
        results = await desk.batch([_checker(one) for one in batch.requests], _left_ms(context))
        return pb.RankBatchResponse(results=map(_result, results)).SerializeToString()

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Rank": grpc.unary_unary_rpc_method_handler(_declining(rank)),
            "RankBatch": grpc.unary_unary_rpc_method_handler(_declining(rank_batch)),
        },
    )


def _declining(answer: Answer) -> Any:
    """Turns `Declined` into a status, with the problems in the trailing metadata."""

    async def answered(content: bytes, context: Context) -> bytes:
        try:
            return await answer(content, context)
        except Declined as why:
            problems = write_problems(why.problems, why.retry_after_ms).SerializeToString()
            metadata: tuple[tuple[str, str | bytes], ...] = ((PROBLEMS_KEY, problems),)
            if why.retry_after_ms is not None:
                metadata += ((PUSHBACK_KEY, str(why.retry_after_ms)),)
            await context.abort(grpc.StatusCode[why.kind.grpc], str(why), metadata)
            raise AssertionError("abort does not return") from why

    return answered


Message = TypeVar("Message", pb.RankRequest, pb.RankBatchRequest)


def _parse(kind: type[Message], content: bytes) -> Message:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise unreadable(f"this is no {kind.DESCRIPTOR.full_name}: {error}") from None


def _parser(content: bytes) -> Read:
    return lambda: read_request(_parse(pb.RankRequest, content))


def _checker(message: pb.RankRequest) -> Read:
    return lambda: read_request(message)


def _result(one: RankResponse | Declined) -> pb.RankBatchResult:
    if isinstance(one, Declined):
        return pb.RankBatchResult(problems=write_problems(one.problems, one.retry_after_ms))
    return pb.RankBatchResult(response=write_response(one))


def _shown(context: Context, name: str) -> str | None:
    """What a call's metadata has under a name."""
    shown = dict(context.invocation_metadata() or ()).get(name)
    return None if shown is None else str(shown)


def _left_ms(context: Context) -> float | None:
    """How long the caller still waits; None: for ever."""
    left_s = cast(float | None, context.time_remaining())
    return None if left_s is None else 1000 * left_s
