"""The processes: `route`, `aggregate`, `ranker`. Each runs until SIGTERM.

Metrics are imported before anything that imports Feast: Feast points Prometheus at a folder of
shared files, and Prometheus decides at its own import whether to use one.
"""

import signal
from collections.abc import Callable
from typing import Annotated, Final

import typer

from deploy.quick_start import start_quickly

ONCE_IDLE_MS: Final = 3_000


def route() -> None:
    """Turn events into updates: Kafka `events` to Kafka `updates`."""
    start_quickly()
    import streaming.metrics  # noqa: F401 - first
    from deploy import logs
    from streaming.settings import StreamingSettings
    from streaming.wiring import run_route

    settings = StreamingSettings()
    logs.set_up("route", settings)
    run_route(settings, until_stopped())


def aggregate() -> None:
    """Fold updates into rows: Kafka `updates` to Redis."""
    start_quickly()
    import streaming.metrics  # noqa: F401 - first
    from deploy import logs
    from streaming.settings import StreamingSettings
    from streaming.wiring import run_aggregate

    settings = StreamingSettings()
    logs.set_up("aggregate", settings)
    run_aggregate(settings, until_stopped())


def ranker(
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            envvar="HEADRACE_RANKER_PROCESSES",
            help="So many of them share the ports, each with its own item table.",
        ),
    ] = 1,
) -> None:
    """Serve rankings over HTTP and gRPC."""
    if processes > 1:
        from deploy.local import headrace_command
        from deploy.replicas import run_replicas

        alone = {"HEADRACE_RANKER_PROCESSES": "1", "HEADRACE_SHARE_PORTS": "true"}
        return run_replicas(headrace_command("ranker"), processes, alone)
    start_quickly()
    import ranker.metrics  # noqa: F401 - first
    from deploy import logs
    from deploy.kernels import compile_kernels
    from ranker.settings import RankerSettings
    from ranker.wiring import run_ranker

    settings = RankerSettings()
    logs.set_up("ranker", settings)
    compile_kernels()  # so that the first request finds them all, whatever it asks
    return run_ranker(settings)


def until_stopped() -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT has come."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopped.append(received))
    return lambda: bool(stopped)
