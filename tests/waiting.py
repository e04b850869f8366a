"""Waiting for what another thread or process does: bounded, and saying what never came."""

import time
from collections.abc import Callable


def until(
    met: Callable[[], object], timeout_s: float = 10.0, what: str = "", pause_s: float = 0.001
) -> float:
    """Return once a condition holds, with the seconds it took; fail when it does not in time."""
    began = time.monotonic()
    while not met():
        waited = time.monotonic() - began
        assert waited < timeout_s, f"waited {waited:.1f} s in vain {what}"
        time.sleep(pause_s)
    return time.monotonic() - began
