"""DuckDB reads archived logs, and counts what pyarrow and pandas count."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from features.events import dump_event
from streaming.archive_folder import ArrowFolder
from streaming.logs.files import LogFiles
from streaming.logs.schema import EVENT_LOG, RANKING_LOG, LogKind
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.records import Record
from tests.buckets import rankings
from tests.records import good_events

HOUR_MS = 3_600_000
BASE_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
COUNTS = {0: 300, 1: 170}
"""Records of each partition of `events`."""
LOG = """read_parquet('{0}/logs/{1}/**/*.parquet', hive_partitioning = true, filename = true)"""
PLACED = """SELECT *, split_part(parse_filename(filename), '-', 1)::int AS life,
    split_part(parse_filename(filename), '-', 2)::int AS "partition" FROM """
ONCE = """SELECT DISTINCT ON (life, "partition", "offset") * FROM """


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of two partitions of events and one of rankings, archived with a restart between
    any two hundred records, past hours joined."""
    folder = tmp_path_factory.mktemp("archive")
    values = [dump_event(event) for event in good_events(3, 300)]
    for partition, count in COUNTS.items():
        log = [Record(partition, n, b"k", values[n], BASE_MS + 40_000 * n) for n in range(count)]
        log[7] = log[7]._replace(value=b"nonsense")
        for _ in range(2):
            archived(folder, EVENT_LOG, log[:200])
            archived(folder, EVENT_LOG, log)
    archived(folder, RANKING_LOG, rankings(BASE_MS, 90))
    return folder


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def archived(folder: Path, kind: LogKind, log: list[Record]) -> None:
    one = PartitionLog(
        log[0].partition, 1, kind, LogFiles(ArrowFolder(str(folder))), CutSettings(10, HOUR_MS)
    )
    one.take(log[one.resume(0) :])
    one.flush()
    one.compact()


@pytest.mark.parametrize("kind", ["events", "rankings"])
def test_days_and_hours_are_partitions_and_hold_what_others_count(
    archive: Path, duck: duckdb.DuckDBPyConnection, kind: str
) -> None:
    log = LOG.format(archive, kind)
    found = duck.sql(
        f"SELECT day::text, hour::int, count(*) FROM {log} GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    dataset = ds.dataset(archive / "logs" / kind, partitioning="hive")
    table = dataset.to_table(columns=["day", "hour"])
    groups = table.group_by(["day", "hour"]).aggregate([([], "count_all")]).to_pylist()
    assert found == sorted((g["day"], int(g["hour"]), g["count_all"]) for g in groups)
    assert len(found) > 1
    frame = pd.read_parquet(archive / "logs" / kind, columns=["offset"])
    assert sum(count for *_, count in found) == len(frame)
    day, hour, count = found[1]
    where = f"day = '{day}' AND hour = {hour}"
    assert duck.sql(f"SELECT count(*) FROM {log} WHERE {where}").fetchall() == [(count,)]
    plan = duck.sql(f"EXPLAIN ANALYZE SELECT count(*) FROM {log} WHERE {where}").fetchall()
    chosen = len(list((archive / "logs" / kind / f"day={day}" / f"hour={hour:02d}").iterdir()))
    every = len(list((archive / "logs" / kind).rglob("*.parquet")))
    assert f"Scanning Files: {chosen}/{every}" in str(plan)


def test_every_record_is_there_once_by_partition_and_offset(
    archive: Path, duck: duckdb.DuckDBPyConnection
) -> None:
    log = LOG.format(archive, "events")
    found = duck.sql(
        'SELECT "partition", count(*), count(DISTINCT "offset"), min("offset"), max("offset") '
        f"FROM ({PLACED}{log}) GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert found == [(p, n, n, 0, n - 1) for p, n in COUNTS.items()]
    assert duck.sql(f"SELECT count(*) FROM {log} WHERE fault IS NOT NULL").fetchall() == [(2,)]


def test_what_events_say_is_what_pyarrow_reads(
    archive: Path, duck: duckdb.DuckDBPyConnection
) -> None:
    log = LOG.format(archive, "events")
    found = duck.sql(
        "SELECT type, count(*), sum(len(items))::int, max(epoch_ms(event_time)), "
        f"sum(octet_length(value))::int FROM {log} GROUP BY type ORDER BY type NULLS FIRST"
    ).fetchall()
    table = ds.dataset(archive / "logs" / "events", partitioning="hive").to_table()
    expected = []
    for kind in (None, *sorted(k for k in pc.unique(table["type"]).to_pylist() if k)):
        chosen = pc.is_null(table["type"]) if kind is None else pc.equal(table["type"], kind)
        rows = table.filter(chosen)
        newest = pc.max(rows["event_time"]).as_py()
        sizes = (
            pc.sum(pc.list_value_length(rows["items"])).as_py(),
            newest and round(newest.timestamp() * 1000),
            pc.sum(pc.binary_length(rows["value"])).as_py(),
        )
        expected.append((kind, len(rows), *sizes))
    assert found == expected
    assert len(found) > 4


def test_records_that_two_files_hold_are_read_once_when_they_are_asked_for_so(
    archive: Path, duck: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    """As a compaction leaves them for a moment, or when it was cut short."""
    again = tmp_path / "logs" / "events" / "day=2023-11-14" / "hour=22"
    again.mkdir(parents=True)
    paths = sorted((archive / "logs" / "events" / "day=2023-11-14" / "hour=22").iterdir())
    files = LogFiles(ArrowFolder(str(archive)))
    with files.open(files.all("events")[0]) as file:
        part = file.read().slice(0, 10)
    for path in paths:
        (again / path.name).write_bytes(path.read_bytes())
    ArrowFolder(str(tmp_path)).put_table(
        "logs/events/day=2023-11-14/hour=22/000001-0000-0000000000000000-0000000000000009.parquet",
        part.schema, part.to_batches(), {},
    )  # fmt: skip
    log = LOG.format(tmp_path, "events")
    twice = duck.sql(f'SELECT count(*) - count(DISTINCT (life, "partition", "offset")) '
                     f"FROM ({PLACED}{log})").fetchall()  # fmt: skip
    assert twice == [(10,)]
    once = duck.sql(f"SELECT count(*) FROM ({ONCE}({PLACED}{log}))").fetchall()
    whole = duck.sql(f"SELECT count(*) FROM {LOG.format(archive, 'events')} "
                     "WHERE day = '2023-11-14' AND hour = 22").fetchall()  # fmt: skip
    assert once == whole
