"""Every row a ranking needs but the user's, held here and kept fresh by the store itself.

The store tells which rows change; they are fetched and put into the tables within the bound on
staleness. When its word is lost, everything is read again: what was missed is not known.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, nullcontext
from itertools import chain
from typing import Final

import numpy as np

from features.errors import HeadraceError
from features.spec import Plan
from features.strings import Strings
from ranker.tables.live_feed import Feed, OpenFeed, wait_s
from ranker.tables.live_table import LiveTable
from ranker.tables.pending import Asks, Pending
from ranker.tables.refresh import (
    ROWS_MAX,
    ROWS_PER_READ,
    ROWS_PER_TURN,
    LiveRows,
    batched,
    put,
    refresh,
)
from ranker.tables.turns import Precedence, TurnLock

log = logging.getLogger("headrace")

POLL_S: Final = 0.2
SILENT_S: Final = 1.0
"""After so long without a word from the store, its silence counts as staleness."""
GATHERED_SHARE: Final = 0.1
"""The share of the bound that changes are gathered for: a hot row is then fetched once, not at
each of its changes."""
ABSENT_MAX: Final = 100_000
"""Ids that are remembered to have no row, so that they are not asked for at every request."""


class LiveTables:
    """Tables by join key that follow the store, and the thread that writes them.

    Hold `lock` from the first look-up to the last number computed: rows are replaced by newer
    ones at any other time. When the plan changes all tables, their strings and the plan give way
    to others at once (`generation` counts it); `replaced` is then called, with the lock held.
    """

    def __init__(
        self,
        plan: Plan,
        open_feed: OpenFeed,
        *,
        staleness_ms: int = 250,
        rows_max: int = ROWS_MAX,
        strings_max: int = 500_000,
        replaced: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rows_max`: of each entity; `strings_max`: texts that no row names, kept for users'."""
        self.lock = TurnLock()
        self.precedence = Precedence()
        self.connected = False
        self.rows_loaded = self.refreshed = self.generation = self.reloads = 0
        self.load_s = 0.0
        self._wanted = plan
        self._open_feed = open_feed
        self._bound_ms = staleness_ms
        self._rows_max = rows_max
        self._strings_max = strings_max
        self._replaced = replaced
        self._clock = clock
        self._rows = LiveRows(plan, rows_max)
        self._refused_before = self._evicted_before = self._strings_then = 0
        self._pending = Pending(clock)
        self._pending.add_all()
        self._asks = Asks()
        self._absent: dict[bytes, None] = {}
        self._heard_at = clock()
        self._open = self._left_out = False
        self._fault = "nothing is read yet"
        self._loaded = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-tables", daemon=True)

    @property
    def plan(self) -> Plan:
        """The plan of the tables that stand now."""
        return self._rows.plan

    @property
    def tables(self) -> Mapping[str, LiveTable]:
        """Tables by join key, of every entity of the plan but the user."""
        return self._rows.tables

    @property
    def strings(self) -> Strings:
        """The codes of the tables that stand now."""
        return self._rows.strings

    @property
    def refused(self) -> int:
        """How often a row could not be read as what the plan says; it is left out then."""
        return self._refused_before + self._rows.refused

    @property
    def evicted(self) -> int:
        """How often a row made way for another."""
        return self._evicted_before + self._rows.evicted

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
            if self._fits(plan):
                self._rows.plan = plan
                self._replaced()

    @property
    def complete(self) -> bool:
        """Whether the tables hold every row of the store: none was left out, none made way."""
        return self._loaded.is_set() and not self._left_out and not self.evicted

    def read_through(
        self, join_key: str, ids: Sequence[str], limit: int
    ) -> tuple[Future[int], int] | None:
        """Have rows read that are asked for and not here, at most `limit`.

        The future tells how many there were, once they are in the tables; beside it stands how
        many are missing. None when there is nothing to wait for: all are here, known to have no
        row, or the store is away.
        """
        with self.lock:
            table = self.tables.get(join_key)
            if table is None or not self._open:
                return None
            rows = table.rows_of_ids(ids)
            missing = [ids[place] for place in np.flatnonzero(rows < 0).tolist()]
        keys = [key for key in map(table.find_key, missing) if key and key not in self._absent]
        if not keys:
            return None
        asked = self._asks.add(keys[:limit])
        self._pending.want(keys[:limit])
        return asked, len(keys)

    def _fits(self, plan: Plan) -> bool:
        """Whether the tables that stand hold what a plan reads."""
        known = self._rows.plan
        return (known.version, known.latest) == (plan.version, plan.latest)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            reached = self.reloads
            try:
                self._follow()
            except HeadraceError as error:
                failures = 1 if self.reloads > reached else failures + 1
                self._fault = str(error)
                log.warning("live rows: %s", error)
                self._stopping.wait(wait_s(failures))
            finally:
                self.connected = self._open = False
                self._asks.drop()

    def _follow(self) -> None:
        """One feed, from its opening until it is lost, or the plan wants another."""
        plan = self._wanted
        rows = self._rows if self._fits(plan) else LiveRows(plan, self._rows_max)
        with (
            closing(self._open_feed(plan.project, rows.join_keys)) as feed,
            _Listener(feed, lambda keys: self._tell(rows, keys)) as listener,
        ):
            try:
                self._open = rows is self._rows
                self._load(feed, rows, listener)
                while not self._stopping.is_set():
                    listener.check()
                    if not self._fits(self._wanted):
                        self._fault = "the plan changed"
                        return
                    if self._pending.wants_all():
                        self._load(feed, rows, listener)
                    elif len(rows.strings) > self._strings_then + self._strings_max:
                        self._recode(rows)
                    elif self._pending.wait(POLL_S):
                        self._pending.gather(ROWS_PER_READ, GATHERED_SHARE * self._bound_ms / 1000)
                        self._refresh(feed, [rows])
            finally:
                self._pending.add_all(self._heard_at)

    def _tell(self, followed: LiveRows, keys: list[bytes] | None) -> None:
        """What the listener hears, on its own thread."""
        if keys is None:
            self._pending.add_all()
        else:
            self._pending.add(followed.own(keys))
        self._heard_at = self._clock()

    def _refresh(self, feed: Feed, targets: Sequence[LiveRows]) -> None:
        waited_for = self._pending.hurried  # then to give way would hold the requests up
        give_way = (lambda: None) if waited_for else self.precedence.give_way
        found = refresh(self._pending, feed.read, targets, self.lock, give_way)
        for key, content in found.items():
            if content:
                self._absent.pop(key, None)
            elif len(self._absent) < ABSENT_MAX:
                self._absent[key] = None
        self._asks.answer(found)
        self.refreshed += len(found)
        if len(self._absent) >= ABSENT_MAX:
            self._absent.clear()

    def _recode(self, rows: LiveRows) -> None:
        """Drop the strings that nothing uses any more."""
        before = len(rows.strings)
        strings, columns = rows.recoded()
        with self.lock:
            rows.adopt(strings, columns)
        self._strings_then = len(strings)
        log.info("live rows: %d of %d strings are in use and kept", len(strings), before)

    def _load(self, feed: Feed, rows: LiveRows, listener: "_Listener") -> None:
        """Read all rows, into the tables that serve, or into others that then take their place.

        Those that serve are kept fresh meanwhile. What finds its table full is left out: it is
        read through when a request asks for it.
        """
        self._pending.take_all()
        self._absent.clear()
        began, loaded = self._clock(), 0
        serves = rows is self._rows
        turn = self.lock if serves else nullcontext()
        serving = serves and self._loaded.is_set()
        targets = [rows] if serves else [self._rows, rows]
        for join_key, table in rows.tables.items():
            tick = table.tick + 1
            batches = chain(
                batched(feed.keys(join_key), ROWS_PER_READ),
                batched(_lazily(lambda t=table, at=tick: t.keys_before(at)), ROWS_PER_READ),  # type: ignore[misc]
            )
            for batch in batches:
                keys = rows.own(list(dict.fromkeys(batch)))
                listener.check()
                if self._stopping.is_set():
                    return
                part = ROWS_PER_TURN if serving else ROWS_PER_READ
                put(keys, feed.read(keys), [rows], turn, evict=False, at_a_time=part)
                loaded += len(keys)
                self._refresh(feed, targets)
        with self.lock:
            if not serves:
                self._refused_before += self._rows.refused
                self._evicted_before += self._rows.evicted
                self._rows = rows
            if self._fits(self._wanted):
                rows.plan = self._wanted
            if not serves or not self.reloads:
                self.generation += 1
                self._replaced()
        self.reloads += 1
        self.load_s = self._clock() - began
        self._strings_then = len(rows.strings)
        self.rows_loaded += loaded
        self.connected = self._open = True
        self._left_out = any(table.held >= table.rows_max for table in rows.tables.values())
        self._pending.applied_all()
        self._loaded.set()
        log.info("live rows: %d loaded in %.1f s", loaded, self.load_s)


def _lazily(make: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    """What is made when it is first asked for."""
    yield from make()


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
