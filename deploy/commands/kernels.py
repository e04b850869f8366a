"""`headrace compile`: the numeric kernels made ahead, so that no process has to."""

import time

from deploy.console import say


def compile_() -> None:
    """Compile all numeric kernels for this machine's processor and keep them; a minute or so.

    They are kept in NUMBA_CACHE_DIR, or beside the sources. Run it where an image is built, or
    before a start on a read-only file system; NUMBA_CPU_NAME names another processor.
    """
    from deploy.kernels import compile_kernels
    from features.compiled import HERE, folder_of

    began = time.perf_counter()
    compile_kernels()
    folder = folder_of(HERE / "compiled.py").parent
    kept = sum(1 for _ in folder.rglob("*.nbc"))
    say(f"{kept} kernels in {folder}, made ready in {time.perf_counter() - began:.1f} s")
