"""What both sources of training rows share: which requests count, and what came of them."""

from dataclasses import dataclass

from ranker.training.rows import TrainingRows


@dataclass(slots=True)
class Span:
    """Which requests are learnt from."""

    from_ms: int | None = None
    until_ms: int | None = None
    window_ms: int | None = None
    """How long after it was shown an item may be answered; None: for ever."""

    def close(self, newest_ms: int) -> None:
        """Leave out what may still be answered after the newest event there is."""
        if self.window_ms is not None:
            whole = newest_ms - self.window_ms
            self.until_ms = whole if self.until_ms is None else min(self.until_ms, whole)

    def holds(self, now: int) -> bool:
        """Whether a request of an instant is among them."""
        late = self.until_ms is not None and now >= self.until_ms
        return not late and (self.from_ms is None or now >= self.from_ms)

    def __str__(self) -> str:
        after = "" if self.from_ms is None else f"from {self.from_ms} "
        return f"{after}before {self.until_ms}" if self.until_ms is not None else after


@dataclass(frozen=True, slots=True)
class Made:
    """Training rows, and where they come from."""

    rows: TrainingRows
    requests: int
    events: int
    says: str
    """What else there is to tell."""
