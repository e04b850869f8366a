"""Whether a Kafka client that brings no records is idle, or stuck and better made anew.

Clients have been seen that never joined their group, or never fetched again, after a broker
restarted or a topic was made under them; nothing of what they say tells it.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

CHECK_S: Final = 10.0
JOIN_S: Final = 45.0


class StallWatch:
    """Looks at one consumer now and then while it brings nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = self._member_at = self._moved_at = clock()
        self._behind: dict[int, int] = {}

    def moved(self) -> None:
        """Records came, or may not come."""
        self._looked_at = self._member_at = self._moved_at = self._clock()
        self._behind = {}

    @property
    def silent_s(self) -> float:
        """How long nothing came."""
        return self._clock() - self._moved_at

    def due(self) -> bool:
        """Whether nothing came for so long that a look is due."""
        return self._clock() - self._looked_at >= CHECK_S

    def fault(
        self, member: bool, positions: Mapping[int, int], ends: Mapping[int, int]
    ) -> str | None:
        """What is wrong, by whether the client is in its group, where it stands and could read to.

        A partition is stuck when two looks find it at the same place with records before it.
        """
        now = self._looked_at = self._clock()
        if member:
            self._member_at = now
        elif now - self._member_at > JOIN_S:
            return f"the client has not joined its group for {now - self._member_at:.0f} s"
        behind = {p: at for p, at in positions.items() if at < ends.get(p, 0)}
        stuck = sorted(p for p, at in behind.items() if self._behind.get(p) == at)
        self._behind = behind
        if stuck:
            return f"no records came from partitions {stuck} although there are some"
        return None
