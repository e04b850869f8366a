"""What the store said has changed and is not read again yet."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future


class Pending:
    """Keys to fetch again, oldest first, each with the time it was first told; or everything.

    Keys that a request waits for come first, and are no change: they count towards no age.

    What was taken counts as pending until `applied`; a key told again meanwhile is pending anew,
    because the row may have changed after it was read. Many threads may add, one takes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._keys: dict[bytes, float] = {}
        self._wanted: dict[bytes, None] = {}
        self._taken_since: float | None = None
        self._all_since: float | None = None
        self._all_taken_since: float | None = None

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def hurried(self) -> bool:
        """Whether a request waits for rows."""
        return bool(self._wanted)

    def add(self, keys: Iterable[bytes]) -> None:
        """These rows changed."""
        now = self._clock()
        with self._changed:
            for key in keys:
                self._keys.setdefault(key, now)
            self._changed.notify_all()

    def want(self, keys: Iterable[bytes]) -> None:
        """A request waits for these rows."""
        with self._changed:
            self._wanted |= dict.fromkeys(keys)
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
        """The keys that requests wait for, then the oldest ones, to be read now."""
        with self._changed:
            wanted = list(self._wanted)[:limit]
            for key in wanted:
                del self._wanted[key]
            keys = [key for key, _ in zip(self._keys, range(limit - len(wanted)), strict=False)]
            self._taken_since = self._keys[keys[0]] if keys else None
            for key in keys:
                del self._keys[key]
            return list(dict.fromkeys(wanted + keys))

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
                lambda: bool(self._keys or self._wanted) or self._all_since is not None, timeout_s
            )

    def gather(self, count: int, until_age_s: float) -> None:
        """Wait until so many keys are there, or the oldest is so old, or a request waits."""
        with self._changed:
            first = next(iter(self._keys.values()), None)
            if first is not None:
                rest = until_age_s - (self._clock() - first)
                self._changed.wait_for(
                    lambda: bool(self._wanted) or len(self._keys) >= count, max(rest, 0.0)
                )


class Asks:
    """Requests that wait for rows to be read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[bytes, list[_Ask]] = {}

    def add(self, keys: Sequence[bytes]) -> Future[int]:
        """Wait for these rows; the answer is how many of them there are."""
        ask = _Ask(set(keys))
        with self._lock:
            for key in ask.left:
                self._waiting.setdefault(key, []).append(ask)
        return ask.answer

    def answer(self, found: Mapping[bytes, Mapping[bytes, bytes]]) -> None:
        """These rows were read, and are in the tables."""
        if not self._waiting:
            return
        with self._lock:
            for key, content in found.items():
                for ask in self._waiting.pop(key, ()):
                    ask.left.discard(key)
                    ask.found += bool(content)
                    if not ask.left and ask.answer.set_running_or_notify_cancel():
                        ask.answer.set_result(ask.found)

    def drop(self) -> None:
        """The store is lost: nobody shall wait for it."""
        with self._lock:
            asks = {id(ask): ask for waiting in self._waiting.values() for ask in waiting}
            self._waiting.clear()
        for ask in asks.values():
            if ask.answer.set_running_or_notify_cancel():
                ask.answer.set_result(ask.found)


class _Ask:
    def __init__(self, keys: set[bytes]) -> None:
        self.left = keys
        self.found = 0
        self.answer: Future[int] = Future()
