"""The ranker process: one event loop, an HTTP and a gRPC face, from start to a graceful stop."""

import asyncio
import gc
import logging
import math
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final, Protocol

import uvicorn

from features.errors import Refused
from features.guard import Guard
from ranker.api import Service, make_app
from ranker.rpc import RpcServer, server_tls
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
    if _in_the_open(settings):
        log.warning("tokens are asked for and TLS is off: anybody on the way can read them")
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(service, settings, _http_server(service, settings)))


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop as the process has: uvicorn's choice, uvloop where that is installed."""
    make = uvicorn.Config("", log_config=None).get_loop_factory()
    return asyncio.new_event_loop() if make is None else make()


async def _serve(service: Stoppable, settings: RankerSettings, http: uvicorn.Server) -> None:
    async with service.running():
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not look at it again
        gc.enable()  # it rests while a process starts
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
    rpc = _rpc_server(service, settings) if settings.grpc_port else None
    if rpc is not None:
        await rpc.start()
    serving = asyncio.create_task(http.serve([bound]))
    try:
        yield
        if rpc is not None:
            await rpc.not_serving()
        await asyncio.sleep(settings.stop_notice_ms / 1000)
    finally:
        http.should_exit = True
        if rpc is not None:
            await rpc.stop(settings.stop_drain_ms / 1000)
        await serving


def _in_the_open(settings: RankerSettings) -> bool:
    tokens = settings.rank_tokens or settings.admin_tokens
    local = settings.http_host in ("127.0.0.1", "::1", "localhost")
    return tokens is not None and settings.tls_cert_file is None and not local


def _guard(settings: RankerSettings) -> Guard:
    return Guard.of(settings.rank_tokens, settings.admin_tokens)


def _rpc_server(service: Service, settings: RankerSettings) -> RpcServer:
    """The gRPC face, not started yet. Raises `Refused` when its address is taken."""
    address = f"{settings.http_host}:{settings.grpc_port}"
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    tls = server_tls(certificate, key, settings.tls_ca_file) if certificate and key else None
    try:
        return RpcServer(service, address, settings.share_ports, tls, _guard(settings))
    except OSError as error:
        raise Refused(f"{error}: set HEADRACE_GRPC_PORT (0 turns gRPC off)") from error


class _HttpServer(uvicorn.Server):
    """uvicorn, but for signals: they stop both faces, and the caller of `run` handles them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_server(service: Service, settings: RankerSettings) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(service, _guard(settings)),
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
        ssl_ca_certs=None if settings.tls_ca_file is None else str(settings.tls_ca_file),
        ssl_cert_reqs=ssl.CERT_NONE if settings.tls_ca_file is None else ssl.CERT_REQUIRED,
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
