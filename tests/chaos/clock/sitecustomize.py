"""Sets the clock of a process that has this folder in PYTHONPATH, by a file with its lead in ns.

Python's own clock, before anything reads it; it leaps when the file is written. libfaketime would
set that of C code as well, but it breaks the sleeps of Python 3.11 and newer, which wait by a clock
that must not be set.

gRPC alone compares the two: its compiled code holds Python's clock against its own reading of the
machine's, to tell what is left of a call. On a machine whose clock is wrong both are wrong alike
and the difference is right, so it is given the true one for both.
"""

import importlib
import mmap
import os
import struct
import time
import types

_FILE = os.open(os.environ["HEADRACE_TEST_CLOCK"], os.O_RDONLY)
_LEAD = mmap.mmap(_FILE, 8, access=mmap.ACCESS_READ)
os.close(_FILE)
_NS = struct.Struct("<q")
_true_time, _true_time_ns = time.time, time.time_ns
_true = types.ModuleType("time")
vars(_true).update(vars(time))


def _time() -> float:
    return _true_time() + _NS.unpack_from(_LEAD)[0] / 1e9  # type: ignore[no-any-return]


def _time_ns() -> int:
    return _true_time_ns() + _NS.unpack_from(_LEAD)[0]  # type: ignore[no-any-return]


time.time, time.time_ns = _time, _time_ns

vars(importlib.import_module("grpc._cython.cygrpc"))["time"] = _true
