"""Sets the clock of a process that has this folder in PYTHONPATH: seconds ahead, by a variable.

Python's own clock, before anything reads it. libfaketime would set that of C code as well, but it
breaks the sleeps of Python 3.11 and newer, which wait by a clock that must not be set.
"""

import os
import time

_AHEAD_S = int(os.environ["HEADRACE_TEST_CLOCK_AHEAD_S"])
_true_time, _true_time_ns = time.time, time.time_ns


def _time() -> float:
    return _true_time() + _AHEAD_S


def _time_ns() -> int:
    return _true_time_ns() + _AHEAD_S * 1_000_000_000


time.time, time.time_ns = _time, _time_ns
