"""The core of the live tables: what is pending, what a fetch does to rows, whose turn it is."""

import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress

from features.codec import MARKER_FIELD, entity_key, field_name
from features.entities import Hash
from features.events import Event, ItemEvent
from features.latest import LatestTable
from features.row_store import MemoryRows
from ranker.tables.pending import Pending
from ranker.tables.refresh import ROWS_PER_PART, ROWS_PER_READ, ROWS_PER_TURN, LiveRows, refresh
from ranker.tables.turns import Precedence, TurnLock
from tests.plans import PLAN, World
from tests.stored import feed_events, seen, seen_of, writes_of


def item_key(item: str, project: str = PLAN.project) -> bytes:
    return entity_key("item_id", 2, item, project)


def item_event(item: str, time: int = 5) -> Event:
    return ItemEvent(
        type="item", event_id=f"{item}@{time}", event_time=time, item_id=item, author_id=f"a{time}"
    )


def stored(events: Iterable[Event], offset: int = 1) -> MemoryRows:
    rows = MemoryRows()
    rows.write(writes_of(World().fold(events), offset))
    return rows


def fetched(rows: LiveRows, store: MemoryRows, keys: Sequence[bytes]) -> int:
    """Refresh these rows; returns how many were fetched."""
    pending = Pending()
    pending.add(keys)
    done = 0
    while found := refresh(pending, store.read, [rows], nullcontext()):
        done += len(found)
    return done


def equal(rows: LiveRows, store: MemoryRows) -> bool:
    """Whether rows are what the store has."""
    known = {key: content for key, content in store.rows.items() if rows.own([key])}
    held = {join_key: seen(table) for join_key, table in rows.tables.items()}
    return held == seen_of(PLAN, known)


def is_known(rows: LiveRows, item: str) -> bool:
    table = rows.tables["item_id"]
    (row,) = table.rows_of_ids([item]).tolist()
    return bool(row >= 0 and table.known(row))


def test_fetched_rows_equal_the_store() -> None:
    store, rows = stored(feed_events(300)), LiveRows(PLAN)
    for join_key, count in (("item_id", 100), ("author_id", 10)):
        keys = store.keys(join_key)
        assert len(keys) == count
        fetched(rows, store, keys)
    assert equal(rows, store)


def test_users_are_not_held() -> None:
    assert LiveRows(PLAN).join_keys == ["author_id", "item_id"]


def test_a_changed_row_is_replaced_and_its_text_columns_follow() -> None:
    store, rows = stored([item_event("i1")]), LiveRows(PLAN)
    fetched(rows, store, [item_key("i1")])
    store.write(writes_of(World().fold([item_event("i1", 9)]), 2))
    fetched(rows, store, [item_key("i1")])
    table = rows.tables["item_id"]
    profile, row = table.tables["item_profile"], table.find(item_key("i1"))
    assert isinstance(profile, LatestTable)
    assert rows.strings.text(int(profile.column("author_id").code[row])) == "a9"
    assert equal(rows, store)


def test_a_row_that_vanished_is_empty_and_one_that_never_was_gets_no_place() -> None:
    store, rows = stored([item_event("i1")]), LiveRows(PLAN)
    fetched(rows, store, [item_key("i1"), item_key("never")])
    assert is_known(rows, "i1")
    store.rows.clear()
    fetched(rows, store, [item_key("i1")])
    assert not is_known(rows, "i1")
    assert seen(rows.tables["item_id"]) == {}


def test_a_row_that_came_back_is_held_again() -> None:
    store, rows = stored([item_event("i1")]), LiveRows(PLAN)
    kept = dict(store.rows)
    for content in (kept, {}, kept):
        store.rows = dict(content)
        fetched(rows, store, [item_key("i1")])
    assert equal(rows, store)
    assert is_known(rows, "i1")


def test_an_unreadable_row_is_left_empty_and_its_neighbours_are_held() -> None:
    store, rows = stored([item_event(f"i{i}") for i in range(40)]), LiveRows(PLAN)
    broken: dict[str, Hash] = {
        "i3": {MARKER_FIELD: b"9.what.is.this"},
        "i7": {field_name("item_profile", "author_id"): b"\x12\x05ab\xff\xfe\xfd"},
        "i9": {field_name("item_embedding", "embedding"): b"\x82"},
        "i11": {field_name("item_activity", "counts"): b"\x12\x01x"},
        "i12": {b"_ts:item_profile": b"\x08\xff"},
    }
    for item, content in broken.items():
        store.rows[item_key(item)].update(content)
    fetched(rows, store, store.keys("item_id"))
    assert rows.refused == len(broken)
    assert {f"i{i}" for i in range(40) if not is_known(rows, f"i{i}")} == set(broken)
    good = {k: v for k, v in store.rows.items() if k not in set(map(item_key, broken))}
    assert seen(rows.tables["item_id"]) == seen_of(PLAN, good)["item_id"]


def test_keys_of_others_are_not_own() -> None:
    rows = LiveRows(PLAN)
    user, bad_text = (
        entity_key("user_id", 2, "u", PLAN.project),
        item_key("xy").replace(b"xy", b"\xff\xfe"),
    )
    keys = [item_key("i1"), item_key("i1", "other"), user, bad_text, b"", item_key("i1")[:-5]]
    assert rows.own(keys) == [item_key("i1")]


def test_a_key_told_again_while_it_is_read_is_read_again() -> None:
    store, rows, pending = stored([item_event("i1")]), LiveRows(PLAN), Pending()
    pending.add([item_key("i1")])

    def read_while_it_changes(keys: Sequence[bytes]) -> list[Hash]:
        before = store.read(keys)
        store.write(writes_of(World().fold([item_event("i1", 9)]), 2))
        pending.add(keys)
        return before

    refresh(pending, read_while_it_changes, [rows], nullcontext())
    assert pending.since() is not None
    refresh(pending, store.read, [rows], nullcontext())
    assert pending.since() is None
    assert equal(rows, store)


def test_what_could_not_be_read_stays_pending() -> None:
    pending, rows = Pending(), LiveRows(PLAN)
    pending.add([item_key("i1")])

    def away(keys: Sequence[bytes]) -> list[Hash]:
        raise OSError

    with suppress(OSError):
        refresh(pending, away, [rows], nullcontext())
    assert pending.since() is not None


def test_a_batch_is_bounded_and_oldest_first() -> None:
    now = 1.0
    pending = Pending(lambda: now)
    pending.add([b"a", b"b"])
    now = 2.0
    pending.add([b"b", b"c"])
    assert pending.take(2) == [b"a", b"b"]
    assert pending.take(2) == [b"c"]
    many = [b"%d" % i for i in range(ROWS_PER_READ + 1)]
    pending.add(many)
    assert len(pending.take(ROWS_PER_READ)) == ROWS_PER_READ


def test_age_counts_what_is_taken_but_not_applied() -> None:
    now = 1.0
    pending = Pending(lambda: now)
    assert pending.age_s() == 0
    pending.add([b"a"])
    now = 3.0
    pending.add([b"b"])
    pending.take(1)
    assert pending.age_s() == 2
    pending.applied()
    assert pending.age_s() == 0
    now = 4.0
    assert pending.age_s() == 1


def test_everything_is_pending_until_all_of_it_is_applied() -> None:
    now = 5.0
    pending = Pending(lambda: now)
    pending.add_all(since=2.0)
    assert pending.wants_all()
    pending.take_all()
    assert not pending.wants_all()
    assert pending.age_s() == 3
    pending.add_all()  # the news were lost again before the end
    pending.take_all()
    assert pending.age_s() == 3
    pending.applied_all()
    assert pending.since() is None


def test_who_waits_gets_the_next_turn() -> None:
    lock = TurnLock()
    for _ in range(20):
        asking, entered = threading.Event(), threading.Event()

        def enter(asking: threading.Event = asking, entered: threading.Event = entered) -> None:
            asking.set()
            with lock:
                entered.set()

        thread = threading.Thread(target=enter)
        with lock:
            thread.start()
            asking.wait()
            assert not entered.wait(0.01)  # by now it stands and waits
        with lock:  # a plain lock would be taken again before the other one has woken up
            assert entered.is_set()
        thread.join()


def test_the_holder_of_the_turn_may_enter_again() -> None:
    lock = TurnLock()
    with lock, lock:
        pass
    entered = threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    thread = threading.Thread(target=enter)
    with lock:
        with lock:
            thread.start()
        assert not entered.is_set()
    thread.join(5)
    assert entered.is_set()


def test_work_stands_back_until_the_last_request_is_answered() -> None:
    precedence, went = Precedence(), threading.Event()

    def work() -> None:
        precedence.give_way(60)
        went.set()

    precedence.give_way(at_most_s=60)  # there is none to wait for
    with precedence:
        precedence.__enter__()
        waiting = threading.Thread(target=work)
        waiting.start()
        precedence.__exit__()
        assert not went.wait(0.05)
    assert went.wait(5)
    waiting.join()


def test_work_waits_no_longer_than_it_may() -> None:
    precedence = Precedence()
    with precedence:
        precedence.give_way()  # GIVE_WAY_S: the one that holds it off is this very thread


def test_way_is_given_before_each_part_is_read_and_put() -> None:
    store = stored([item_event(f"i{i}") for i in range(2 * ROWS_PER_PART + 1)])
    rows, pending, order = LiveRows(PLAN), Pending(), list[int]()
    pending.add(store.keys("item_id"))

    def read(keys: Sequence[bytes]) -> list[Hash]:
        order.append(len(keys))
        return store.read(keys)

    refresh(pending, read, [rows], nullcontext(), lambda: order.append(0))
    reads = [0, ROWS_PER_PART, 0, ROWS_PER_PART, 0, 1]
    assert order == reads + [0] * -(-(2 * ROWS_PER_PART + 1) // ROWS_PER_TURN)
    assert all(is_known(rows, f"i{i}") for i in range(2 * ROWS_PER_PART + 1))


def test_rows_that_requests_wait_for_are_hurried() -> None:
    pending = Pending()
    pending.add([b"changed"])
    assert not pending.hurried
    pending.want([b"missed"])
    assert pending.hurried
    assert pending.take(1) == [b"missed"]
    assert not pending.hurried
