"""What `headrace replay` refuses before it reads anything, and where it finds its events."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.replaying.run import Asked, run
from features.errors import BadInput, Refused
from streaming.event_file import write_events
from tests.browsing import browsing


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"state": Path("x"), "into_redis": True}, "exclude each other"),
        ({"into_redis": True, "check_state": True}, "against themselves"),
        ({"resume": True}, "--resume goes on where rows were kept"),
        ({"check_rank": True}, "--model FOLDER"),
    ],
)
def test_what_contradicts_itself_is_refused(asked: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        run(Asked(source=None, repo=Path("nowhere"), **asked), lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--step", "5x"], "a whole number and one of s, m, h, d"),
        (["--step", "0m"], "a whole number and one of s, m, h, d"),
        (["--step", "5m", "--speed", "2"], "exclude each other"),
    ],
)
def test_a_pace_that_is_none_is_refused(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["replay", *arguments])
    assert done.exit_code == 1
    assert says in " ".join(done.output.split())


def test_a_plain_archive_that_holds_no_events_says_how_to_make_one(
    applied_repo: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="headrace archive log"):
        run(Asked(source=str(tmp_path), repo=applied_repo), lambda *_: None)
    with pytest.raises(BadInput, match="headrace adapt"):
        run(Asked(source=str(tmp_path / "no.jsonl"), repo=applied_repo), lambda *_: None)
    with pytest.raises(BadInput, match="FIRST-STOP"):
        run(Asked(source="kafka:events:abc", repo=applied_repo), lambda *_: None)


def test_a_file_is_replayed_and_gone_on_with_when_asked(applied_repo: Path, tmp_path: Path) -> None:
    file, state = tmp_path / "events.jsonl", tmp_path / "rows.sqlite"
    write_events(file, browsing(30))
    alone = run(Asked(source=str(file), repo=applied_repo), lambda *_: None)
    kept = run(Asked(source=str(file), repo=applied_repo, state=state), lambda *_: None)
    assert alone.outcome.digest == kept.outcome.digest
    assert alone.outcome.rows == kept.outcome.rows > 60
    with pytest.raises(Refused, match="--resume"):
        run(Asked(source=str(file), repo=applied_repo, state=state), lambda *_: None)
    again = run(
        Asked(source=str(file), repo=applied_repo, state=state, resume=True), lambda *_: None
    )
    assert again.outcome.counts["accepted"] == 0
    assert again.outcome.digest == kept.outcome.digest
