"""What every store of rows promises, run over each of them; then what Redis alone can break."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from features.codec import STRING_TYPE, entity_key
from features.entities import ANY, RowWrite
from features.errors import BadInput, Refused, Unavailable
from features.marker import Marker
from features.redis_rows import RedisRows
from features.row_store import Checkpoint, MemoryRows, RowStore, Seal
from streaming.local_rows import LocalRows
from tests.redis_cluster import Cluster
from tests.waiting import until

WAIT_S = 10.0


@pytest.fixture(params=["memory", "local", "redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[RowStore]:
    if request.param == "memory":
        yield MemoryRows()
        return
    if request.param == "local":
        local = LocalRows(request.getfixturevalue("tmp_path") / "rows.sqlite")
        yield local
        local.close()
        return
    if request.param == "redis":
        rows = RedisRows(request.getfixturevalue("empty_valkey"), "p", ["item_id"])
    else:
        cluster: Cluster = request.getfixturevalue("cluster")
        rows = RedisRows(cluster.url, "p", ["item_id"], "replicas")
    yield rows
    rows.close()


def _key(identifier: str, join_key: str = "item_id") -> bytes:
    return entity_key(join_key, STRING_TYPE, identifier, "p")


K = _key("k")


def _write(
    store: RowStore, marker: Marker, gone: tuple[bytes, ...] = (), key: bytes = K, **fields: bytes
) -> bool:
    flat = [part for name, value in fields.items() for part in (name.encode(), value)]
    (done,) = store.write([RowWrite(key, marker, flat, list(gone))])
    return done


def _row(store: RowStore, key: bytes = K) -> dict[bytes, bytes]:
    (row,) = store.read([key])
    return row


def _is_safe(seal: Seal) -> bool:
    deadline = time.monotonic() + WAIT_S
    while (answer := seal.safe()) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert answer is not None
    return answer


def test_a_row_reads_back_as_it_was_written_with_its_marker(store: RowStore) -> None:
    assert _write(store, Marker(1, 2, 7), a=b"1", b=b"\x00\xff")
    assert _row(store) == {b"a": b"1", b"b": b"\x00\xff", b"_m": b"1.1.2.7"}


def test_rows_read_in_the_order_they_are_asked_for(store: RowStore) -> None:
    keys = [_key(f"k{n}") for n in range(1200)]
    done = store.write(
        [RowWrite(k, Marker(1, 0, n), [b"n", b"%d" % n], []) for n, k in enumerate(keys)]
    )
    assert done == [True] * 1200
    rows = store.read([*reversed(keys), _key("none")])
    assert [row.get(b"n") for row in rows] == [*(b"%d" % n for n in reversed(range(1200))), None]
    assert rows[-1] == {}
    assert store.read([]) == []
    assert store.write([]) == []


def test_a_write_leaves_fields_it_does_not_name_and_deletes_those_that_are_gone(
    store: RowStore,
) -> None:
    _write(store, Marker(1, 0, 1), a=b"1", b=b"2", c=b"3")
    _write(store, Marker(1, 0, 2), gone=(b"b", b"never"), c=b"4")
    assert _row(store) == {b"a": b"1", b"c": b"4", b"_m": b"1.1.0.2"}


@pytest.mark.parametrize(
    ("marker", "done", "written"),
    [
        (Marker(2, 0, 6), True, True),
        (Marker(2, 0, 5), True, False),
        (Marker(2, 0, 4), False, False),
        (Marker(1, 0, 99), False, False),
        (Marker(3, 0, 0), True, True),
        (Marker(2, 0, 10), True, True),
    ],
)
def test_a_row_is_written_only_where_its_marker_is_older(
    store: RowStore, marker: Marker, done: bool, written: bool
) -> None:
    _write(store, Marker(2, 0, 5), a=b"old", b=b"old")
    assert _write(store, marker, gone=(b"b",), a=b"new") is done
    expected = {b"a": b"new"} if written else {b"a": b"old", b"b": b"old"}
    stands = marker if written else Marker(2, 0, 5)
    assert _row(store) == expected | {b"_m": stands.encode()}


@pytest.mark.parametrize(
    ("base", "done"),
    [
        (Marker(2, 0, 5), True),
        (ANY, True),
        (None, False),
        (Marker(2, 0, 4), False),
        (Marker(2, 0, 6), False),
        (Marker(1, 0, 5), False),
    ],
)
def test_a_row_is_changed_only_from_the_version_that_was_read(
    store: RowStore, base: Marker | None, done: bool
) -> None:
    """A change names what is gone since its base; on another version that would be too little."""
    _write(store, Marker(2, 0, 5), a=b"old")
    assert store.write([RowWrite(K, Marker(2, 0, 9), [b"a", b"new"], [], base)]) == [done]
    assert _row(store)[b"a"] == (b"new" if done else b"old")


def test_a_row_that_was_read_as_new_must_still_be(store: RowStore) -> None:
    first, second = Marker(1, 0, 1), Marker(1, 0, 2)
    assert store.write([RowWrite(K, second, [b"a", b"1"], [], first)]) == [False]
    assert _row(store) == {}
    assert store.write([RowWrite(K, first, [b"a", b"1"], [], None)]) == [True]
    assert store.write([RowWrite(K, first, [b"a", b"1"], [], None)]) == [True]
    assert store.write([RowWrite(K, second, [b"a", b"2"], [], None)]) == [False]
    assert _row(store)[b"a"] == b"1"


def test_one_fenced_row_of_a_batch_leaves_the_others_alone(store: RowStore) -> None:
    keys = [_key(f"k{n}") for n in range(120)]
    _write(store, Marker(1, 0, 9), key=keys[60], a=b"newer")
    done = store.write([RowWrite(k, Marker(1, 0, 5), [b"a", b"x"], []) for k in keys])
    assert done == [n != 60 for n in range(120)]
    assert [r[b"a"] for r in store.read(keys)] == [
        b"newer" if n == 60 else b"x" for n in range(120)
    ]


def test_a_marker_of_a_later_format_is_not_overwritten(
    store: RowStore, request: pytest.FixtureRequest
) -> None:
    marker = Marker(1, 0, 2)
    later = RowWrite(_key("odd"), marker, [b"a", b"1"], [])
    _plant(store, request, _key("odd"), b"2.something-else")
    with pytest.raises(BadInput, match="marker"):
        store.write([later])
    assert b"a" not in _row(store, _key("odd"))


def _plant(store: RowStore, request: pytest.FixtureRequest, key: bytes, marker: bytes) -> None:
    """Put a marker where no version of ours would."""
    if isinstance(store, MemoryRows):
        store.rows[key] = {b"_m": marker}
    elif isinstance(store, LocalRows):
        store._put(key, {b"_m": marker})  # noqa: SLF001 - no write of ours would
    elif "cluster" in request.fixturenames:
        with request.getfixturevalue("cluster").client() as client:
            client.hset(key, "_m", marker)
    else:
        with redis.Redis.from_url(request.getfixturevalue("valkey")) as client:
            client.hset(key, "_m", marker)


def test_new_rows_of_an_indexed_entity_are_found_by_its_join_key(store: RowStore) -> None:
    wanted = {_key(f"i{n}") for n in range(70)}
    store.write([RowWrite(key, Marker(1, 0, 1), [b"a", b"1"], []) for key in wanted])
    _write(store, Marker(1, 0, 1), key=_key("u", "user_id"), a=b"1")
    _write(store, Marker(1, 0, 2), key=_key("i0"), a=b"2")
    assert sorted(store.keys("item_id")) == sorted(wanted)


def test_a_checkpoint_moves_only_forward(store: RowStore) -> None:
    assert store.checkpoint(0) is None
    first = Checkpoint(generation=1, offset=5, high_water={"1/0": 9, "1/1": 3})
    for later in (
        first,
        Checkpoint(generation=1, offset=5, high_water={}),
        Checkpoint(generation=1, offset=4, high_water={}),
        Checkpoint(generation=0, offset=9, high_water={}),
    ):
        store.save_checkpoint(0, later)
        assert store.checkpoint(0) == first
    for later in (
        Checkpoint(generation=1, offset=6, high_water={}),
        Checkpoint(generation=2, offset=0, high_water={"2/0": 1}),
    ):
        store.save_checkpoint(0, later)
        assert store.checkpoint(0) == later
    assert store.checkpoint(1) is None


def test_the_first_of_several_facts_stands(store: RowStore) -> None:
    assert store.remembered("plans") == {}
    assert store.remember("plans", "a", "first") == "first"
    assert store.remember("plans", "a", "second") == "first"
    assert store.remember("plans", "b", "other") == "other"
    assert store.remembered("plans") == {"a": "first", "b": "other"}
    assert store.remembered("elsewhere") == {}


def test_a_number_only_grows(store: RowStore) -> None:
    assert store.raise_to("routed", {"0": -1}) == {"0": -1}
    for number, stands in ((0, 0), (5, 5), (3, 5), (2**53, 2**53)):
        assert store.raise_to("routed", {"0": number}) == {"0": stands}
    assert store.raise_to("routed", {"1": -1, "0": 7}) == {"1": -1, "0": 2**53}
    assert store.raise_to("routed", {"0": -1, "1": 4}) == {"0": 2**53, "1": 4}


def test_lives_of_a_topic_are_numbered_in_the_order_they_are_seen(store: RowStore) -> None:
    assert [store.generation("updates", t) for t in ("x", "y", "x", "z", "y")] == [1, 2, 1, 3, 2]
    assert store.generation("events", "y") == 1


def test_a_seal_says_that_what_was_written_is_safe(store: RowStore) -> None:
    for offset in range(1, 4):
        _write(store, Marker(1, 0, offset), a=b"%d" % offset)
        assert _is_safe(store.seal()) is True
    assert _row(store)[b"a"] == b"3"


def test_a_seal_asked_for_while_another_waits_covers_what_came_between(store: RowStore) -> None:
    _write(store, Marker(1, 0, 1), a=b"1")
    first = store.seal()
    _write(store, Marker(1, 0, 2), a=b"2")
    second = store.seal()
    assert second is not first
    assert _is_safe(second) is True
    assert first.safe() is True


# What follows is Redis alone.


def test_the_connection_that_wrote_is_the_one_that_waits(empty_valkey: str) -> None:
    # WAITAOF speaks for its own connection only: on another one it confirms nothing.
    with redis.Redis.from_url(empty_valkey) as other:
        before = {c["id"] for c in other.client_list()}
        rows = RedisRows(empty_valkey, "p")
        for offset in range(1, 5):
            _write(rows, Marker(1, 0, offset), a=b"1")
            rows.read([K])
            assert _is_safe(rows.seal())
        ours = [c for c in other.client_list() if c["id"] not in before]
        rows.close()
    assert [c["cmd"] for c in ours] == ["waitaof", "waitaof"]


def test_rows_that_are_not_on_disk_are_not_called_safe(tmp_path: Path) -> None:
    program = servers.valkey(free_port(), tmp_path, {"appendonly": "no"})
    with running(program, tmp_path / "log") as child:
        rows = RedisRows(f"redis://{HOST}:{child.port}/0", "p")
        _write(rows, Marker(1, 0, 1), a=b"1")
        assert _is_safe(rows.seal()) is False
        with pytest.raises(Refused, match="turn appendonly on"):
            rows.check()
        rows.close()


def test_a_server_that_restarted_is_told_even_if_it_answers_again(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "data"
    program = servers.valkey(port, folder, {"appendonly": "no"})
    rows = None
    with running(program, tmp_path / "log"):
        rows = RedisRows(f"redis://{HOST}:{port}/0", "p")
        _write(rows, Marker(1, 0, 1), a=b"1")
    with running(program, tmp_path / "log"):
        with pytest.raises(Unavailable):
            _write(rows, Marker(1, 0, 2), b=b"2")
        with pytest.raises(Unavailable):
            rows.read([K])
    rows.close()


def test_a_seal_over_a_lost_connection_is_told(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "data"
    program = servers.valkey(port, folder)
    with running(program, tmp_path / "log"):
        rows = RedisRows(f"redis://{HOST}:{port}/0", "p")
        _write(rows, Marker(1, 0, 1), a=b"1")
    with running(program, tmp_path / "log"), pytest.raises(Unavailable):
        _is_safe(rows.seal())
    rows.close()


def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        RedisRows(f"redis://{HOST}:{free_port()}/0", "p").read([K])


def test_a_full_server_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    program = servers.valkey(free_port(), tmp_path)
    with running(program, tmp_path / "log") as child:
        url = f"redis://{HOST}:{child.port}/0"
        rows = RedisRows(url, "p")
        _write(rows, Marker(1, 0, 1), a=b"1")
        with redis.Redis.from_url(url) as admin:
            admin.config_set("maxmemory", "1mb")
            with pytest.raises(Unavailable):
                _write(rows, Marker(1, 0, 2), a=b"x" * 2_000_000)
            admin.config_set("maxmemory", "0")
            assert admin.hget(K, "a") == b"1"
        rows.close()


def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    program = servers.valkey(free_port(), tmp_path, {"maxmemory-policy": "allkeys-lru"})
    with running(program, tmp_path / "log") as child:
        rows = RedisRows(f"redis://{HOST}:{child.port}/0", "p")
        with pytest.raises(Refused, match="set maxmemory-policy to noeviction"):
            rows.check()
        rows.close()


def test_replicas_without_files_are_said_to_follow_a_primary_that_comes_back_empty(
    tmp_path: Path,
) -> None:
    program = servers.valkey(free_port(), tmp_path, {"appendonly": "no"})
    with running(program, tmp_path / "log") as child:
        rows = RedisRows(f"redis://{HOST}:{child.port}/0", "p", durability="replicas")
        notes = rows.check()
        rows.close()
    assert any("comes back empty" in note for note in notes)
    assert any("none connected" in note for note in notes)


def test_a_fact_that_is_new_is_known_to_be_durable_before_others_build_on_it(
    tmp_path: Path,
) -> None:
    program = servers.valkey(free_port(), tmp_path, {"appendonly": "no"})
    with running(program, tmp_path / "log") as child:
        rows = RedisRows(f"redis://{HOST}:{child.port}/0", "p", durability="aof")
        with pytest.raises(Unavailable, match="durable"):
            rows.remember("plans", "a", "first")
        with pytest.raises(Unavailable, match="durable"):
            rows.generation("updates", "x")
        rows.close()


def test_scripts_that_the_server_forgot_are_sent_again(empty_valkey: str) -> None:
    rows = RedisRows(empty_valkey, "p")
    _write(rows, Marker(1, 0, 1), a=b"1")
    with redis.Redis.from_url(empty_valkey) as client:
        client.script_flush()
    assert _write(rows, Marker(1, 0, 2), a=b"2")
    assert _row(rows)[b"a"] == b"2"
    rows.close()


# What follows is a Cluster alone.


def test_rows_of_a_cluster_lie_on_all_primaries_each_beside_the_index_that_names_it(
    cluster: Cluster,
) -> None:
    rows = RedisRows(cluster.url, "p", ["item_id"], "replicas")
    wanted = [_key(f"i{n}") for n in range(300)]
    rows.write([RowWrite(key, Marker(1, 0, 1), [b"a", b"1"], []) for key in wanted])
    rows.close()
    held = cluster.keys()
    assert len(held) == 3
    for port, keys in held.items():
        ours = {key for key in keys if key in wanted}
        assert len(ours) > 50
        with redis.Redis(HOST, port) as client:
            indexes = [key for key in keys if key.endswith(b":index:item_id")]
            named = {index: set(client.smembers(index)) for index in indexes}
        assert set().union(*named.values()) == ours
        assert all(key_slot(index) == key_slot(k) for index, ks in named.items() for k in ks)


def test_a_seal_waits_for_the_replica_of_every_primary(cluster: Cluster) -> None:
    rows = RedisRows(cluster.url, "p", durability="replicas")
    keys = [_key(f"k{n}") for n in range(100)]
    rows.write([RowWrite(key, Marker(1, 0, 1), [b"a", b"1"], []) for key in keys])
    assert _is_safe(rows.seal()) is True
    replica = cluster.replica_of(cluster.primaries()[1])
    cluster.kill(replica)
    try:
        rows.write([RowWrite(key, Marker(1, 0, 2), [b"a", b"2"], []) for key in keys])
        assert _is_safe(rows.seal()) is False
        assert any("none connected" in note for note in rows.check())
    finally:
        rows.close()
        cluster.mend()


def test_a_primary_that_hands_over_is_a_lost_connection_and_a_new_store_finds_the_next(
    cluster: Cluster,
) -> None:
    rows = RedisRows(cluster.url, "p", durability="replicas")
    keys = [_key(f"k{n}") for n in range(100)]
    writes = [RowWrite(key, Marker(1, 0, 1), [b"a", b"1"], []) for key in keys]
    rows.write(writes)
    assert _is_safe(rows.seal()) is True
    replica = cluster.replica_of(cluster.primaries()[0])
    cluster.ask(replica, "CLUSTER", "FAILOVER")
    until(lambda: replica in cluster.primaries(), 20)
    cluster.wait_until_whole()
    with pytest.raises(Unavailable):
        rows.write(writes)
    rows.close()
    again = RedisRows(cluster.url, "p", durability="replicas")
    assert all(row[b"a"] == b"1" for row in again.read(keys))
    assert all(again.write(writes))
    again.close()


def test_durability_on_disk_alone_is_refused_where_a_replica_may_take_over(
    cluster: Cluster,
) -> None:
    rows = RedisRows(cluster.url, "p", durability="aof")
    with pytest.raises(Refused, match="set HEADRACE_DURABILITY to replicas"):
        rows.check()
    rows.close()


def test_a_setting_of_none_says_what_it_gives_up(empty_valkey: str) -> None:
    rows = RedisRows(empty_valkey, "p", durability="none")
    assert any("lost" in note for note in rows.check())
    assert _is_safe(rows.seal()) is True
    rows.close()
