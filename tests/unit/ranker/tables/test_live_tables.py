"""The life of the live tables over a feed of lists: loading, losing the news, changing the plan."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from features.entities import Hash
from features.errors import Unavailable
from features.row_store import MemoryRows
from features.spec import Plan
from ranker.tables.live_tables import LiveTables
from tests.plans import ITEM_PROFILE, PLAN, World
from tests.stored import equals_store, feed_events, seen, writes_of
from tests.waiting import until

ROWS = 100


class ListFeeds:
    """Feeds over rows in memory; `news` reach the newest one, `away` lets none be opened."""

    def __init__(self) -> None:
        self.rows = MemoryRows()
        self.write(World(), 100)
        self.news: queue.Queue[list[bytes] | Unavailable | None] = queue.Queue()
        self.away = False
        self.opened: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        self.after_read: Callable[[], None] = lambda: None

    def __call__(self, project: str, join_keys: Sequence[str]) -> "ListFeeds":
        if self.away:
            raise Unavailable("away")
        self.opened.append(list(join_keys))
        return self

    def write(self, world: World, count: int, start: int = 0) -> list[bytes]:
        """Write the rows of a world after more events; returns the keys."""
        writes = writes_of(world.fold(feed_events(count, start)), start + 1)
        self.rows.write(writes)
        return [write.key for write in writes]

    def keys(self, join_key: str) -> list[bytes]:
        return self.rows.keys(join_key)

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        assert self.gate.wait(10)
        found = self.rows.read(keys)
        after, self.after_read = self.after_read, lambda: None
        after()
        return found

    def hear(self, keys: list[bytes]) -> None:
        """Tell of changes, and return once they are heard."""
        self.news.put(keys)
        until(self.news.empty)
        asked = self.asked
        until(lambda: self.asked > asked)

    def invalidated(self, timeout_s: float) -> list[bytes] | None:
        self.asked += 1
        try:
            said = self.news.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(said, Unavailable):
            raise said
        return said

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def feeds() -> ListFeeds:
    return ListFeeds()


@pytest.fixture
def live(feeds: ListFeeds) -> Iterator[LiveTables]:
    tables = LiveTables(PLAN, feeds)
    yield tables
    feeds.gate.set()
    tables.stop()


def equal(live: LiveTables, feeds: ListFeeds) -> bool:
    return equals_store(live, feeds.rows)


def held(live: LiveTables) -> int:
    """How many items there are."""
    return live.tables["item_id"].held


def test_start_loads_every_row_but_the_users(live: LiveTables, feeds: ListFeeds) -> None:
    assert live.degraded is not None
    assert live.start(10)
    assert equal(live, feeds)
    assert live.connected
    assert live.degraded is None
    assert live.rows_loaded == ROWS + 10
    assert feeds.opened == [["author_id", "item_id"]]


def test_what_the_feed_tells_is_fetched(live: LiveTables, feeds: ListFeeds) -> None:
    live.start(10)
    changed = feeds.write(World(), 100, start=300)
    feeds.news.put(changed)
    until(lambda: equal(live, feeds))
    assert (live.refreshed, live.generation) == (ROWS + 10, 1)
    until(lambda: live.staleness_ms() == 0)


def test_a_start_without_a_store_goes_on_trying_and_says_so(
    live: LiveTables, feeds: ListFeeds
) -> None:
    feeds.away = True
    assert not live.start(0.05)
    until(lambda: "not loaded yet: away" in (live.degraded or ""))
    assert len(live.tables["item_id"]) == 0
    feeds.away = False
    until(lambda: live.degraded is None)
    assert equal(live, feeds)


def test_lost_news_are_said_and_everything_is_read_again(
    live: LiveTables, feeds: ListFeeds
) -> None:
    live.start(10)
    feeds.away = True
    feeds.news.put(Unavailable("the line was cut"))
    until(lambda: not live.connected)
    assert "the line was cut" in (live.degraded or "") or "away" in (live.degraded or "")
    assert held(live)  # what is known still serves
    feeds.write(World(), 100, start=500)  # nobody is told
    until(lambda: live.staleness_ms() > 250)
    feeds.gate.clear()
    feeds.away = False
    until(lambda: len(feeds.opened) == 2)
    feeds.hear([])
    assert live.staleness_ms() > 250  # the news come again, what was missed is not read yet
    assert "may be" in (live.degraded or "")
    feeds.gate.set()
    until(lambda: live.connected)
    assert equal(live, feeds)
    assert (live.generation, live.reloads) == (1, 2)
    until(lambda: live.degraded is None)


def test_a_flush_empties_the_tables(live: LiveTables, feeds: ListFeeds) -> None:
    live.start(10)
    feeds.rows.rows.clear()
    feeds.news.put(None)
    until(lambda: not held(live))
    assert len(feeds.opened) == 1


def test_a_plan_with_another_view_replaces_the_tables_once_they_are_full(
    live: LiveTables, feeds: ListFeeds
) -> None:
    live.start(10)
    old = live.tables
    again = ITEM_PROFILE.model_copy(update={"name": "item_profile_again"})
    wider = plan(latest=(*PLAN.latest, again))
    feeds.gate.clear()
    live.use(wider)
    until(lambda: len(feeds.opened) == 2)
    assert live.tables is old
    assert live.plan is PLAN
    feeds.gate.set()
    until(lambda: live.plan is wider)
    assert set(live.tables["item_id"].tables) > set(old["item_id"].tables)
    assert live.strings is not old["item_id"].strings
    assert equal(live, feeds)
    assert seen(old["item_id"])  # who still reads the old ones finds them whole


def test_a_plan_that_only_reads_differently_takes_effect_at_once(
    live: LiveTables, feeds: ListFeeds
) -> None:
    live.start(10)
    other = plan(services={"feed": ("item_rates",)})
    live.use(other)
    assert live.plan is other
    assert live.generation == 1


def test_strings_that_nothing_names_are_dropped_and_the_rest_keep_their_meaning(
    feeds: ListFeeds,
) -> None:
    live = LiveTables(PLAN, feeds, strings_max=10)
    live.start(10)
    before = live.strings
    with live.lock:  # as rows of users would bring them
        codes = before.codes([f"unused{i}" for i in range(11)] + ["i7"])
        rows = live.tables["item_id"].rows_of_codes(codes[-1:])
        assert live.tables["item_id"].ids_of(rows) == ["i7"]
    until(lambda: live.strings is not before)
    assert len(live.strings) < len(before)
    assert live.reloads == 1
    assert equal(live, feeds)
    with live.lock:
        (again,) = live.tables["item_id"].rows_of_codes(live.strings.codes(["i7"])).tolist()
    assert again == int(rows[0])
    live.stop()


def test_replacing_calls_back_with_the_lock_held(feeds: ListFeeds) -> None:
    called: list[tuple[int, bool]] = []

    def replaced() -> None:
        entered = threading.Event()

        def enter() -> None:
            with tables.lock:
                entered.set()

        threading.Thread(target=enter).start()
        called.append((len(tables.tables["item_id"]), entered.wait(0.05)))

    tables = LiveTables(PLAN, feeds, replaced=replaced)
    tables.start(10)
    tables.stop()
    assert called == [(ROWS, False)]


def test_a_row_that_changes_after_a_load_has_read_it_is_not_lost(
    live: LiveTables, feeds: ListFeeds
) -> None:
    feeds.after_read = lambda: feeds.hear(feeds.write(World(), 200, start=700))
    live.start(10)
    until(lambda: live.staleness_ms() == 0)
    assert equal(live, feeds)
    assert live.generation == 1


def test_silence_of_the_feed_counts_as_staleness(feeds: ListFeeds) -> None:
    now = 100.0
    live = LiveTables(PLAN, feeds, clock=lambda: now)
    live.start(10)
    until(lambda: live.staleness_ms() == 0)
    live.stop()  # nobody listens any more
    now = 103.0
    assert live.staleness_ms() == 3000
    assert "thread does not run" in (live.degraded or "")


def plan(**changes: object) -> Plan:
    """PLAN with some parts replaced, as a plan that was compiled anew."""
    return Plan.model_validate(PLAN.model_dump() | changes)
