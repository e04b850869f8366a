"""The archiver as a process: killed, started again, and told to stop at the end of the log."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.codec import updated_at_field
from features.entities import Hash
from features.plan import FeatureRepo
from features.spec import Plan
from tests.archives import newest_versions, view_of
from tests.pipeline import final_rows
from tests.records import good_events
from tests.waiting import until
from tests.workers import CAUGHT_UP_S, PARTITIONS, Stream, stream_of_its_own


@pytest.fixture
def archive(applied_repo: Path) -> Iterator[Path]:
    """Where the applied repository's row versions go, empty before and after."""
    folder = applied_repo / "archive"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def made(empty_valkey: str, applied_repo: Path, tmp_path: Path) -> Iterator[Stream]:
    with stream_of_its_own(empty_valkey, applied_repo, tmp_path) as one:
        one.settings = {
            "HEADRACE_ARCHIVE_STATE": str(tmp_path / "state"),
            "HEADRACE_ARCHIVE_SPAN_BLOCKS": "1",
        }
        yield one


def _by_view(rows: dict[bytes, Hash], plan: Plan) -> dict[tuple[str, bytes], Hash]:
    return {
        (view.name, key): view_of(row, view.name, plan)
        for key, row in rows.items()
        for view in plan.views
        if updated_at_field(view.name) in row
    }


def test_an_archiver_that_is_killed_and_then_loses_its_rows_ends_up_with_every_row(
    made: Stream, archive: Path, applied_repo: Path, tmp_path: Path
) -> None:
    plan = FeatureRepo(applied_repo).open().read()
    events = good_events(5, 90)

    def newest() -> dict[tuple[str, bytes], Hash]:
        found = newest_versions(archive, plan, PARTITIONS)
        return {(view, key): view_of(row, view, plan) for (view, key), row in found.items()}

    made.start("route", "archive")
    made.send(events[:30])
    until(newest, CAUGHT_UP_S, "for versions", pause_s=0.1)
    made.kill("archive")
    made.send(events[30:60])
    made.start("archive")
    some = len(newest())
    until(lambda: len(newest()) > some, CAUGHT_UP_S, "for more versions", pause_s=0.1)
    made.kill("archive")
    shutil.rmtree(tmp_path / "state")
    made.send(events[60:])
    expected = _by_view(final_rows(events, plan), plan)

    def once() -> None:
        """Archive what there is, and leave."""
        program = made._program("archive")  # noqa: SLF001 - its settings, run to its end
        subprocess.run(
            [*program.command, "--once"],
            env={**os.environ, **program.environment},
            timeout=120,
            check=True,
        )

    once()
    assert newest() == expected
    files = sorted(archive.rglob("*.*"))
    once()
    assert sorted(archive.rglob("*.*")) == files
