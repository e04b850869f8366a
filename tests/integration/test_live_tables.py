"""The ranker's live tables over a real Valkey: nothing that is written there is missed."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import redis
import redis.asyncio

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from features.activity import ActivityTable
from features.entities import RowWrite
from features.errors import Unavailable
from features.redis_rows import RedisRows
from ranker.tables.live_feed import redis_feeds
from ranker.tables.live_tables import LiveTables
from ranker.tables.redis_client import OneRedis
from ranker.tables.user_rows import UserRows
from tests.plans import PLAN, World
from tests.stored import equals_store, feed_events, many_items, seen, writes_of
from tests.waiting import until

INDEXED = ("item_id", "author_id")
MANY = 10_000
PACE_S = 1.0


@pytest.fixture
def rows(empty_valkey: str) -> Iterator[RedisRows]:
    store = RedisRows(empty_valkey, PLAN.project, INDEXED, "none")
    yield store
    store.close()


@pytest.fixture
def client(empty_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(empty_valkey) as connection:
        yield connection


@contextlib.contextmanager
def following(
    url: str, staleness_ms: int = 250, rows_max: int = 100_000, strings_max: int = 100_000
) -> Iterator[LiveTables]:
    live = LiveTables(
        PLAN,
        redis_feeds(url),
        staleness_ms=staleness_ms,
        rows_max=rows_max,
        strings_max=strings_max,
    )
    try:
        yield live
    finally:
        live.stop()


def keys_held(live: LiveTables) -> set[bytes]:
    with live.lock:
        return {
            table.key_of(identifier) for table in live.tables.values() for identifier in seen(table)
        }


def keys_of(live: LiveTables) -> set[str]:
    with live.lock:
        return set(seen(live.tables["item_id"]))


def newer(world: World, start: int, count: int = 200) -> list[RowWrite]:
    """The writes of what a world is after more events."""
    return writes_of(world.fold(feed_events(count, start)), start + 1, INDEXED)


def fresh(live: LiveTables, rows: RedisRows) -> None:
    """Wait until all is told and applied, then the tables must equal the store."""
    until(
        lambda: live.degraded is None and live.staleness_ms() == 0 and equals_store(live, rows), 15
    )


def test_all_rows_are_loaded_and_every_change_follows(empty_valkey: str, rows: RedisRows) -> None:
    world = World()
    rows.write(newer(world, 0))
    with following(empty_valkey) as live:
        assert live.start(20)
        assert live.rows_loaded == 110
        assert equals_store(live, rows)
        took = []
        for round_ in range(1, 11):
            (write,) = [w for w in newer(world, round_ * 1000, 1) if b"item_id" in w.key][:1]
            rows.write([write])
            item = live.tables["item_id"].find(write.key)
            assert item is not None
            took.append(until(lambda i=item, m=write.marker: _marker(live, i) == m))  # type: ignore[misc]
        print(f"told, read and put after {1000 * max(took):.0f} ms at most")


def test_after_ten_thousand_writes_in_a_second_the_tables_equal_the_store(
    empty_valkey: str, rows: RedisRows
) -> None:
    writes = writes_of(World().fold(many_items(MANY)), 1, ["item_id"])
    assert len(writes) == MANY
    with following(empty_valkey) as live:
        live.start(20)
        began, oldest_ms = time.monotonic(), 0.0
        for start in range(0, MANY, 250):
            rows.write(writes[start : start + 250])
            oldest_ms = max(oldest_ms, live.staleness_ms())
            due = began + PACE_S * start / MANY
            until(lambda due=due: time.monotonic() >= due)  # type: ignore[misc]
        written_s = time.monotonic() - began
        caught_up_s = until(lambda: live.refreshed >= MANY and live.staleness_ms() == 0, 30)
        assert equals_store(live, rows)
        # How far it was behind is a figure of the machine: `make bench NAME=item_table`.
        print(f"written in {written_s:.2f} s, oldest {oldest_ms:.0f} ms, then {caught_up_s:.3f} s")
        assert live.degraded is None
        assert (live.generation, live.reloads) == (1, 1)


def test_new_rows_appear_and_deleted_ones_vanish(
    empty_valkey: str, rows: RedisRows, client: redis.Redis
) -> None:
    with following(empty_valkey) as live:
        live.start(20)
        assert not live.tables["item_id"].held
        writes = newer(World(), 0)
        rows.write(writes)
        fresh(live, rows)
        assert len(keys_held(live)) == 110
        gone = writes[3].key
        client.delete(gone)
        until(lambda: gone not in keys_held(live))
        fresh(live, rows)


def test_flushing_the_store_empties_the_tables(
    empty_valkey: str, rows: RedisRows, client: redis.Redis
) -> None:
    rows.write(newer(World(), 0))
    with following(empty_valkey) as live:
        live.start(20)
        client.flushdb()
        until(lambda: not live.tables["item_id"].held)
        rows.write(newer(World(), 0))
        fresh(live, rows)


def test_rows_of_other_projects_and_other_types_do_no_harm(
    empty_valkey: str, rows: RedisRows, client: redis.Redis
) -> None:
    world = World()
    writes = newer(world, 0)
    rows.write(writes)
    client.delete(writes[0].key)
    client.set(writes[0].key, "not a hash")
    with following(empty_valkey) as live:
        live.start(20)
        table = live.tables["item_id"]
        count = table.held
        other = World(PLAN.model_validate(PLAN.model_dump() | {"project": "another"}))
        rows.write(writes_of(other.fold(feed_events(50)), 1, INDEXED))
        client.set(writes[1].key, "not a hash")
        rows.write(newer(world, 5000)[2:])
        until(lambda: live.refreshed > 100 and live.staleness_ms() == 0)
        assert live.degraded is None
        assert table.held == count - 1
        assert writes[1].key not in keys_held(live)


def test_a_killed_tracking_connection_is_made_up_for(
    empty_valkey: str, rows: RedisRows, client: redis.Redis
) -> None:
    world = World()
    rows.write(newer(world, 0))
    with following(empty_valkey) as live:
        live.start(20)
        for round_ in range(1, 4):
            reloads = live.reloads
            _kill_trackers(client)
            rows.write(newer(world, round_ * 1000))
            until(lambda n=reloads: live.reloads > n, what="for a reload")  # type: ignore[misc]
            fresh(live, rows)


def test_a_store_that_answers_no_ping_is_still_heard(
    empty_valkey: str, rows: RedisRows, client: redis.Redis
) -> None:
    """One whose disk is full answers PING by an error, and reads as ever."""
    rows.write(writes_of(World().fold(many_items(10)), 1, ["item_id"]))
    with following(empty_valkey) as live:
        live.start(timeout_s=10)
        client.execute_command("ACL", "SETUSER", "default", "-ping")  # type: ignore[no-untyped-call]
        try:
            began = time.monotonic()
            while time.monotonic() - began < PACE_S:
                assert live.degraded is None
                assert live.staleness_ms() <= 250
                time.sleep(0.01)
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+ping")  # type: ignore[no-untyped-call]


def test_a_restart_of_the_store_is_survived(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "valkey.log"
    url = f"redis://{HOST}:{port}/0"
    world = World()
    with contextlib.ExitStack() as stack:
        with running(servers.valkey(port, tmp_path), log):
            _write(url, newer(world, 0))
            live = stack.enter_context(following(url))
            assert live.start(20)
        until(lambda: not live.connected)
        assert "read again" in (live.degraded or "")
        assert live.tables["item_id"].held == 100
        with running(servers.valkey(port, tmp_path), log):
            _write(url, newer(world, 1000))
            until(lambda: live.connected, 20)
            with contextlib.closing(RedisRows(url, PLAN.project, INDEXED, "none")) as rows:
                fresh(live, rows)


def test_the_password_of_the_url_is_never_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    url = f"redis://:topsecret@{HOST}:{port}/0"
    with following(url) as live:
        assert not live.start(0.1)
        until(lambda: "Connection refused" in (live.degraded or ""))
        with running(servers.valkey(port, tmp_path), tmp_path / "log"):  # asks for no password
            until(lambda: "does not let the ranker in" in (live.degraded or ""))
        said = (live.degraded or "") + caplog.text
    assert "topsecret" not in said


def test_a_full_table_reads_through_what_is_asked_for(empty_valkey: str, rows: RedisRows) -> None:
    rows.write(newer(World(), 0))
    with following(empty_valkey, rows_max=20) as live:
        live.start(20)
        table = live.tables["item_id"]
        assert table.held == 20
        known = sorted(keys_of(live))
        wanted = [*known[:5], *(i for i in map("i{}".format, range(100)) if i not in known)][:15]
        asked = live.read_through("item_id", [*wanted, "nobody"], 100)
        assert asked is not None
        assert (asked[0].result(5), asked[1]) == (10, 11)
        assert set(wanted) <= keys_of(live)  # those that were here made no way for the others
        assert table.held == 20
        assert live.evicted == 10
        assert not live.complete
        assert live.read_through("item_id", [*wanted, "nobody"], 100) is None
        rows.write(newer(World(), 500))
        until(lambda: live.staleness_ms() == 0 and live.refreshed >= 100)
        assert table.held == 20


def test_a_user_row_is_read_with_the_codes_of_the_live_tables(
    empty_valkey: str, rows: RedisRows
) -> None:
    world = World().fold(feed_events(200))
    rows.write(writes_of(world, 7))

    async def read(*users: str) -> None:
        async with OneRedis(redis.asyncio.Redis.from_url(empty_valkey)) as stored:
            user_rows = UserRows(stored, live, 1000)
            known, unknown = [await user_rows.read(user) for user in users]
            assert known.row == 0
            assert known.marker is not None
            assert (known.marker.offset, known.newest) == (7, 199)
            activity = known.table.tables["user_activity"]
            assert isinstance(activity, ActivityTable)
            recent = activity.entries(0, activity.sequences.index("recent"))
            items = live.tables["item_id"].rows_of_codes(recent[:, 2])
            assert live.tables["item_id"].ids_of(items) == [
                f"i{i % 100}" for i in range(164, 200, 7)
            ]
            assert (unknown.row, unknown.marker, unknown.newest) == (-1, None, None)
            assert user_rows.nobody().row == -1
            assert user_rows.current(known) is known
            with live.lock:
                live.strings.codes(f"unused{i}" for i in range(200))
            await asyncio.to_thread(until, lambda: live.strings is not known.table.strings)
            again = user_rows.current(known)
            assert again.table.strings is live.strings
            assert again.newest == known.newest

    with following(empty_valkey, strings_max=100) as live:
        live.start(20)
        asyncio.run(read("u3", "never seen"))


def test_a_user_row_that_is_late_or_away_is_unavailable(tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://{HOST}:{port}/0"

    async def read(deadline_ms: int) -> float:
        began = time.monotonic()
        async with OneRedis(redis.asyncio.Redis.from_url(url)) as stored:
            with pytest.raises(Unavailable):
                await UserRows(stored, live, deadline_ms).read("u1")
        return time.monotonic() - began

    live = LiveTables(PLAN, redis_feeds(url))
    asyncio.run(read(50))
    with (
        running(servers.valkey(port, tmp_path), tmp_path / "log"),
        redis.Redis.from_url(url) as client,
    ):
        client.client_pause(3000)
        assert asyncio.run(read(50)) < 1.0


def _marker(live: LiveTables, row: int) -> object:
    return live.tables["item_id"].marker(row)


def _kill_trackers(client: redis.Redis) -> None:
    killed = 0
    for connection in cast(list[dict[str, str]], client.client_list()):
        if "t" in connection["flags"]:
            client.client_kill_filter(_id=connection["id"])
            killed += 1
    assert killed == 1


def _write(url: str, writes: list[RowWrite]) -> None:
    with contextlib.closing(RedisRows(url, PLAN.project, INDEXED, "none")) as rows:
        assert all(rows.write(writes))
