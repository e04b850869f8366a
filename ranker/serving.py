"""The ranker process: one event loop, an HTTP and a gRPC face, from start to a graceful stop."""

import asyncio
import gc
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final, Protocol

import uvicorn

from features.errors import Refused
from ranker.api import Service, make_app
from ranker.rpc import RpcServer
from ranker.settings import RankerSettings

log = logging.getLogger("headrace.ranker")

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s of the usual balancers: they should be the ones to close."""


class Stoppable(Service, Protocol):
    """A ranker that is started and stopped with its process."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Load, and at the end write what was served and close."""
        ...

    def stop_soon(self) -> None:
        """Be unready from now on; requests that come nevertheless are still answered."""
        ...


def run(service: Stoppable, settings: RankerSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    http = _http_server(service, settings)
    with asyncio.Runner(loop_factory=http.config.get_loop_factory()) as runner:
        runner.run(_serve(service, settings, http))


async def _serve(service: Stoppable, settings: RankerSettings, http: uvicorn.Server) -> None:
    async with service.running():
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not look at it again
        stopped = _until_stopped()
        async with _listening(service, settings, http):
            await stopped.wait()
            log.info("ranker stops: unready from now on, and gone after what was asked")
            service.stop_soon()
        log.info("ranker has answered all that it took")


@asynccontextmanager
async def _listening(
    service: Stoppable, settings: RankerSettings, http: uvicorn.Server
) -> AsyncIterator[None]:
    """Both faces serve inside the `with`. After it they say so, wait, take no more, and drain."""
    bound = _bound(settings)
    serving = asyncio.create_task(http.serve([bound]))
    rpc: RpcServer | None = None
    try:
        if settings.grpc_port:
            try:
                rpc = RpcServer(
                    service, f"{settings.http_host}:{settings.grpc_port}", settings.share_ports
                )
            except OSError as error:
                raise Refused(f"{error}: set HEADRACE_GRPC_PORT (0 turns gRPC off)") from error
            await rpc.start()
        yield
        if rpc is not None:
            await rpc.not_serving()
        await asyncio.sleep(settings.stop_notice_ms / 1000)
    finally:
        http.should_exit = True
        if rpc is not None:
            await rpc.stop(settings.stop_drain_ms / 1000)
        await serving


class _HttpServer(uvicorn.Server):
    """uvicorn, but for signals: they stop both faces, and the caller of `run` handles them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_server(service: Service, settings: RankerSettings) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(service),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.stop_drain_ms / 1000),
    )
    return _HttpServer(config)


def _bound(settings: RankerSettings) -> socket.socket:
    """A socket at the HTTP address. Raises `Refused` when it is taken."""
    place = (settings.http_host, settings.http_port)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.share_ports:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        raise Refused(f"HTTP cannot listen on {place[0]}:{place[1]}: {error}") from error
    return bound


def _until_stopped() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; more of them change nothing, since stopping is bounded."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped
