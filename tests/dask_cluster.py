"""A Dask cluster of processes: a scheduler, and workers of one thread, on loopback."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from deploy.ports import HOST, free_port
from deploy.processes import Child, Program, running

START_TIMEOUT_S = 90


@dataclass(frozen=True)
class DaskCluster:
    """Where the scheduler listens, and the processes."""

    address: str
    scheduler: Child
    workers: tuple[Child, ...]


@contextmanager
def dask_cluster(folder: Path, count: int) -> Iterator[DaskCluster]:
    """So many workers that the scheduler knows, gone at the end whatever happened."""
    with ExitStack() as stack:

        def started(name: str, port: int, arguments: Sequence[str]) -> Child:
            command = [sys.executable, "-m", "dask", *arguments, "--host", HOST, "--no-dashboard"]
            program = Program(name, command, port, lambda _: True)
            return stack.enter_context(running(program, folder / f"{name}.log", START_TIMEOUT_S))

        port = free_port()
        scheduler = started("scheduler", port, ["scheduler", "--port", str(port)])
        address = f"tcp://{HOST}:{port}"
        workers = []
        for number in range(count):
            own = free_port()
            arguments = ["worker", address, "--name", str(number), "--nthreads", "1"]
            arguments += ["--no-nanny", "--worker-port", str(own), "--memory-limit", "0"]
            arguments += ["--local-directory", str(folder)]
            workers.append(started(f"worker-{number}", own, arguments))
        with Client(address, timeout=START_TIMEOUT_S, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=START_TIMEOUT_S)
        yield DaskCluster(address, scheduler, tuple(workers))
