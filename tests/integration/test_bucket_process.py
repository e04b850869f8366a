"""Archivers as processes over a bucket that the feature repository names."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.feature_store import SETTINGS, applying, write_settings
from deploy.processes import running
from features.codec import updated_at_field
from features.plan import FeatureRepo
from streaming.archive_folder import ArrowFolder
from streaming.kafka import Broker
from streaming.logs.files import LogFiles
from streaming.logs.survey import survey
from streaming.records import Outgoing
from tests.archives import newest_versions, view_of
from tests.buckets import Bucket, headrace, rankings
from tests.pipeline import final_rows
from tests.records import good_events
from tests.waiting import until
from tests.workers import CAUGHT_UP_S, PARTITIONS, Stream, stream_of_its_own


@pytest.fixture
def bucket_repo(bucket: Bucket, applied_repo: Path, valkey: str, tmp_path: Path) -> Path:
    """A copy of the feature repository whose archive is in the bucket, applied."""
    repo = tmp_path / "repo"
    shutil.copytree(applied_repo, repo, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    stored = repo / "stored.py"
    declared = stored.read_text().replace('Path(__file__).parent / "archive"', f'"{bucket.uri}"')
    stored.write_text(declared.replace("from pathlib import Path\n\n", ""))
    port = urlsplit(valkey).port
    assert port is not None
    write_settings(repo, repo / SETTINGS, port)
    with applying(repo, repo / SETTINGS, tmp_path / "apply.log") as wait:
        wait()
    return repo


@pytest.fixture
def made(empty_valkey: str, bucket_repo: Path, tmp_path: Path) -> Iterator[Stream]:
    with stream_of_its_own(empty_valkey, bucket_repo, tmp_path) as one:
        one.settings = {
            "HEADRACE_ARCHIVE_STATE": str(tmp_path / "state"),
            "HEADRACE_ARCHIVE_SPAN_BLOCKS": "1",
            "HEADRACE_ARCHIVE_LOG_RECORDS": "4",
            "HEADRACE_RANKINGS_TOPIC": f"rankings-{one.unique}",
        }
        yield one


def test_a_repository_may_name_a_bucket_and_archivers_that_are_killed_fill_it_once(
    made: Stream, bucket: Bucket, bucket_repo: Path, tmp_path: Path
) -> None:
    plan = FeatureRepo(bucket_repo).open().read()
    some = good_events(5, 120)
    made.start("route", "aggregate")
    made.send(some[:60])
    log_archiver = made._program("archive")  # noqa: SLF001 - its settings, for a command of ours
    log_archiver = replace(log_archiver, command=[*log_archiver.command, "log"])

    def archived() -> Counter[str]:
        counts: Counter[str] = Counter()
        for one in survey(LogFiles(ArrowFolder(bucket.uri))):
            counts[one.kind] += one.records
        return counts

    with running(log_archiver, tmp_path / "log.log", 180) as child:
        until(lambda: archived()["events"] > 20, CAUGHT_UP_S, "for some files", pause_s=0.1)
        os.killpg(child.pid, signal.SIGKILL)
    made.start("archive")
    versions = f"row_versions/{plan.views[0].name}"
    until(lambda: ArrowFolder(bucket.uri).list(versions)[3:], CAUGHT_UP_S, "for row versions")
    made.kill("archive")
    made.send(some[60:])
    made.wait_for(final_rows(some, plan))
    sink = Broker(made.broker, {}).sink()
    for record in rankings(0, 30):
        sink.send(Outgoing(made.settings["HEADRACE_RANKINGS_TOPIC"], b"u", record.value or b""))
    sink.flush()
    sink.close()
    environment = made.environment()
    for _ in range(2):
        headrace("archive", "log", "--once", environment=environment)
        headrace("archive", "--once", environment=environment)
    assert (archived()["events"], archived()["rankings"]) == (120, 30)
    found = list(survey(LogFiles(ArrowFolder(bucket.uri))))
    assert not any(one.gaps or one.overlaps or one.faults or one.repeats for one in found)
    assert "rankings" in headrace("archive", "show", environment=environment)
    report = str(tmp_path / "report")
    headrace("replay", "--check-state", "--report", report, environment=environment)
    expected = {
        (view.name, key): view_of(row, view.name, plan)
        for key, row in final_rows(some, plan).items()
        for view in plan.views
        if updated_at_field(view.name) in row
    }
    newest = newest_versions(bucket.uri, plan, PARTITIONS)
    assert {(v, k): view_of(row, v, plan) for (v, k), row in newest.items()} == expected
