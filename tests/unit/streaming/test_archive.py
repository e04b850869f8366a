"""The archive of a log is a function of the log: no batch, crash or loss shows in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.codec import MARKER_FIELD
from features.entities import EntityTable
from features.errors import Refused, Unavailable
from features.events import Event
from features.offline import APPENDED_AT, FOLDER, ROW_MARKER, UPDATED_AT
from features.spec import LatestField
from features.strings import Strings
from streaming.archive import Arrived, SpanSettings
from streaming.local_rows import LocalRows
from tests.archives import EARLY, Crash, Ground, Log, Mortal, arrived, rows_after, view_of
from tests.plans import PLAN, USER_PROFILE, changed, plan
from tests.stored import feed_events
from tests.strategies import histories

HOUR, DAY = 3_600_000, 86_400_000
_MEMORY = Path("/dev/shm")
WIDER = plan(
    latest=(
        *PLAN.latest[:2],
        changed(
            USER_PROFILE,
            fields=(
                LatestField(name="age", path="attributes.age", dtype="Int64"),
                *USER_PROFILE.fields,
            ),
        ),
    )
)


def _ground(folder: Path, blocks: int = 3, ms: int = 12 * HOUR) -> Ground:
    plans = {p.version: p for p in (PLAN, WIDER)}
    return Ground(folder / "archive", folder / "state", plans, SpanSettings(blocks, ms))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: what is written safely takes a disk its time."""
    with _folder() as folder:
        yield Path(folder)


@pytest.fixture
def ground(place: Path) -> Ground:
    return _ground(place)


def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


@pytest.fixture
def logs() -> dict[int, Log]:
    """Three partitions, each of many blocks, over three days."""
    events = list(feed_events(36))
    return arrived(events, PLAN, [EARLY + n * 5 * HOUR for n in range(60)], batch=2)


append_times = st.lists(st.integers(0, 40).map(lambda n: EARLY + n * 100), min_size=1, max_size=9)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), append_times, st.integers(1, 5), st.integers(1, 4))
def test_a_version_is_the_state_after_its_span_and_each_changed_row_has_one(
    events: list[Event], times: list[int], blocks: int, batch: int
) -> None:
    logs = arrived(events, PLAN, times, batch)
    with _folder() as folder:
        ground = _ground(Path(folder), blocks, 1000)
        ground.run(logs, PLAN)
        ends = dict.fromkeys(logs, -1)
        for record in ground.records():
            log = logs[record.partition]
            assert record.first == ends[record.partition] + 1
            ends[record.partition] = record.last
            versions = ground.versions(record, PLAN)
            after = rows_after(log[: record.last + 1], PLAN)
            for (view, key), row in versions.items():
                row.pop(MARKER_FIELD)
                assert view_of(row, view, PLAN) == view_of(after[key], view, PLAN)
            changed_rows = {
                (PLAN.views[v].name, block.updates.keys[k])
                for _, _, block in log[record.first : record.last + 1]
                for v, k in zip(block.updates.view, block.updates.key, strict=True)
            }
            assert set(versions) == changed_rows
        for partition, log in logs.items():
            assert len(log) - 1 - ends[partition] < blocks  # only an open span is left out


@settings(max_examples=10)
@given(append_times, st.integers(1, 6), st.sampled_from([150, 1000, HOUR]))
def test_stamps_grow_from_span_to_span_and_never_precede_a_block_they_cover(
    times: list[int], blocks: int, ms: int
) -> None:
    logs = arrived(list(feed_events(20)), PLAN, times, batch=1)
    with _folder() as folder:
        ground = _ground(Path(folder), blocks, ms)
        ground.run(logs, PLAN)
        for partition, log in logs.items():
            records = [r for r in ground.records() if r.partition == partition]
            stamps = [record.appended_at for record in records]
            assert stamps == sorted(set(stamps))
            for record in records:
                latest = [max(a.append_time for a in log[: n + 1]) for n in range(len(log))]
                assert record.appended_at >= latest[record.last]
                covered = range(record.first, record.last + 1)
                assert len({n // blocks for n in covered}) == 1
                assert len({latest[n] // ms for n in covered}) == 1


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(1, 9), st.lists(st.integers(0, 20), max_size=3), st.booleans())
def test_any_steps_and_any_restarts_write_the_same_bytes(
    data: st.DataObject, step: int, stops: list[int], forgets: bool
) -> None:
    logs = arrived(list(feed_events(20)), PLAN, [EARLY + n * 7 * HOUR for n in range(50)], batch=2)
    with _folder() as one, _folder() as other:
        whole, parts = _ground(Path(one)), _ground(Path(other))
        whole.run(logs, PLAN)
        for stop in sorted(stops):
            parts.run(logs, PLAN, step=data.draw(st.integers(1, 9)), upto=stop)
            if forgets:
                shutil.rmtree(parts.state)
        parts.run(logs, PLAN, step=step)
        assert parts.content() == whole.content()


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_dies_at_any_write_leaves_an_archive_that_ends_up_the_same(
    place: Path, logs: dict[int, Log], after: bool, forgets: bool
) -> None:
    whole = _ground(place / "whole")
    whole.run(logs, PLAN)
    died = 0
    for _ in _deaths(place / "mortal", logs, after, forgets):
        died += 1
    mortal = _ground(place / "mortal")
    mortal.run(logs, PLAN)
    assert died > 20
    assert mortal.content() == whole.content()


def _deaths(folder: Path, logs: dict[int, Log], after: bool, forgets: bool) -> Iterator[int]:
    """Run until dead, again and again, each time living for a few writes more or less."""
    lives = 0
    while True:
        ground = _ground(folder)
        lives += 1
        # A life that ends before its first span is complete gets nowhere: so lives differ.
        try:
            ground.run(logs, PLAN, folder=Mortal(ground.folder, 1 + lives % 23, after))
        except Crash:
            yield lives
        else:
            return
        if forgets:
            shutil.rmtree(ground.state)


def test_own_rows_that_fell_behind_the_archive_catch_up_from_the_log(
    ground: Ground, logs: dict[int, Log], place: Path
) -> None:
    ground.run(logs, PLAN, upto=8)
    shutil.copytree(ground.state, place / "older")
    ground.run(logs, PLAN)
    expected = ground.content()
    shutil.rmtree(ground.state)
    (place / "older").rename(ground.state)
    archive = ground.archive(0, PLAN)
    assert archive.resume(0) < max(r.last for r in ground.records() if r.partition == 0)
    archive.close()
    ground.run(logs, PLAN)
    assert ground.content() == expected


def test_own_rows_that_fell_behind_what_the_log_still_has_are_made_again_from_the_archive(
    ground: Ground, logs: dict[int, Log], place: Path
) -> None:
    ground.run(logs, PLAN, upto=4)
    shutil.copytree(ground.state, place / "older")
    ground.run(logs, PLAN, upto=14)
    shutil.rmtree(ground.state)
    (place / "older").rename(ground.state)
    archive = ground.archive(0, PLAN)
    last = max(r.last for r in ground.records() if r.partition == 0)
    assert archive.resume(last - 1) == last + 1
    archive.close()


def test_an_archive_that_was_deleted_is_written_again_from_the_beginning(
    ground: Ground, logs: dict[int, Log]
) -> None:
    ground.run(logs, PLAN)
    expected = ground.content()
    shutil.rmtree(ground.root)
    ground.run(logs, PLAN)
    assert ground.content() == expected


def test_blocks_that_are_gone_before_they_were_archived_refuse_the_start(
    ground: Ground, logs: dict[int, Log]
) -> None:
    fresh = ground.archive(0, PLAN)
    with pytest.raises(Refused, match=r"blocks 0\.\.4 of updates partition 0 were deleted"):
        fresh.resume(5)
    fresh.close()
    ground.run(logs, PLAN)
    later = ground.archive(0, PLAN)
    last = max(r.last for r in ground.records() if r.partition == 0)
    with pytest.raises(Refused, match=rf"blocks {last + 1}\.\.{last + 3} of"):
        later.resume(last + 4)
    later.close()


def test_a_new_life_of_the_log_goes_on_from_the_rows_of_the_old_one(
    ground: Ground, logs: dict[int, Log]
) -> None:
    again = arrived(list(feed_events(36, start=36)), PLAN, batch=2)
    ground.run(logs, PLAN)
    before = max(r.appended_at for r in ground.records() if r.partition == 0)
    for forgets in (False, True):
        if forgets:
            shutil.rmtree(ground.state)
        archive = ground.archive(0, PLAN, generation=2)
        offset = archive.resume(0)
        archive.step(again[0][offset:])
        archive.close()
    records = [r for r in ground.records() if (r.partition, r.generation) == (0, 2)]
    assert records[0].first == 0
    assert min(r.appended_at for r in records) > before


def test_a_change_of_plan_ends_a_span_and_old_and_new_files_read_as_one(
    ground: Ground, logs: dict[int, Log]
) -> None:
    wider = arrived(list(feed_events(36)), WIDER, batch=2)
    at = 7  # inside a span of three
    mixed = {0: logs[0][:at] + [Arrived(a.offset, a.append_time, a.block) for a in wider[0][at:]]}
    ground.run(mixed, PLAN)
    records = ground.records()
    assert [r.last for r in records if r.first < at < r.last + 1] == []
    assert {r.plan for r in records if r.last < at} == {PLAN.version}
    assert {r.plan for r in records if r.first >= at} == {WIDER.version}
    for view in WIDER.views:
        table = ds.dataset(ground.root / FOLDER / view.name, partitioning="hive").to_table()
        own = {view.entity.join_key, APPENDED_AT, UPDATED_AT, ROW_MARKER, "day"}
        fields = EntityTable(WIDER, view.entity, Strings()).tables[view.name].fields
        assert set(table.column_names) == own | set(fields)


def test_a_column_that_changes_its_type_is_refused(ground: Ground, logs: dict[int, Log]) -> None:
    ground.run(logs, PLAN)
    text = LatestField(name="degree", path="attributes.degree", dtype="Int64")
    other = plan(latest=(*PLAN.latest[:2], changed(USER_PROFILE, fields=(text,))))
    archive = ground.archive(0, other)
    with pytest.raises(Refused, match="'degree' was archived as string and is declared int64 now"):
        archive.resume(0)
    archive.close()


def test_finished_days_are_joined_into_one_file_each_without_losing_a_version(
    place: Path, logs: dict[int, Log]
) -> None:
    once, daily = _ground(place / "once", ms=1000 * DAY), _ground(place / "daily", ms=5 * HOUR)
    slow = {p: [a._replace(append_time=EARLY) for a in log] for p, log in logs.items()}
    once.run(slow, PLAN)
    daily.run(logs, PLAN)
    names = [p.parent.name for p in (daily.root / FOLDER / "user_activity").rglob("*.parquet")]
    days = sorted(set(names))
    assert len(days) > 3
    for day in days[:-1]:
        assert names.count(day) <= len(logs), day  # one of each partition
    columns = ["user_id", ROW_MARKER]
    rows = pq.read_table(daily.root / FOLDER / "user_activity", columns=columns).to_pylist()
    seen = {tuple(row.values()) for row in rows}
    assert len(seen) == len(rows)
    assert len([r for r in rows if r[ROW_MARKER] is None]) == 7  # one before the first, each user


def test_two_workers_on_one_folder_of_own_rows_do_not_share_it(place: Path) -> None:
    first = LocalRows(place / "0.sqlite")
    with pytest.raises(Unavailable, match="another archive worker may have it open"):
        LocalRows(place / "0.sqlite")
    first.close()
