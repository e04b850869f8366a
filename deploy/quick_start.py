"""A start of a process without work that is of no use to it.

Feast marks its classes with typeguard, which parses and compiles the source of every method anew at
each import: nearly two thirds of the processor time that a worker took to start. Workers make
Feast's objects only from a registry, and what is in it `feast apply` has checked.

The garbage collector looks at all that is imported over and over, and it all stays: a quarter of
the processor time of what was left.
"""

import gc
from typing import Any

import typeguard


def start_quickly() -> None:
    """Import as `leave_feast_unchecked` says, and let the garbage collector rest meanwhile.

    Call it first of all; the process calls `gc.enable` once it has what it works with.
    """
    gc.disable()
    leave_feast_unchecked()


def leave_feast_unchecked() -> None:
    """Import Feast as it was written, from here on; for processes that only read a registry.

    Call it before anything imports Feast: what is imported already stays as it is.
    """
    vars(typeguard)["typechecked"] = _as_it_is


def _as_it_is(target: Any = None, **_: object) -> Any:
    """What `typeguard.typechecked` is without its checks, with or without options."""
    return _as_it_is if target is None else target
