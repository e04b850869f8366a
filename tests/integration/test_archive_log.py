"""Logs archived by a real process: killed and started again, each record once, and replayed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.processes import Program, running
from features.plan import FeatureRepo
from streaming.archive_folder import ArrowFolder
from streaming.kafka import Broker
from streaming.logs.files import LogFiles
from streaming.logs.survey import Survey, survey
from streaming.replays.recorded import ArchivedEvents, TopicEvents
from tests.pipeline import final_rows
from tests.recordings import replayed_rows
from tests.records import good_events
from tests.waiting import until
from tests.workers import CAUGHT_UP_S, Stream, stream_of_its_own


@pytest.fixture
def archive(applied_repo: Path) -> Iterator[Path]:
    """Where the applied repository's logs go, empty before and after."""
    folder = applied_repo / "archive"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def made(empty_valkey: str, applied_repo: Path, tmp_path: Path) -> Iterator[Stream]:
    with stream_of_its_own(empty_valkey, applied_repo, tmp_path) as one:
        yield one


def archiver(made: Stream) -> Program:
    """`headrace archive log` over a stream; a file a few records long."""
    program = made._program("archive")  # noqa: SLF001 - its settings, for a command of ours
    environment = {**program.environment, "HEADRACE_ARCHIVE_LOG_RECORDS": "4"}
    return replace(program, command=[*program.command, "log"], environment=environment)


def surveyed(archive: Path, kind: str) -> list[Survey]:
    return [one for one in survey(LogFiles(ArrowFolder(str(archive)))) if one.kind == kind]


def test_an_archiver_that_is_killed_archives_every_record_once_and_replay_makes_its_rows(
    made: Stream, archive: Path, applied_repo: Path, tmp_path: Path
) -> None:
    plan = FeatureRepo(applied_repo).open().read()
    events = good_events(5, 120)
    program = archiver(made)

    def archived() -> int:
        return sum(one.records for one in surveyed(archive, "events"))

    made.start("route", "aggregate")
    made.send(events[:60])
    with running(program, tmp_path / "first.log", 180):
        until(lambda: archived() > 20, CAUGHT_UP_S, "for some files", pause_s=0.1)
    made.send(events[60:])
    made.wait_for(final_rows(events, plan))
    for _ in range(2):
        subprocess.run(
            [*program.command, "--once"],
            env={**os.environ, **program.environment},
            timeout=120,
            check=True,
        )
    found = surveyed(archive, "events")
    assert archived() == 120
    assert not any(one.gaps or one.overlaps or one.faults or one.repeats for one in found)
    assert surveyed(archive, "updates")
    recorded = ArchivedEvents(LogFiles(ArrowFolder(str(archive))), "archive")
    assert replayed_rows(plan, recorded) == made.rows()
    topic = TopicEvents(Broker(made.broker, {}), made.events, 1)
    assert replayed_rows(plan, topic) == made.rows()
