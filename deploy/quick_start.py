"""A start without what Feast does for those who write definitions.

Feast marks its classes with typeguard, which parses and compiles the source of every method anew at
each import: nearly two thirds of the processor time that a worker took to start. Workers make
Feast's objects only from a registry, and what is in it `feast apply` has checked.
"""

from typing import Any

import typeguard


def leave_feast_unchecked() -> None:
    """Import Feast as it was written, from here on; for processes that only read a registry.

    Call it before anything imports Feast: what is imported already stays as it is.
    """
    vars(typeguard)["typechecked"] = _as_it_is


def _as_it_is(target: Any = None, **_: object) -> Any:
    """What `typeguard.typechecked` is without its checks, with or without options."""
    return _as_it_is if target is None else target
