"""Archives in a bucket, over the protocol of S3: the same files as in a folder, whatever dies."""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import boto3
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.replaying.run import Asked, run
from features.errors import HeadraceError, Refused, Unavailable
from features.events import dump_event
from streaming.archive import SpanSettings
from streaming.archive_folder import ArrowFolder, Folder
from streaming.logs.files import LogFiles
from streaming.logs.schema import EVENT_LOG, KINDS, RANKING_LOG, LogKind
from streaming.logs.survey import survey
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.records import Record
from tests.archives import EARLY, Crash, Ground, Mortal, arrived, contents
from tests.buckets import Bucket, headrace, pointing_at, rankings, s3_server
from tests.plans import PLAN
from tests.records import good_events
from tests.stored import feed_events

HOUR_MS = 3_600_000
BASE_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
CUT = CutSettings(records=10, ms=HOUR_MS)
VALUES = [dump_event(event) for event in good_events(3, 120)]


@pytest.fixture(params=["folder", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty archive, on a disk and in a bucket."""
    if request.param == "folder":
        return ArrowFolder(str(tmp_path / "archive"))
    made: Bucket = request.getfixturevalue("bucket")
    return ArrowFolder(made.uri)


def events(partition: int, count: int = 120, step_ms: int = 60_000) -> list[Record]:
    """Good events over some hours of append time."""
    return [
        Record(partition, n, b"k", VALUES[(n + partition) % 120], BASE_MS + step_ms * n)
        for n in range(count)
    ]


def archive(folder: Folder, kind: LogKind, records: Sequence[Record]) -> None:
    """Go on with the log of one partition from where its files end."""
    one = PartitionLog(records[0].partition, 1, kind, LogFiles(folder), CUT)
    one.take(records[one.resume(0) :])
    one.flush()


def archive_all(folder: Folder) -> None:
    """Two partitions of events and one of rankings, with the files of past hours joined."""
    for partition in range(2):
        archive(folder, EVENT_LOG, events(partition))
    archive(folder, RANKING_LOG, rankings(BASE_MS, 120))
    files = LogFiles(folder)
    for one in survey(files):
        files.compact(KINDS[one.kind], one.generation, one.partition, one.to_ms)


@pytest.mark.parametrize("after", [False, True])
def test_an_archiver_of_logs_that_dies_at_any_write_leaves_the_bucket_as_if_it_had_not(
    bucket: Bucket, tmp_path: Path, after: bool
) -> None:
    calm = ArrowFolder(str(tmp_path))
    archive_all(calm)
    deaths = 0
    while True:
        # Lives of different lengths: one that ends at its first write gets nowhere.
        try:
            archive_all(Mortal(ArrowFolder(bucket.uri), 1 + deaths % 5, after))
        except Crash:
            deaths += 1
        else:
            break
    assert deaths > 10
    assert contents(ArrowFolder(bucket.uri)) == contents(calm)
    found = list(survey(LogFiles(ArrowFolder(bucket.uri))))
    assert [(one.kind, one.partition, one.records) for one in found] == [
        ("events", 0, 120), ("events", 1, 120), ("rankings", 0, 120),
    ]  # fmt: skip
    assert not any(one.gaps or one.overlaps or one.faults for one in found)


def test_an_archiver_of_row_versions_that_dies_leaves_the_bucket_as_if_it_had_not(
    bucket: Bucket, tmp_path: Path
) -> None:
    logs = arrived(list(feed_events(12)), PLAN, [EARLY + n * 9 * HOUR_MS for n in range(60)])
    logs = {0: logs[0]}
    cut, plans = SpanSettings(3, 12 * HOUR_MS), {PLAN.version: PLAN}
    calm = Ground(tmp_path / "calm", tmp_path / "calm-state", plans, cut)
    calm.run(logs, PLAN)
    shaken = Ground(tmp_path / "none", tmp_path / "state", plans, cut, bucket.uri)
    deaths = 0
    while True:
        try:
            shaken.run(logs, PLAN, folder=Mortal(shaken.folder, 1 + deaths % 29, deaths % 2 == 0))
        except Crash:
            deaths += 1
            if deaths % 3 == 0:
                shutil.rmtree(shaken.state)
        else:
            break
    assert deaths > 5
    assert shaken.content() == calm.content()
    assert not (tmp_path / "none").exists()


def test_a_file_whose_rows_break_off_is_not_there(folder: Folder) -> None:
    schema = pa.schema([("n", pa.int64())])

    def rows(breaks: bool) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch([pa.array(range(1000))], schema=schema)
        if breaks:
            raise Crash

    with pytest.raises(Crash):
        folder.put_table("logs/one.parquet", schema, rows(True), {})
    assert folder.list("logs") == []
    folder.put_table("logs/one.parquet", schema, rows(False), {"about": "it"})
    with folder.table("logs/one.parquet") as file:
        assert len(file.read()) == 1000
        assert file.schema_arrow.metadata[b"about"] == b"it"


class _Failing(ArrowFolder):
    """An archive of which one file cannot be read for a while."""

    def __init__(self, root: str, path: str) -> None:
        super().__init__(root)
        self._bad = path

    def table(self, path: str, dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        if path == self._bad:
            raise Unavailable("away")
        return super().table(path, dictionary)


def test_a_compaction_whose_parts_cannot_all_be_read_loses_none_of_them(bucket: Bucket) -> None:
    archive(ArrowFolder(bucket.uri), EVENT_LOG, events(0))
    paths = ArrowFolder(bucket.uri).list("logs/events")
    assert len(paths) > 10
    failing = LogFiles(_Failing(bucket.uri, paths[3]))
    with pytest.raises(Unavailable):
        failing.compact(EVENT_LOG, 1, 0, BASE_MS + 24 * HOUR_MS)
    files = LogFiles(ArrowFolder(bucket.uri))
    assert ArrowFolder(bucket.uri).list("logs/events") == paths
    assert files.compact(EVENT_LOG, 1, 0, BASE_MS + 24 * HOUR_MS) == len(paths)
    (seen,) = survey(files)
    assert (seen.records, seen.files, seen.gaps) == (120, 2, ())


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(bucket: Bucket) -> None:
    content = random.Random(1).randbytes(23 << 20)
    folder = ArrowFolder(bucket.uri)
    folder.put("logs/large", content)
    values = pa.record_batch({"value": [content[:12_000_000], content[12_000_000:]]})
    folder.put_table("logs/large.parquet", values.schema, [values], {})
    assert folder.get("logs/large") == content
    with folder.table("logs/large.parquet") as file:
        assert b"".join(file.read().column("value").to_pylist()) == content
    client = boto3.client("s3", endpoint_url=bucket.environment["AWS_ENDPOINT_URL"])
    try:
        for name in ("large", "large.parquet"):
            tag = client.head_object(Bucket=bucket.name, Key=f"home/archive/logs/{name}")["ETag"]
            assert int(tag.strip('"').rpartition("-")[2]) > 1  # an upload in parts tells how many
        assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket.name)
    finally:
        client.close()


def test_others_read_a_bucket_and_find_what_the_folder_holds(
    bucket: Bucket, tmp_path: Path
) -> None:
    archive_all(ArrowFolder(bucket.uri))
    archive_all(ArrowFolder(str(tmp_path)))
    by_pandas = pd.read_parquet(f"{bucket.uri}/logs/events", columns=["offset", "day", "hour"])
    local = pd.read_parquet(tmp_path / "logs/events", columns=["offset", "day", "hour"])
    assert by_pandas.astype(str).equals(local.astype(str))
    log = ds.dataset(f"{bucket.uri}/logs/events", partitioning="hive")
    with duckdb.connect() as duck:
        duck.register("log", log)
        counted = duck.sql("SELECT hour, count(*) FROM log GROUP BY hour ORDER BY hour").fetchall()
    hours = local.groupby("hour", observed=True).size()
    assert counted == sorted((int(str(hour)), count) for hour, count in hours.items())


def test_what_is_archived_in_a_bucket_is_shown_joined_and_replayed(
    bucket: Bucket, tmp_path: Path, applied_repo: Path
) -> None:
    for root in (bucket.uri, str(tmp_path)):
        for partition in range(2):
            archive(ArrowFolder(root), EVENT_LOG, events(partition))
    joined = CliRunner().invoke(app, ["archive", "compact", "--archive", bucket.uri])
    assert joined.exit_code == 0, joined.output
    assert "files were joined" in joined.output
    shown = headrace("archive", "show", "--archive", bucket.uri)
    assert len([line for line in shown.splitlines() if "events" in line]) == 2
    outcomes = [
        run(Asked(source=root, repo=applied_repo), lambda *_: None).outcome
        for root in (bucket.uri, str(tmp_path))
    ]
    assert outcomes[0].digest == outcomes[1].digest
    assert outcomes[0].rows > 10


def refusal(uri: str, kind: type[HeadraceError] = Refused) -> str:
    with pytest.raises(kind) as refused:
        ArrowFolder(uri)
    return str(refused.value)


def test_a_bucket_that_is_not_there_is_refused_and_named_with_its_server(bucket: Bucket) -> None:
    says = refusal("s3://no-such-bucket/archive")
    assert "there is no bucket 'no-such-bucket'" in says
    assert f"{bucket.environment['AWS_ENDPOINT_URL']} (AWS_ENDPOINT_URL)" in says
    assert "`archive=` of events_source" in says
    shown = CliRunner().invoke(app, ["archive", "show", "--archive", "s3://no-such-bucket/archive"])
    assert shown.exit_code == 2
    assert "create it, or mend" in " ".join(shown.output.split())


def test_a_bucket_that_goes_away_is_an_error_with_its_mend(bucket: Bucket) -> None:
    folder = ArrowFolder(f"s3://{bucket.name}")
    folder.put("logs/one", b"1")
    folder.remove("logs/one")
    client = boto3.client("s3", endpoint_url=bucket.environment["AWS_ENDPOINT_URL"])
    try:
        for one in client.list_objects_v2(Bucket=bucket.name).get("Contents", ()):
            client.delete_object(Bucket=bucket.name, Key=one["Key"])
        client.delete_bucket(Bucket=bucket.name)
    finally:
        client.close()
    with pytest.raises(Unavailable, match=r"at logs/two: .*create the bucket, or mend"):
        folder.put("logs/two", b"2")


def test_credentials_that_are_not_known_are_refused_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"}
    with s3_server(tmp_path / "s3.log", judging) as address:
        for name, value in pointing_at(address).items():
            monkeypatch.setenv(name, value)
        says = refusal("s3://some-bucket/archive")
    assert "s3://some-bucket/archive" in says
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in says
    assert "s3:DeleteObject" in says
    assert "not-asked-for" not in says


def test_a_server_that_is_away_is_waited_for_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in pointing_at("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    assert "http://127.0.0.1:9 (AWS_ENDPOINT_URL)" in refusal("s3://any/archive", Unavailable)


@pytest.mark.parametrize("uri", ["s4://bucket/archive", "gs3://x", "s3://"])
def test_what_is_no_place_is_refused_and_not_taken_for_a_folder(uri: str) -> None:
    assert f"the archive {uri!r}" in refusal(uri)
