"""Archived logs: each record once whatever crashes, small files joined, and readable by others."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import dump_event, record_key
from streaming.archive_files import SpanName
from streaming.archive_folder import ArrowFolder
from streaming.logs.files import LogFiles, between, parts_of
from streaming.logs.schema import BLOCK_LOG, EVENT_LOG, EVENTS, PARSED_KEY
from streaming.logs.survey import Gap, survey
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.records import Record
from streaming.replays.chunk import COLUMNS
from streaming.replays.recorded import ArchivedEvents, Place
from tests.pipeline import routed
from tests.records import good_events
from tests.serving import SERVED_PLAN

HOUR_MS = 3_600_000
BASE_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
CUT = CutSettings(records=10, ms=60_000)
VALUES = [dump_event(event) for event in good_events(3, 120)]


def records(count: int, step_ms: int = 20_000) -> list[Record]:
    """Good events, some seconds of append time apart."""
    return [Record(0, n, b"k", VALUES[n % 120], BASE_MS + step_ms * n) for n in range(count)]


def log_in(folder: Path, cut: CutSettings = CUT, generation: int = 1) -> PartitionLog:
    return PartitionLog(0, generation, EVENT_LOG, LogFiles(ArrowFolder(str(folder))), cut)


def held(folder: Path) -> list[tuple[int, bytes]]:
    """Offset and bytes of what a reader of the archive gets."""
    files = LogFiles(ArrowFolder(str(folder)))
    found = []
    for part in parts_of(files.all("events")):
        with files.open(part.file) as file:
            rows = between(file.read(), part.first, part.last)
        offsets, values = (rows.column(name).to_pylist() for name in ("offset", "value"))
        found += list(zip(offsets, values, strict=True))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*.parquet") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=8), st.booleans())
def test_a_crash_at_any_record_leaves_the_files_of_an_undisturbed_run(
    tmp_path_factory: pytest.TempPathFactory, crashes: list[int], forced: bool
) -> None:
    log, calm, shaken = (
        records(75, 7_000),
        *(tmp_path_factory.mktemp(n) for n in ("calm", "shaken")),
    )
    one = log_in(calm)
    one.take(log[one.resume(0) :])
    one.flush()
    at = 0
    for more in crashes:
        one = log_in(shaken)
        at = one.resume(0)
        one.take(log[at : at + more])
        if forced:
            one.flush()
        one.close()
    one = log_in(shaken)
    one.take(log[one.resume(0) :])
    one.flush()
    assert held(shaken) == held(calm) == [(r.offset, r.value) for r in log]
    if not forced:
        assert contents(shaken) == contents(calm)


def test_files_stand_by_day_and_hour_of_append_time_and_none_spans_two(tmp_path: Path) -> None:
    one = log_in(tmp_path, CutSettings(1000, 10 * HOUR_MS))
    one.resume(0)
    one.take(records(400))
    one.flush()
    hours = Counter(path.parent.name for path in tmp_path.rglob("*.parquet"))
    assert hours == {"hour=22": 1, "hour=23": 1, "hour=00": 1}
    for path in tmp_path.rglob("*.parquet"):
        times = pq.read_table(path).column("append_time").cast(pa.int64()).to_pylist()
        assert len({time // HOUR_MS for time in times}) == 1


def archived(folder: Path, count: int = 400) -> list[Record]:
    log = records(count)
    one = log_in(folder)
    one.resume(0)
    one.take(log)
    one.flush()
    return log


def test_compaction_joins_past_hours_and_changes_nothing_that_is_read(tmp_path: Path) -> None:
    archived(tmp_path)
    before, count = held(tmp_path), len(contents(tmp_path))
    one = log_in(tmp_path)
    one.resume(0)
    one.take(records(401)[400:])
    one.compact()
    assert held(tmp_path) == before
    per_hour = Counter(Path(path).parent.name for path in contents(tmp_path))
    assert (per_hour["hour=22"], per_hour["hour=23"]) == (1, 1)
    assert per_hour["hour=00"] > 1
    assert one.counts["compacted_files"] == count - per_hour["hour=00"]
    once = contents(tmp_path)
    one.compact()
    assert contents(tmp_path) == once


@pytest.mark.parametrize("left", [0, 3, 17])
def test_a_compaction_that_was_cut_short_is_read_once_and_goes_on(
    tmp_path: Path, left: int
) -> None:
    log = archived(tmp_path)
    parts = {path: content for path, content in contents(tmp_path).items() if "hour=22" in path}
    files = LogFiles(ArrowFolder(str(tmp_path)))
    files.compact(EVENT_LOG, 1, 0, BASE_MS + 3 * HOUR_MS)
    for path, content in list(parts.items())[left:]:
        (tmp_path / path).write_bytes(content)
    assert held(tmp_path) == [(r.offset, r.value) for r in log]
    (seen,) = survey(files)
    assert seen.overlaps > 0
    assert not seen.gaps
    files.compact(EVENT_LOG, 1, 0, BASE_MS + 3 * HOUR_MS)
    (seen,) = survey(files)
    assert (seen.overlaps, seen.records) == (0, len(log))


def test_the_survey_tells_of_gaps_faults_and_ids_that_came_again(tmp_path: Path) -> None:
    log = records(60)
    log[5] = log[5]._replace(value=b"nonsense")
    log[40] = log[40]._replace(value=log[12].value)
    one = log_in(tmp_path)
    one.resume(0)
    one.take(log[:20])
    one.flush()
    one = log_in(tmp_path)
    assert one.resume(30) == 30  # 20..29 were deleted by the broker
    one.take(log[30:])
    one.flush()
    (seen,) = survey(LogFiles(ArrowFolder(str(tmp_path))))
    assert (seen.first, seen.last, seen.records) == (0, 59, 50)
    assert seen.gaps == (Gap(20, 29),)
    assert (seen.faults, seen.repeats, seen.overlaps) == (1, 1, 0)
    assert (seen.from_ms, seen.to_ms) == (BASE_MS, log[-1].append_time)


def test_what_a_broker_leaves_out_between_two_records_is_no_gap(tmp_path: Path) -> None:
    log = [record for record in records(60) if record.offset % 7]
    one = log_in(tmp_path)
    one.resume(0)
    one.take(log)
    one.flush()
    (seen,) = survey(LogFiles(ArrowFolder(str(tmp_path))))
    assert (seen.gaps, seen.records) == ((), len(log))


def test_a_new_life_of_a_topic_begins_at_its_own_offsets(tmp_path: Path) -> None:
    archived(tmp_path, 25)
    second = log_in(tmp_path, generation=2)
    assert second.resume(0) == 0
    second.take(records(15))
    second.flush()
    found = list(survey(LogFiles(ArrowFolder(str(tmp_path)))))
    assert [(one.generation, one.records) for one in found] == [(1, 25), (2, 15)]
    events = ArchivedEvents(LogFiles(ArrowFolder(str(tmp_path))), "here")
    assert events.places() == [Place(1, 0), Place(2, 0)]
    assert events.count() == 40


def test_others_read_the_columns_that_events_are_made_of(tmp_path: Path) -> None:
    archived(tmp_path, 60)
    frame = pd.read_parquet(tmp_path / "logs" / "events")
    events = good_events(3, 120)[:60]
    by_offset = frame.sort_values("offset")
    assert by_offset["event_id"].tolist() == [event.event_id for event in events]
    assert by_offset["type"].tolist() == [event.type for event in events]
    assert set(frame["day"]) == {"2023-11-14"}
    shown = by_offset[by_offset["type"] == "impression"].iloc[0]
    event = events[int(shown["offset"])]
    assert event.type == "impression"
    assert [item["item_id"] for item in shown["items"]] == [item.item_id for item in event.items]
    assert record_key(event).decode() == shown["user_id"]


def test_columns_of_another_version_are_made_again_from_the_bytes(tmp_path: Path) -> None:
    archived(tmp_path, 30)
    events = ArchivedEvents(LogFiles(ArrowFolder(str(tmp_path))), "here")

    def read() -> list[dict[str, object]]:
        tables = events.rows(Place(1, 0), 5, 25, COLUMNS)
        return [row for table in tables for row in table.to_pylist()]

    expected = read()
    assert [row["offset"] for row in expected] == list(range(5, 25))
    for path in tmp_path.rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        spoilt = table.set_column(
            table.schema.get_field_index("identity"), "identity", pa.nulls(len(table), pa.int64())
        )
        pq.write_table(spoilt.replace_schema_metadata({PARSED_KEY: b"0"}), path)
    assert read() == expected


def test_of_updates_the_headers_are_kept(tmp_path: Path) -> None:
    blocks = [
        out for out in routed(good_events(1, 40), SERVED_PLAN, batch=10) if out.partition == 0
    ]
    log = [Record(0, n, None, out.value, BASE_MS) for n, out in enumerate(blocks)]
    files = LogFiles(ArrowFolder(str(tmp_path)))
    one = PartitionLog(0, 1, BLOCK_LOG, files, CUT)
    one.resume(0)
    one.take(log)
    one.flush()
    (file,) = files.all("updates")
    assert file.name == SpanName(1, 0, 0, len(blocks) - 1)
    rows = files.open(file).read().to_pylist()
    assert [row["plan"] for row in rows] == [SERVED_PLAN.version] * len(blocks)
    spans = [span for row in rows for span in row["spans"]]
    assert spans[-1]["last"] <= 39
    assert [span["sequence"] for span in spans] == list(range(len(blocks)))
    assert EVENTS.names[:4] == ["offset", "append_time", "key", "value"]


@pytest.mark.parametrize("engine", ["pandas", "pyarrow"])
def test_others_read_days_and_hours_as_partitions(engine: str, tmp_path: Path) -> None:
    some = records(400)
    log = log_in(tmp_path)
    log.resume(0)
    log.take(some)
    log.flush()
    folder = tmp_path / "logs" / "events"
    if engine == "pandas":
        every = pd.read_parquet(folder)
        first = pd.read_parquet(folder, filters=[("hour", "==", BASE_MS // HOUR_MS % 24)])
    else:
        dataset = ds.dataset(folder, partitioning="hive")
        every = dataset.to_table().to_pandas()
        chosen = ds.field("hour") == BASE_MS // HOUR_MS % 24
        first = dataset.to_table(filter=chosen).to_pandas()
    assert sorted(every["offset"]) == [record.offset for record in some]
    within = [record.offset for record in some if record.append_time < BASE_MS + HOUR_MS]
    assert sorted(first["offset"]) == within
    assert 0 < len(within) < len(some)
    assert set(every["day"].astype(str)) == {"2023-11-14", "2023-11-15"}
