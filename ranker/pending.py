"""What the store said has changed and is not read again yet."""

import threading
import time
from collections.abc import Callable, Iterable


class Pending:
    """Keys to fetch again, oldest first, each with the time it was first told; or everything.

    What was taken counts as pending until `applied`; a key told again meanwhile is pending anew,
    because the row may have changed after it was read. Many threads may add, one takes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._keys: dict[bytes, float] = {}
        self._taken_since: float | None = None
        self._all_since: float | None = None
        self._all_taken_since: float | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: Iterable[bytes]) -> None:
        """These rows changed."""
        now = self._clock()
        with self._changed:
            for key in keys:
                self._keys.setdefault(key, now)
            self._changed.notify_all()

    def add_all(self, since: float | None = None) -> None:
        """Any row may have changed."""
        now = self._clock() if since is None else since
        with self._changed:
            self._all_since = now if self._all_since is None else min(now, self._all_since)
            self._changed.notify_all()

    def wants_all(self) -> bool:
        """Whether everything has to be read again."""
        return self._all_since is not None

    def take(self, limit: int) -> list[bytes]:
        """The oldest keys, to be read now."""
        with self._changed:
            keys = [key for key, _ in zip(self._keys, range(limit), strict=False)]
            self._taken_since = self._keys[keys[0]] if keys else None
            for key in keys:
                del self._keys[key]
            return keys

    def applied(self) -> None:
        """What was taken is in the tables."""
        with self._changed:
            self._taken_since = None

    def take_all(self) -> None:
        """Everything is being read now; what changes from here on is told again."""
        with self._changed:
            known = (self._all_since, self._all_taken_since, self._taken_since)
            self._all_taken_since = min((s for s in known if s is not None), default=None)
            self._all_since = self._taken_since = None

    def applied_all(self) -> None:
        """Everything that was there at `take_all` is in the tables."""
        with self._changed:
            self._all_taken_since = None

    def since(self) -> float | None:
        """When the oldest change that is not in the tables was told; None when all are."""
        with self._changed:
            known = (
                next(iter(self._keys.values()), None),
                self._taken_since,
                self._all_since,
                self._all_taken_since,
            )
            return min((since for since in known if since is not None), default=None)

    def age_s(self) -> float:
        """Seconds since the oldest change that is not in the tables was told; 0 for none."""
        since = self.since()
        return 0.0 if since is None else max(self._clock() - since, 0.0)

    def wait(self, timeout_s: float) -> bool:
        """Whether anything is there to take, waiting for it at most so long."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self._keys) or self._all_since is not None, timeout_s
            )
