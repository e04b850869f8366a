"""Every row a ranking needs but the user's, held here and kept fresh by the store itself.

The store tells which rows change; they are fetched and put into the tables within the bound on
staleness. When its word is lost, everything is read again: what was missed is not known.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from features.as_of import Tables
from features.errors import HeadraceError
from features.spec import Plan
from features.strings import Strings
from ranker.live_feed import Feed, OpenFeed, wait_s
from ranker.pending import Pending
from ranker.refresh import ROWS_PER_READ, LiveRows, parts, refresh
from ranker.turns import TurnLock

log = logging.getLogger("headrace")

POLL_S: Final = 0.2
SILENT_S: Final = 1.0
"""After so long without a word from the store, its silence counts as staleness."""
GATHERED_SHARE: Final = 0.1
"""The share of the bound that changes are gathered for: a hot row is then fetched once, not at
each of its changes."""


class LiveTables:
    """Tables by join key that follow the store, and the thread that makes them.

    Hold `lock` from the first look-up to the last number computed: rows are replaced by newer
    ones at any other time. Now and then all tables, their strings and the plan give way to others
    at once (`generation` counts it); `replaced` is then called, with the lock held.
    """

    def __init__(
        self,
        plan: Plan,
        open_feed: OpenFeed,
        *,
        staleness_ms: int = 250,
        strings_max: int = 5_000_000,
        replaced: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock = TurnLock()
        self.connected = False
        self.rows_loaded = self.refreshed = self.generation = 0
        self._wanted = plan
        self._open_feed = open_feed
        self._bound_ms = staleness_ms
        self._strings_max = strings_max
        self._replaced = replaced
        self._clock = clock
        self._rows = LiveRows(plan)
        self._strings_then = self._refused_before = 0
        self._pending = Pending(clock)
        self._pending.add_all()
        self._heard_at = clock()
        self._fault = "nothing is read yet"
        self._loaded = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-tables", daemon=True)

    @property
    def plan(self) -> Plan:
        """The plan of the tables that stand now."""
        return self._rows.plan

    @property
    def tables(self) -> Tables:
        """Tables by join key, of every entity of the plan but the user."""
        return self._rows.tables

    @property
    def strings(self) -> Strings:
        """The codes of the tables that stand now."""
        return self._rows.strings

    @property
    def refused(self) -> int:
        """How often a row could not be read as what the plan says; it is empty then."""
        return self._refused_before + self._rows.refused

    @property
    def degraded(self) -> str | None:
        """What is wrong with the rows, None when they are as fresh as promised."""
        if not self._thread.is_alive():
            return "live rows are not kept: their thread does not run"
        if not self._loaded.is_set():
            return f"live rows are not loaded yet: {self._fault}"
        age = self.staleness_ms()
        if not self.connected:
            return f"live rows may be {age:,.0f} ms old and are read again: {self._fault}"
        if age > self._bound_ms:
            return f"live rows are {age:,.0f} ms old, the bound is {self._bound_ms} ms"
        return None

    def staleness_ms(self) -> float:
        """Age of the oldest change, told or possibly missed, that is not in the tables."""
        silent_s = self._clock() - self._heard_at
        age_s = self._pending.age_s()
        return 1000 * (max(age_s, silent_s) if silent_s > SILENT_S else age_s)

    def start(self, timeout_s: float) -> bool:
        """Begin to follow the store; whether all rows were loaded within this time.

        If not, loading goes on, and `degraded` says so.
        """
        self._thread.start()
        return self._loaded.wait(timeout_s)

    def stop(self) -> None:
        """End the thread and its connections; the tables stay as they are."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def use(self, plan: Plan) -> None:
        """Follow another plan; the tables are replaced once all rows are read by it.

        A plan that differs only in how state is read takes effect at once.
        """
        with self.lock:
            self._wanted = plan
            if self._rows.plan.version == plan.version:
                self._rows.plan = plan
                self._replaced()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            reached = self.generation
            try:
                self._follow()
            except HeadraceError as error:
                failures = 1 if self.generation > reached else failures + 1
                self._fault = str(error)
                log.warning("live rows: %s", error)
                self._stopping.wait(wait_s(failures))
            finally:
                self.connected = False

    def _follow(self) -> None:
        """One feed, from its opening until it is lost, or the plan wants another."""
        fresh = LiveRows(self._wanted)
        with (
            closing(self._open_feed(fresh.plan.project, fresh.join_keys)) as feed,
            _Listener(feed, lambda keys: self._tell(fresh, keys)) as listener,
        ):
            try:
                self._load(feed, fresh, listener)
                while not self._stopping.is_set():
                    listener.check()
                    if self._wanted.version != self._rows.plan.version:
                        self._fault = "the plan changed"
                        return
                    if self._pending.wants_all() or self._overgrown():
                        self._load(feed, LiveRows(self._rows.plan), listener)
                    elif self._pending.wait(POLL_S):
                        self._gather()
                        self.refreshed += refresh(self._pending, feed.read, [self._rows], self.lock)
            finally:
                self._pending.add_all(self._heard_at)

    def _tell(self, followed: LiveRows, keys: list[bytes] | None) -> None:
        """What the listener hears, on its own thread."""
        if keys is None:
            self._pending.add_all()
        else:
            self._pending.add(followed.own(keys))
        self._heard_at = self._clock()

    def _gather(self) -> None:
        """Wait a little for more, unless there is a batch already."""
        rest = GATHERED_SHARE * self._bound_ms / 1000 - self._pending.age_s()
        if rest > 0 and len(self._pending) < ROWS_PER_READ:
            self._stopping.wait(rest)

    def _overgrown(self) -> bool:
        """Whether strings that nothing uses any more may be most of them."""
        return len(self._rows.strings) > max(self._strings_max, 2 * self._strings_then)

    def _load(self, feed: Feed, fresh: LiveRows, listener: "_Listener") -> None:
        """Read all rows into tables of their own, then let them take the place of the old ones.

        The old ones are kept fresh meanwhile, because they serve.
        """
        self._pending.take_all()
        began, loaded = self._clock(), 0
        for join_key in fresh.join_keys:
            keys = fresh.own(feed.keys(join_key))
            for part in parts(len(keys), ROWS_PER_READ):
                listener.check()
                if self._stopping.is_set():
                    return
                fresh.put(keys[part], feed.read(keys[part]))
                loaded += len(keys[part])
                refresh(self._pending, feed.read, [self._rows, fresh], self.lock)
        with self.lock:
            if self._wanted.version == fresh.plan.version:
                fresh.plan = self._wanted
            self._refused_before += self._rows.refused
            self._rows = fresh
            self.generation += 1
            self._replaced()
        self._strings_then = len(fresh.strings)
        self.rows_loaded += loaded
        self.connected = True
        self._pending.applied_all()
        self._loaded.set()
        log.info("live rows: %d loaded in %.1f s", loaded, self._clock() - began)


class _Listener:
    """The thread that hears what changed, so that news are never late for want of an ear."""

    def __init__(self, feed: Feed, tell: Callable[[list[bytes] | None], None]) -> None:
        self._feed = feed
        self._tell = tell
        self._lost: HeadraceError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="live-news", daemon=True)

    def __enter__(self) -> "_Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what ended the listening."""
        if self._lost is not None:
            raise self._lost

    def _listen(self) -> None:
        try:
            while not self._ended.is_set():
                self._tell(self._feed.invalidated(POLL_S))
        except HeadraceError as error:
            self._lost = error
