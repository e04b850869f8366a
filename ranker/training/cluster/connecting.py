"""Clusters to train on: a scheduler that runs somewhere, or workers started here for the time."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import LocalCluster, get_worker

from features.errors import Refused, Unavailable
from ranker.training.cluster.growing import ClusterGround
from ranker.training.cluster.on_worker import quieten
from ranker.training.cluster.watch import Session, SteadyClient

CONNECT_TIMEOUT_S = 20.0
START_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 10.0
SAME = ("headrace", "lightgbm", "python")
"""What has to be the same, in version, on every worker as here."""


@contextmanager
def workers_of(
    address: str, silence_s: float, connect_timeout_s: float = CONNECT_TIMEOUT_S
) -> Iterator[ClusterGround]:
    """All workers that a scheduler has now.

    Raises Unavailable when it does not answer or has none, Refused when one runs other versions.
    """
    with _client(address, connect_timeout_s) as client:
        yield _ground(client, address, silence_s)


@contextmanager
def local_workers(count: int, silence_s: float) -> Iterator[ClusterGround]:
    """Processes of this machine, each with its share of the cores; they end with the context."""
    try:
        cluster = LocalCluster(
            n_workers=count,
            # One core stays free, as in training without a cluster.
            threads_per_worker=max(1, ((os.cpu_count() or 2) - 1) // count),
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
            memory_limit=0,  # the rows of all are in this machine's memory either way
        )
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"{count} Dask workers could not be started here: {error}") from error
    try:
        address = cluster.scheduler_address
        with _client(address, START_TIMEOUT_S) as client:
            client.wait_for_workers(count, timeout=START_TIMEOUT_S)
            client.run(quieten)
            yield _ground(client, address, silence_s)
    finally:
        cluster.close(timeout=CLOSE_TIMEOUT_S)


@contextmanager
def _client(address: str, timeout_s: float) -> Iterator[SteadyClient]:
    try:
        client = SteadyClient(  # type: ignore[no-untyped-call]
            address, timeout=timeout_s, set_as_default=False, name="headrace-train"
        )
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"no Dask scheduler answers at {address} ({error}): start one there (`dask scheduler`) "
            "with workers (`dask worker`), name another (--dask), or train without it"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=CLOSE_TIMEOUT_S)  # type: ignore[no-untyped-call]


def _ground(client: SteadyClient, address: str, silence_s: float) -> ClusterGround:
    about = _about_workers(client, address, silence_s)
    here = _teller()()
    for worker, said in about.items():
        for name in SAME:
            if said[name] != here[name]:
                raise Refused(
                    f"the Dask worker {worker} has {name} {said[name] or 'not at all'} and here "
                    f"it is {here[name]}: install 'headrace[dask]' there in the same versions"
                )
    # By name, which is a number where workers are started here: addresses change from run to run.
    workers = tuple(sorted(about, key=lambda worker: (_order(about[worker]["name"]), worker)))
    session = Session(client, workers, f"headrace-train-{uuid.uuid4().hex}", silence_s)
    session.client.subscribe_topic(session.topic, session.hear)
    return ClusterGround(session, max(1, round(silence_s / 60)))


def _about_workers(
    client: SteadyClient, address: str, silence_s: float
) -> dict[str, dict[str, Any]]:
    session = Session(client, (), "", min(silence_s, CONNECT_TIMEOUT_S))
    found: dict[str, dict[str, Any]] = session.watched(
        "its workers were asked for their versions", lambda: client.run(_teller())
    )
    if not found:
        raise Unavailable(f"the Dask scheduler at {address} has no workers: start some for it")
    return found


def _order(name: Any) -> tuple[bool, int, str]:
    return not isinstance(name, int), name if isinstance(name, int) else 0, str(name)


def _teller() -> Callable[[], dict[str, Any]]:
    """What tells of a worker. A function of its own, it travels whole: the worker may lack us."""

    def tell() -> dict[str, Any]:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, Any] = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in ("headrace", "lightgbm"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        try:
            found["name"] = get_worker().name
        except ValueError:  # it is asked of the process that trains
            found["name"] = None
        return found

    return tell
