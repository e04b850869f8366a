"""Loopback ports: whether one is free, and which one a server is given."""

import random
import socket
from itertools import cycle, islice
from typing import Final

from features.errors import Refused

HOST = "127.0.0.1"
GIVEN: Final = range(20_000, 32_000)
"""Where servers without a usual port get one: below the ports (32768 and up on Linux) from which
the system takes one for the near end of a connection, so that what is free now stays free."""
TRIES: Final = 100
_next: Final = cycle(random.sample(GIVEN, len(GIVEN)))
"""In an order of this process's own, so that none is given twice before a server listens."""


def is_free(port: int) -> bool:
    """True if nothing listens on the port and it can be bound."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        # A listener on every address does not always stop a bind to one: so ask it as well.
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nothing listens on, nor is likely to before a server does."""
    for candidate in islice(_next, TRIES):
        if is_free(candidate):
            return candidate
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def choose(asked: int | None, usual: int, option: str) -> int:
    """The port asked for, or the usual one when it is free, or any free one.

    Raises Refused when the port asked for is taken.
    """
    if asked is None:
        return usual if is_free(usual) else free_port()
    if not is_free(asked):
        raise Refused(
            f"port {asked} on {HOST} is taken or not ours to bind. Stop what listens there, or"
            f" leave {option} out and a free port is chosen."
        )
    return asked
