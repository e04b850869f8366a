"""The one place that names the compiler of numeric kernels, with a type that mypy can follow."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def _sources_hash(folder: Path) -> str:
    """One hash over all files that may hold a kernel."""
    content = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    return hashlib.sha256(content).hexdigest()[:12]


# numba asks only whether the file of a kernel itself has changed. A kernel that calls one of
# another file would run on with that one's old code inlined, so each state of the files has its
# own cache.
_HERE = Path(__file__).parent
numba.config.CACHE_DIR = str(  # type: ignore[attr-defined]
    Path(os.environ.get("NUMBA_CACHE_DIR") or _HERE / "__pycache__")
    / f"kernels-{_sources_hash(_HERE)}"
)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """A function over arrays, compiled on first use (cached on disk) and run without the GIL."""
    compiled: Callable[P, R] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled
