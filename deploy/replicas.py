"""Several processes of one command on one machine: one ends, all end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from features.errors import Unavailable

POLL_INTERVAL_S = 0.1


def run_replicas(command: Sequence[str], count: int, environment: Mapping[str, str]) -> None:
    """Run the command so many times, until SIGTERM or SIGINT, which each of them is told.

    Raises Unavailable when one ends by itself, once the others are stopped: whoever supervises
    this process starts all of them anew.
    """
    told: list[int] = []

    def tell(number: int, _: FrameType | None) -> None:
        told.append(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    replicas = [
        subprocess.Popen(list(command), env={**os.environ, **environment}) for _ in range(count)
    ]
    try:
        while not told and all(replica.poll() is None for replica in replicas):
            time.sleep(POLL_INTERVAL_S)
    finally:
        for replica in replicas:
            replica.send_signal(signal.SIGTERM)  # nothing happens to one that has ended
        # One that was told before it could listen to signals had not begun either.
        ended = [0 if (code := replica.wait()) == -signal.SIGTERM else code for replica in replicas]
        for number, handler in before.items():
            signal.signal(number, handler)
    if not told and any(ended):
        raise Unavailable(f"one of {count} processes ended by itself; exit codes {ended}")
    if any(ended):
        sys.exit(max(map(abs, ended)))
