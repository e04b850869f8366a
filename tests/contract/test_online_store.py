"""One suite over Feast's Redis store and ours, then each fault of the stock store, mended."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.compute_engines.dag.context import ExecutionContext
from feast.infra.compute_engines.local.arrow_table_value import ArrowTableValue
from feast.infra.compute_engines.local.nodes import LocalOutputNode
from feast.repo_config import MaterializationConfig
from feast.types import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import BadInput, Refused
from features.online_store import HeadraceOnlineStore
from features.plan import FeatureRepo
from features.row_keys import is_row, pattern, prefix_of
from features.tags import KIND_TAG
from tests.contract.online_stores import (
    CLASSES,
    NOW,
    OURS,
    STOCK,
    Row,
    applied,
    connected,
    driver,
    dump,
    pairs,
    profiles,
    row,
    stats,
    zone,
)
from tests.contract.online_stores import settings as configured
from tests.contract.online_stores import views as all_views

IDS = list(range(-3, 130))
EVERY = [
    "stats:trips",
    "stats:rate",
    "profile:city",
    "stats:vector",
    "pairs:waits",
    "profile:names",
    "profile:joined",
    "profile:photo",
    "stats:share",
    "stats:rank",
    "profile:active",
]
ASKED = [{"driver_id": i, "zone": f"z{i % 5}"} for i in [5, 999, 3, 5, -2, 64, 65, 0]]
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)

both = pytest.mark.parametrize("kind", [STOCK, OURS], ids=["stock", "ours"])
full_names = pytest.mark.parametrize("full", [True, False], ids=["full names", "short names"])


def _answer(store: FeatureStore, features: list[str], full: bool = True) -> bytes:
    response = store.get_online_features(features, ASKED, full_feature_names=full)
    return response.proto.SerializeToString(deterministic=True)


def _trips(store: FeatureStore, driver_id: int = 1) -> Any:
    answer = store.get_online_features(["stats:trips"], [{"driver_id": driver_id}])
    return answer.to_dict()["trips"][0]


def _view(store: FeatureStore, name: str = "stats") -> FeatureView:
    return store.get_feature_view(name)


def _write(kind: str, store: FeatureStore, rows: list[Row], view: str = "stats") -> None:
    """Through a store object of its own, as another process would."""
    CLASSES[kind]().online_write_batch(store.config, _view(store, view), rows, None)


async def _close(store: FeatureStore) -> None:
    """The stock store has no way to close the connections of its async client."""
    online_store: Any = store._get_provider().online_store  # noqa: SLF001
    await online_store._client_async.aclose()  # noqa: SLF001


def _write_everything(store: FeatureStore) -> None:
    store.write_to_online_store("stats", stats(IDS))
    store.write_to_online_store("profile", profiles(IDS))
    store.write_to_online_store("pairs", pairs(IDS))


def _by_write(store: FeatureStore, _: Path) -> None:
    store.write_to_online_store("stats", stats(IDS))


def _by_push(store: FeatureStore, _: Path) -> None:
    store.push("stats_push", stats(IDS))


def _by_async_write(store: FeatureStore, _: Path) -> None:
    async def write() -> None:
        await store.write_to_online_store_async("stats", stats(IDS))
        await _close(store)

    asyncio.run(write())


def _by_materialize(store: FeatureStore, folder: Path) -> None:
    stats(IDS).to_parquet(folder / "stats.parquet")
    store.materialize(NOW - HOUR, NOW + HOUR, feature_views=["stats"])


ways = pytest.mark.parametrize("write", [_by_write, _by_push, _by_async_write, _by_materialize])


@ways
def test_every_way_to_write_leaves_the_bytes_of_the_stock_store(
    empty_valkey: str, tmp_path: Path, write: Callable[[FeatureStore, Path], None]
) -> None:
    found = []
    for kind in (STOCK, OURS):
        with connected(empty_valkey) as client:
            client.flushall()
        write(applied(kind, empty_valkey, tmp_path), tmp_path)
        found.append(dump(empty_valkey))
    assert len(found[0]) == len(IDS)
    assert found[0] == found[1]


@full_names
def test_each_reads_what_the_other_wrote_and_answers_with_the_same_bytes(
    empty_valkey: str, tmp_path: Path, full: bool
) -> None:
    stock, ours = (applied(kind, empty_valkey, tmp_path) for kind in (STOCK, OURS))
    for writer in (stock, ours):
        with connected(empty_valkey) as client:
            client.flushall()
        _write_everything(writer)
        for features in (EVERY, EVERY[:1], [f for f in EVERY if "pairs" not in f]):
            assert _answer(ours, features, full) == _answer(stock, features, full)


@both
def test_the_async_read_answers_as_the_sync_one(
    empty_valkey: str, tmp_path: Path, kind: str
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    _write_everything(store)

    async def read() -> bytes:
        response = await store.get_online_features_async(EVERY, ASKED, full_feature_names=True)
        await _close(store)
        return response.proto.SerializeToString(deterministic=True)

    assert asyncio.run(read()) == _answer(store, EVERY)


@both
def test_values_come_back_as_they_were_written(
    empty_valkey: str, tmp_path: Path, kind: str
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    _write_everything(store)
    answer = store.get_online_features(EVERY, ASKED).to_dict()
    assert answer["trips"] == [5, None, 3, 5, -2, 64, 65, 0]
    assert answer["rate"][1:3] == [None, None]
    assert answer["vector"][0] == [5.5] * 80
    assert answer["city"][4] == "Åre -2" * 31
    assert answer["photo"][4] == bytes([0, 254, 255])
    assert answer["waits"][0] == 25


@both
def test_an_older_row_never_replaces_a_newer_one(
    empty_valkey: str, tmp_path: Path, kind: str
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    rows = [row(1, NOW, trips=2), row(1, NOW - SECOND, trips=1), row(2, NOW - SECOND, trips=1)]
    _write(kind, store, rows)
    _write(kind, store, [row(1, NOW - HOUR, trips=3), row(2, NOW, trips=4)])
    assert (_trips(store, 1), _trips(store, 2)) == (2, 4)


class Interrupted(list[Row]):
    """Rows that, the last time a store goes through them, let somebody else write first."""

    def __init__(self, rows: list[Row], times: int, somebody_else: Callable[[], None]) -> None:
        super().__init__(rows)
        self._left = times
        self._somebody_else = somebody_else

    def __iter__(self) -> Iterator[Row]:
        self._left -= 1
        if self._left == 0:
            self._somebody_else()
        return super().__iter__()


# The stock store goes through its rows twice: to read the stored times, and to write.
@pytest.mark.parametrize(
    ("kind", "times", "standing"), [(STOCK, 2, 1), (OURS, 1, 2)], ids=["stock", "ours"]
)
def test_a_newer_row_written_meanwhile_stands(
    empty_valkey: str, tmp_path: Path, kind: str, times: int, standing: int
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    newer, older = [row(1, NOW, trips=2)], [row(1, NOW - SECOND, trips=1)]
    _write(kind, store, Interrupted(older, times, lambda: _write(kind, store, newer)))
    assert _trips(store) == standing


def test_of_many_writers_at_once_the_newest_event_time_wins(
    empty_valkey: str, tmp_path: Path
) -> None:
    store = applied(OURS, empty_valkey, tmp_path)
    together = threading.Barrier(4)

    def write(writer: int) -> None:
        for place in range(100):
            at = NOW + timedelta(microseconds=(place * 7 + writer) % 4)
            together.wait(30)
            _write(OURS, store, [row(place, at, trips=(place * 7 + writer) % 4)])

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [_trips(store, place) for place in range(100)] == [3] * 100


@pytest.mark.parametrize(("kind", "standing"), [(STOCK, 1), (OURS, 2)], ids=["stock", "ours"])
def test_a_correction_with_an_equal_event_time_lands(
    empty_valkey: str, tmp_path: Path, kind: str, standing: int
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    _write(kind, store, [row(1, NOW, trips=1)])
    _write(kind, store, [row(1, NOW, trips=2)])
    assert _trips(store) == standing


def test_at_an_equal_event_time_the_later_created_row_stands(
    empty_valkey: str, tmp_path: Path
) -> None:
    store = applied(OURS, empty_valkey, tmp_path)
    at = {"event_time": [NOW] * 3, "driver_id": [1] * 3}
    created = [NOW + SECOND, NOW + 3 * SECOND, NOW + 2 * SECOND]
    for i in range(3):
        frame = pd.DataFrame({**at, "created": created, "score": [1, 3, 2]})[i : i + 1]
        store.write_to_online_store("corrected", frame)
    answer = store.get_online_features(["corrected:score"], [{"driver_id": 1}])
    assert answer.to_dict()["score"] == [3]


_TIMES = st.sampled_from([-(2**40), -2, -1, 0, 1, 127, 128, 2**30])


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(_TIMES, st.integers(0, 2), st.none() | st.integers(-1, 2)), min_size=1, max_size=8
    ),
    st.booleans(),
)
def test_what_lands_is_what_the_rule_says(
    model_store: FeatureStore, writes: list[tuple[int, int, int | None]], at_once: bool
) -> None:
    epoch, day = datetime(1970, 1, 1, tzinfo=UTC), timedelta(days=1)

    def time(seconds: int, microseconds: int = 0) -> datetime:
        if abs(seconds) > 2**32:
            return datetime(1, 1, 1, tzinfo=UTC) + day
        return epoch + timedelta(seconds=seconds, microseconds=microseconds)

    rows, stored = [], None
    for value, (seconds, micros, made) in enumerate(writes):
        at, created = time(seconds, micros), None if made is None else time(made)
        rows.append(row(1, at, created, score=value))
        lands = stored is None or at > stored[0]
        if stored is not None and at == stored[0]:
            lands = created is None or stored[1] is None or created >= stored[1]
        if lands:
            stored = (at, created, value)
    CLASSES[OURS]().delete_table(model_store.config, _view(model_store, "corrected"))
    for part in [rows] if at_once else [[one] for one in rows]:
        _write(OURS, model_store, part, "corrected")
    answer = model_store.get_online_features(["corrected:score"], [{"driver_id": 1}])
    assert stored is not None
    assert answer.to_dict()["score"] == [stored[2]]


@pytest.fixture(scope="module")
def model_store(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return applied(OURS, valkey, tmp_path_factory.mktemp("model"), "model")


def test_a_row_from_too_far_ahead_is_refused_and_nothing_of_its_batch_written(
    empty_valkey: str, tmp_path: Path
) -> None:
    store = applied(OURS, empty_valkey, tmp_path, max_ahead_s=60)
    rows = [row(1, NOW, trips=1), row(7, NOW + HOUR, trips=2)]
    with pytest.raises(BadInput, match=r"'stats': the row of driver_id 7 .* max_ahead_s \(60 s\)"):
        _write(OURS, store, rows)
    assert dump(empty_valkey) == {}
    with pytest.raises(BadInput, match="driver_id 7 has no event time"):
        _write(OURS, store, [row(7, pd.NaT, trips=2)])  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "standing"), [(STOCK, 1), (OURS, 2)], ids=["stock", "ours"])
def test_a_row_from_the_future_that_is_stored_already_blocks_nothing(
    empty_valkey: str, tmp_path: Path, kind: str, standing: int
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    _write(STOCK, applied(STOCK, empty_valkey, tmp_path), [row(1, NOW + 10_000 * HOUR, trips=1)])
    _write(kind, store, [row(1, NOW, trips=2)])
    assert _trips(store) == standing


@pytest.mark.parametrize(("kind", "spared"), [(STOCK, False), (OURS, True)], ids=["stock", "ours"])
def test_teardown_spares_a_project_whose_name_ends_alike(
    empty_valkey: str, tmp_path: Path, kind: str, spared: bool
) -> None:
    bench, other = (applied(kind, empty_valkey, tmp_path, p) for p in ("bench", "other_bench"))
    _write(kind, bench, [row(1, NOW, trips=1)])
    _write(kind, other, [row(1, NOW, trips=2)])
    bench.teardown()  # type: ignore[no-untyped-call]
    assert (_trips(other) == 2) == spared
    assert len(dump(empty_valkey)) == spared


@both
def test_teardown_leaves_no_row_of_the_project(
    empty_valkey: str, tmp_path: Path, kind: str
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    _write_everything(store)
    store.teardown()  # type: ignore[no-untyped-call]
    assert dump(empty_valkey) == {}


@both
def test_a_view_s_rows_go_with_it_and_other_views_rows_stay(
    empty_valkey: str, tmp_path: Path, kind: str
) -> None:
    store = applied(kind, empty_valkey, tmp_path)
    store.write_to_online_store("profile", profiles(IDS[5:]))
    without = dump(empty_valkey)
    store.write_to_online_store("stats", stats(IDS))
    stays = [view for view in all_views(tmp_path) if view.name != "stats"]
    store.apply([driver, zone, *stays], objects_to_delete=[_view(store)], partial=False)
    assert dump(empty_valkey) == without


def test_a_deleted_view_of_one_project_stays_in_another(empty_valkey: str, tmp_path: Path) -> None:
    bench, other = (applied(OURS, empty_valkey, tmp_path, p) for p in ("bench", "other_bench"))
    for store in (bench, other):
        _write(OURS, store, [row(1, NOW, trips=1)])
    CLASSES[OURS]().delete_table(bench.config, _view(bench))
    assert (_trips(bench), _trips(other)) == (None, 1)


def test_deleting_a_view_keeps_the_marker_of_the_stream(empty_valkey: str, tmp_path: Path) -> None:
    store = applied(OURS, empty_valkey, tmp_path)
    _write(OURS, store, [row(1, NOW, trips=1)])
    with connected(empty_valkey) as client:
        (key,) = client.scan_iter()
        client.hset(key, "_m", "1.1.0.7")
        CLASSES[OURS]().delete_table(store.config, _view(store))
        assert client.hgetall(key) == {b"_m": b"1.1.0.7"}


def test_rows_of_some_entities_can_be_deleted(empty_valkey: str, tmp_path: Path) -> None:
    store = applied(OURS, empty_valkey, tmp_path)
    _write_everything(store)
    keys = [row(i, NOW)[0] for i in (3, 5, 999)]
    assert HeadraceOnlineStore().delete_rows(store.config, _view(store), keys) == 2
    assert [_trips(store, i) for i in (3, 4, 5)] == [None, 4, None]
    answer = store.get_online_features(["profile:city"], [{"driver_id": 3}])
    assert answer.to_dict()["city"] == ["Åre 3"]


@pytest.mark.parametrize("size", [42, 63, 91, 92])
def test_a_join_key_whose_length_is_a_glob_character_is_deleted_exactly(
    empty_valkey: str, tmp_path: Path, size: int
) -> None:
    name = "k" * size
    entity = Entity(name="long", join_keys=[name], value_type=ValueType.INT64)
    source = FileSource(name="s", path=str(tmp_path / "s"), timestamp_field="event_time")
    schema = [Field(name="x", dtype=Int64)]
    view = FeatureView(name="v", entities=[entity], schema=schema, source=source)
    store = FeatureStore(config=configured(OURS, empty_valkey, tmp_path, "p"))
    store.apply([entity, view])
    store.write_to_online_store("v", pd.DataFrame({name: [1], "event_time": [NOW], "x": [2]}))
    store.teardown()  # type: ignore[no-untyped-call]
    assert dump(empty_valkey) == {}


@given(
    st.lists(st.text(min_size=1, max_size=100), min_size=1, max_size=3, unique=True),
    st.lists(st.binary(max_size=12), min_size=3, max_size=3),
    st.from_regex(r"\A[a-z_]{1,8}\Z"),
    st.from_regex(r"\A[a-z_]{1,8}\Z"),
)
def test_a_key_is_a_row_of_its_own_project_alone(
    join_keys: list[str], values: list[bytes], project: str, other: str
) -> None:
    sized = [len(v).to_bytes(4, "little") + v for v in values[: len(join_keys)]]
    serialized = prefix_of(join_keys) + b"".join(b"\x02\0\0\0" + v for v in sized)
    key = serialized + project.encode()
    assert is_row(key, join_keys, project)
    assert is_row(key, join_keys, other) == (other == project)
    assert not is_row(serialized + f"other_{project}".encode(), join_keys, project)
    assert not is_row(serialized[:-1], join_keys, project)
    assert not is_row(key, [*join_keys, "more"], project)
    assert pattern(join_keys, project).endswith(b"*" + project.encode())


def test_the_engine_s_views_take_no_write_from_the_sdk(applied_repo: Path, valkey: str) -> None:
    view = FeatureStore(repo_path=str(applied_repo)).get_stream_feature_view("item_profile")
    assert KIND_TAG in view.tags
    config = configured(OURS, valkey, applied_repo, FeatureRepo(applied_repo).open().project)
    store = HeadraceOnlineStore()
    with pytest.raises(Refused, match="'item_profile' is written by the stream alone"):
        store.online_write_batch(config, view, [], None)
    with pytest.raises(Refused, match="item_profile"):
        asyncio.run(store.online_write_batch_async(config, view, [], None))
    with pytest.raises(Refused, match="item_profile"):
        store.delete_rows(config, view, [])


def test_teardown_takes_what_the_workers_keep_beside_their_rows(
    applied_repo: Path, empty_valkey: str
) -> None:
    view = FeatureStore(repo_path=str(applied_repo)).get_stream_feature_view("item_profile")
    config = configured(OURS, empty_valkey, applied_repo, "bench")
    with connected(empty_valkey) as client:
        client.set("headrace:bench:checkpoint:0", "{}")
        client.set("headrace:other_bench:checkpoint:0", "{}")
        HeadraceOnlineStore().teardown(config, [view], [])
        assert client.keys() == [b"headrace:other_bench:checkpoint:0"]


def test_rows_of_the_stream_may_not_expire(applied_repo: Path, valkey: str) -> None:
    view = FeatureStore(repo_path=str(applied_repo)).get_stream_feature_view("item_profile")
    config = configured(OURS, valkey, applied_repo, "p", key_ttl_seconds=5)
    with pytest.raises(Refused, match=r"key_ttl_seconds .* item_profile"):
        HeadraceOnlineStore().update(config, [], [view], [], [], False)


@both
def test_rows_expire_after_key_ttl_seconds(empty_valkey: str, tmp_path: Path, kind: str) -> None:
    store = applied(kind, empty_valkey, tmp_path, key_ttl_seconds=1000)
    _write(kind, store, [row(1, NOW, trips=1)])
    with connected(empty_valkey) as client:
        (key,) = client.scan_iter()
        assert 0 < cast(int, client.ttl(key)) <= 1000
        client.expire(key, 50)
        _write(kind, store, [row(1, NOW - HOUR, trips=2)])
        assert cast(int, client.ttl(key)) <= 50


@both
@pytest.mark.parametrize(("batch_size", "rows"), [(None, 10), (10_000, 130)])
def test_a_batch_size_makes_materialize_write_every_chunk_of_a_table(
    empty_valkey: str, tmp_path: Path, kind: str, batch_size: int | None, rows: int
) -> None:
    """The loss is Feast's, before any store is called, so that no store can mend it."""
    store = applied(kind, empty_valkey, tmp_path)
    chunks = [pa.Table.from_pandas(stats(IDS[at : at + 10])) for at in range(0, 130, 10)]
    config = store.config.model_copy(
        update={"materialization_config": MaterializationConfig(online_write_batch_size=batch_size)}
    )
    provider = store._get_provider()  # noqa: SLF001
    view = _view(store)
    source = LocalOutputNode("source", view)  # type: ignore[arg-type]
    context = ExecutionContext("p", config, provider.offline_store, provider.online_store, [])
    context.node_outputs["source"] = ArrowTableValue(pa.concat_tables(chunks))
    LocalOutputNode("output", view, [source]).execute(context)  # type: ignore[arg-type]
    assert len(dump(empty_valkey)) == rows


def test_apply_warns_when_materialize_would_lose_chunks(
    empty_valkey: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(OURS, empty_valkey, tmp_path, "p")
    HeadraceOnlineStore().update(config, [], [], [], [], False)
    assert not caplog.text
    unset = {"materialization_config": MaterializationConfig()}
    HeadraceOnlineStore().update(config.model_copy(update=unset), [], [], [], [], False)
    assert "online_write_batch_size" in caplog.text


@pytest.fixture
def loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Two event loops, as two threads of a server have them."""
    found = [asyncio.new_event_loop() for _ in range(2)]
    yield found
    for loop in found:
        loop.close()


async def _read(store: FeatureStore) -> Any:
    answer = await store.get_online_features_async(["stats:trips"], [{"driver_id": 1}])
    return answer.to_dict()["trips"][0]


def test_the_async_client_follows_the_event_loop(
    empty_valkey: str, tmp_path: Path, loops: list[asyncio.AbstractEventLoop]
) -> None:
    stock, ours = (applied(kind, empty_valkey, tmp_path) for kind in (STOCK, OURS))
    _write(OURS, ours, [row(1, NOW, trips=1)])
    assert [loop.run_until_complete(_read(ours)) for loop in loops * 2] == [1] * 4
    for loop in loops:
        loop.run_until_complete(ours.close())
    assert loops[0].run_until_complete(_read(stock)) == 1
    with pytest.raises(RuntimeError, match="loop"):
        loops[1].run_until_complete(_read(stock))
    loops[0].run_until_complete(_close(stock))
