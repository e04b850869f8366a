"""The one place that names the compiler of numeric kernels, with a type that mypy can follow.

Compiled kernels are kept in `__pycache__` beside the sources, or under NUMBA_CACHE_DIR. What is
there is used even where nothing can be written, so that an image can bring it along (`headrace
compile`); what is not there is compiled anew by every process, which says so.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

log = logging.getLogger("headrace")

P = ParamSpec("P")
R = TypeVar("R")

HERE = Path(__file__).parent


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """A function over arrays, compiled on first use (cached on disk) and run without the GIL."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as numba does
    found: Callable[P, R] = compiled
    return found


def folder_of(source: Path) -> Path:
    """Where the compiled kernels of a source file are kept.

    numba asks only whether the file of a kernel itself has changed. A kernel that calls one of
    another file would run on with that one's old code inlined, so each state of the files that
    may hold kernels has a folder of its own.
    """
    root = Path(os.environ.get("NUMBA_CACHE_DIR") or HERE / "__pycache__")
    folders = tuple(dict.fromkeys((HERE, source.parent)))
    return root / f"kernels-{_sources_hash(folders)}" / source.parent.name


@functools.cache
def _sources_hash(folders: tuple[Path, ...]) -> str:
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


class _Locator:
    """Says where a kernel is kept, whether or not anything can be written there."""

    def __init__(self, function: Any, source: str) -> None:
        self._folder = folder_of(Path(source))
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Any, source: str) -> Self:
        return cls(function, source)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._folder.parent.name

    def get_disambiguator(self) -> str:
        return str(self._line)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes: ClassVar[list[type[object]]] = [_Locator]  # type: ignore[misc]


class _Cache(FunctionCache):
    _impl_class = _CacheImpl

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What was kept, if anything can be read there."""
        try:
            return super().load_overload(signature, target)  # type: ignore[no-untyped-call]
        except OSError:
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled, where that can be."""
        try:
            super().save_overload(signature, result)  # type: ignore[no-untyped-call]
        except OSError as error:
            _tell_once(str(self.cache_path), str(error))


@functools.cache
def _tell_once(folder: str, why: str) -> None:
    log.warning(
        "compiled kernels cannot be kept in %s (%s): every process compiles them anew, which takes "
        "a minute or so. Set NUMBA_CACHE_DIR to a folder that can be written, or run `headrace "
        "compile` where the image is built",
        folder,
        why,
    )
