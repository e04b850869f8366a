"""Where `headrace train` trains: in this process, or on the workers of a Dask cluster."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from features.errors import BadInput, Refused
from features.tags import duration_ms
from ranker.training.growing import Ground, Here

SILENCE = "5m"
_ADDRESS = re.compile(r"((tcp|tls)://)?[^\s/:]+:\d{1,5}")


@contextmanager
def ground(scheduler: str | None, workers: int | None, silence: str | None) -> Iterator[Ground]:
    """What the options ask for. BadInput where they do not go together, Refused without Dask,
    Unavailable when the cluster does not answer."""
    if scheduler is None and workers is None:
        if silence is not None:
            raise BadInput(
                f"--dask-timeout {silence} without a Dask cluster: name one with --dask ADDRESS or "
                "--dask-workers N, or leave it out"
            )
        yield Here()
        return
    if scheduler is not None and workers is not None:
        raise BadInput(
            f"--dask {scheduler} and --dask-workers {workers}: a scheduler brings its own workers, "
            "all of which train; --dask-workers starts some here. Give one of the two"
        )
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise BadInput(
            f"--dask {scheduler!r}: write the address of a scheduler, tcp://HOST:PORT (8786 is "
            "Dask's own port) or tls://HOST:PORT"
        )
    try:
        silence_s = duration_ms(silence or SILENCE) / 1000
    except ValueError as error:
        raise BadInput(f"--dask-timeout {silence!r}: {error}") from error
    if find_spec("distributed") is None or find_spec("sklearn") is None:
        raise Refused("training on a Dask cluster needs Dask: pip install 'headrace[dask]'")
    from ranker.training.cluster.connecting import local_workers, workers_of

    if scheduler is not None:
        with workers_of(scheduler, silence_s) as cluster:
            yield cluster
    elif workers is not None:
        with local_workers(workers, silence_s) as cluster:
            yield cluster
