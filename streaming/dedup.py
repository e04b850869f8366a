"""Repeated events: an id that occurred within the last H offsets of its partition."""

from collections import deque


class Dedup:
    """Remembers the ids of the last `horizon` offsets of one partition.

    A pure function of the log: whoever re-reads the span decides the same, whatever was accepted.
    """

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self._last: dict[int, int] = {}
        self._order: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def repeated(self, event: int, offset: int) -> bool:
        """Note that an event hash occurred at an offset; whether it did before, within H."""
        while self._order and offset - self._order[0][0] > self._horizon:
            old_offset, old_event = self._order.popleft()
            if self._last.get(old_event) == old_offset:
                del self._last[old_event]
        seen = event in self._last
        self._last[event] = offset
        self._order.append((offset, event))
        return seen
