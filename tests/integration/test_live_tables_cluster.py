"""The ranker's live tables over a Redis Cluster that fails over and moves its slots."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot

from deploy.ports import HOST
from features.codec import entity_prefix
from features.redis_rows import RedisRows
from ranker.tables.live_feed import redis_feeds
from ranker.tables.live_tables import LiveTables
from ranker.tables.redis_client import rows_of
from tests.plans import PLAN, World
from tests.redis_cluster import Cluster
from tests.stored import equals_store, feed_events, writes_of
from tests.waiting import until

INDEXED = ("item_id", "author_id")


@contextlib.contextmanager
def store(cluster: Cluster) -> Iterator[RedisRows]:
    rows = RedisRows(cluster.url, PLAN.project, INDEXED, "none")
    try:
        yield rows
    finally:
        rows.close()


@pytest.fixture
def live(cluster: Cluster) -> Iterator[LiveTables]:
    tables = LiveTables(PLAN, redis_feeds(cluster.url))
    yield tables
    tables.stop()


def write(cluster: Cluster, world: World, start: int) -> None:
    """Rows of 100 items and 10 authors, newer ones with each start."""
    with store(cluster) as rows:
        rows.write(writes_of(world.fold(feed_events(200, start)), start + 1, INDEXED))


def fresh(live: LiveTables, cluster: Cluster) -> None:
    """Wait until the tables say they are fresh; they must equal the store then."""

    def is_fresh() -> bool:
        if live.degraded is not None or live.staleness_ms() != 0:
            return False
        with store(cluster) as rows:
            return equals_store(live, rows)

    until(is_fresh, 30)


def test_rows_of_every_primary_are_loaded_and_followed(live: LiveTables, cluster: Cluster) -> None:
    world = World()
    write(cluster, world, 0)
    assert live.start(20), live.degraded
    assert live.tables["item_id"].held == 100
    for start in (1000, 2000):
        write(cluster, world, start)
        fresh(live, cluster)
    assert live.reloads == 1


def test_a_primary_that_dies_is_made_up_for(live: LiveTables, cluster: Cluster) -> None:
    world = World()
    write(cluster, world, 0)
    live.start(20)
    victim = cluster.primaries()[0]
    replica = cluster.replica_of(victim)
    cluster.kill(victim)
    until(lambda: not live.connected)
    assert "read again" in (live.degraded or "")
    assert live.tables["item_id"].held == 100  # what is known still serves
    until(lambda: replica in cluster.primaries(), 30)
    until(lambda: live.connected, 30)
    write(cluster, world, 1000)
    fresh(live, cluster)
    assert live.reloads > 1


def test_a_primary_that_hands_over_is_noticed(live: LiveTables, cluster: Cluster) -> None:
    world = World()
    write(cluster, world, 0)
    live.start(20)
    replica = cluster.replica_of(cluster.primaries()[0])
    cluster.ask(replica, "CLUSTER", "FAILOVER")
    until(lambda: replica in cluster.primaries(), 30)
    until(lambda: live.reloads > 1, 30)
    write(cluster, world, 1000)
    fresh(live, cluster)
    cluster.wait_until_whole()


def test_slots_that_move_between_primaries_take_their_rows_along(
    live: LiveTables, cluster: Cluster
) -> None:
    world = World()
    write(cluster, world, 0)
    live.start(20)
    giver, taker = cluster.primaries()[:2]
    slots = sorted({key_slot(key) for key in cluster.keys()[giver] if b"item_id" in key})[:12]
    try:
        for number, slot in enumerate(slots):
            move(cluster, slot, giver, taker)
            if number == len(slots) // 2:
                write(cluster, world, 1000)
        fresh(live, cluster)
        write(cluster, world, 2000)
        fresh(live, cluster)
        assert live.reloads == 1  # nothing was missed: both nodes were listened to all the time
    finally:
        for slot in slots:
            move(cluster, slot, taker, giver)


def test_a_user_row_is_read_from_whoever_holds_it(cluster: Cluster) -> None:
    world = World().fold(feed_events(50))
    writes = {w.key: w for w in writes_of(world, 9, ["user_id"])}
    with store(cluster) as rows:
        rows.write(list(writes.values()))

    async def read() -> set[int]:
        stored = rows_of(cluster.url)
        try:
            found = [await stored.hgetall(key) for key in writes]
        finally:
            await stored.aclose()
        return {len(content) for content in found}

    assert 0 not in asyncio.run(read())


def test_rows_on_their_way_are_read_from_where_they_go_beside_those_that_are_there(
    cluster: Cluster,
) -> None:
    write(cluster, World(), 0)
    giver, taker = cluster.primaries()[:2]
    rows = entity_prefix("item_id")
    keys = [k for port in (giver, taker) for k in cluster.keys()[port] if k.startswith(rows)]
    slot = key_slot(keys[0])
    with contextlib.closing(redis_feeds(cluster.url)(PLAN.project, INDEXED)) as feed:
        before = feed.read(keys)
        try:
            carry(cluster, slot, giver, taker)
            assert feed.read(keys) == before
        finally:
            settle(cluster, slot, giver, taker)
            move(cluster, slot, taker, giver)


def move(cluster: Cluster, slot: int, giver: int, taker: int) -> None:
    """Move a slot with its keys, one key at a time as `redis-cli --cluster reshard` does it."""
    carry(cluster, slot, giver, taker)
    settle(cluster, slot, giver, taker)


def carry(cluster: Cluster, slot: int, giver: int, taker: int) -> None:
    """Move the keys of a slot, which stays the giver's."""
    names = {port: cluster.ask(port, "CLUSTER", "MYID") for port in (giver, taker)}
    cluster.ask(taker, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", names[giver])
    cluster.ask(giver, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", names[taker])
    with redis.Redis(HOST, giver) as source:
        for key in source.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000, NEVER_DECODE=True):
            source.execute_command("MIGRATE", HOST, taker, key, 0, 5000)


def settle(cluster: Cluster, slot: int, giver: int, taker: int) -> None:
    """Make a slot the taker's."""
    name = cluster.ask(taker, "CLUSTER", "MYID")
    for port in (taker, giver, *(set(cluster.primaries()) - {giver, taker})):
        cluster.ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", name)
