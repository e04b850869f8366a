"""The time of one request: what each stage may take, and what is done when one is late or fails.

A stage is the one boundary where any error is caught, a programmer's too: it costs the answer that
stage, never the feed. The log has the traceback, the metrics count it, the answer names it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from features.errors import HeadraceError

log = logging.getLogger("headrace.ranker")

T = TypeVar("T")

BUDGETS_MS: Final[Mapping[str, float]] = {
    "source": 20.0,
    "features": 40.0,
    "heads": 60.0,
    "diversity": 10.0,
    "explain": 50.0,
}
"""What a stage is given of a request that has all the time there is by default. It is not begun
when less is left; filters and the value model cost next to nothing and always run."""
RESERVE_MS: Final = 10.0
RESERVE_SHARE: Final = 0.2
"""Kept back for the last resort, which has to be made when the time is up: at most so much, and
at most this share."""
USER_ROW_SHARE: Final = 0.5
"""Of a deadline, at most, for reading the user's row."""


class GivenUp(Exception):
    """The answer was given without this computation; it stops at its next stage."""


@dataclass(slots=True)
class Timing:
    """Where one request stands against its deadline."""

    deadline_ms: float
    scale: float = 1.0
    """How much of their budgets stages have: less than 1 when the deadline is a short one."""
    began: float = field(default_factory=time.perf_counter)
    stage: str = "waiting"
    """What is under way."""
    given_up: bool = False
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Stage → how long it took."""
    over: list[str] = field(default_factory=list)
    """Stages that took more than their budget."""

    def took_ms(self) -> float:
        """Time since the request came."""
        return (time.perf_counter() - self.began) * 1000

    def left_ms(self) -> float:
        """Time until the last resort has to be begun."""
        reserve = min(RESERVE_MS, RESERVE_SHARE * self.deadline_ms)
        return self.deadline_ms - reserve - self.took_ms()

    def user_row_ms(self, usual_ms: float) -> float:
        """What the user's row may take: there has to be time to rank without it."""
        return min(usual_ms * self.scale, USER_ROW_SHARE * self.deadline_ms)

    def budget_ms(self, stage: str) -> float | None:
        """What a stage may take; None: whatever is left."""
        budget = BUDGETS_MS.get(stage.partition(":")[0])
        return None if budget is None else budget * self.scale

    def note(self, stage: str, began: float) -> None:
        """Add what a stage took since it began (by `perf_counter`)."""
        took = (time.perf_counter() - began) * 1000
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + took
        budget = self.budget_ms(stage)
        if budget is not None and took > budget:
            self.over.append(stage)


def attempt(
    timing: Timing,
    degraded: list[str],
    stage: str,
    compute: Callable[[], T],
    instead: str,
    fallback: Callable[[], T],
) -> T:
    """What a stage computes, or its fallback when it fails or there is no time to begin it.

    `instead` says in words what the fallback is. Raises GivenUp once the answer was given.
    """
    if timing.given_up:
        raise GivenUp(stage)
    budget = timing.budget_ms(stage)
    if budget is not None and timing.left_ms() < budget:
        degraded.append(f"{stage}: {max(timing.left_ms(), 0):.0f} ms were left for it; {instead}")
        return fallback()
    timing.stage, began = stage, time.perf_counter()
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 - the stage boundary, see above
        degraded.append(f"{stage}: {told(stage, error)}; {instead}")
        return fallback()
    finally:
        timing.note(stage, began)


def told(stage: str, error: Exception) -> str:
    """An error in words for the answer; what is no fault of a server's goes to the log whole."""
    if isinstance(error, HeadraceError):
        log.warning("%s: %s", stage, error)
        return str(error)
    if isinstance(error, TimeoutError):
        log.warning("%s: late", stage)
        return "late"
    log.error("stage %s failed", stage, exc_info=error)
    return f"failed ({type(error).__name__}, see the ranker's log)"
