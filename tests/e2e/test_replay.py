"""Replay against the running stack: what it archived makes its rows, vectors and ranking again."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import redis
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.feature_store import SETTINGS, applying, write_settings
from deploy.local import headrace_command
from deploy.ports import free_port
from deploy.probes import is_healthy
from deploy.processes import Program, spawn, stop, wait_until_ready
from features.codec import STRING_TYPE, entity_key, field_name
from tests.browsing import engagement
from tests.e2e.conftest import Running
from tests.e2e.test_stack import now_ms
from tests.waiting import until

ITEMS = [f"i{number}" for number in range(60)]
SKIPS = 'mean("skip_dwell_mean_all"'
LONG_VIEWS = 'mean("long_view_dwell_mean_all", "long_view", "all", (60_000.0, 3.0))'
NEW = "item_rates__long_view_dwell_mean_all"


def test_an_undisturbed_stack_is_replayed_to_the_bit_and_a_lost_row_is_found(
    running: Running, tmp_path: Path
) -> None:
    for number, user in enumerate(("u1", "u2", "u3", "stranger")):
        running.rank(user_id=user, candidates=ITEMS, limit=20)
        running.stream.send(
            [engagement(f"then-{number}", now_ms(), number, 7 + number, "click", None)]
        )
        running.stream.wait()
        running.rank(user_id=user, candidates=ITEMS, limit=20)
        running.rank(user_id=user, limit=10)

    def archived() -> bool:
        running.headrace("archive", "log", "--once")
        shown = running.headrace("archive", "show")
        kinds = re.findall(r"│ (\w+) ", shown)
        assert "none" in shown
        return {"events", "updates", "rankings"} <= set(kinds)

    until(archived, 60, "for all three logs", pause_s=0.5)
    checks = ("--check-state", "--check-skew", "--check-rank")
    command = ("replay", *checks, "--report", str(tmp_path / "report"))
    said = here(running, *command).output
    found = json.loads((tmp_path / "report" / "replay.json").read_text())
    assert found["passed"], said
    state, skew, rank = (found["checks"][name.removeprefix("--")] for name in checks)
    assert state["rows"] == state["equal"] > 60
    assert (skew["rankings"], skew["values that differ"]) == (12, 0)
    assert (rank["rankings"], rank["same scores"], rank["another order"]) == (12, 12, 0)
    assert (rank["same pages"], rank["other pages"]) == (12, 0)
    tried = here(running, "replay", "--what-if", "--report", str(tmp_path / "what-if"))
    assert tried.exit_code == 0, tried.output
    same = json.loads((tmp_path / "what-if" / "replay.json").read_text())["checks"]["what-if"]
    assert (same["rankings"], same["pages the same"], same["rank-biased overlap"]) == (12, 12, 1)
    assert digest(said) == digest(here(running, "replay").output)
    damaged = damage(running)
    failed = here(running, "replay", "--check-state")
    assert failed.exit_code == 1
    assert "check-state: failed" in failed.output
    assert damaged in failed.output


def test_a_project_filled_from_the_archive_takes_over_while_the_old_one_serves(
    running: Running, tmp_path: Path
) -> None:
    def archive() -> None:
        running.headrace("archive", "log", "--once")

    def checked() -> bool:
        archive()
        done = here(running, *replay, "--check-state")
        return done.exit_code == 0 and "check-state: passed" in done.output

    def features() -> dict[str, float | None]:
        (one,) = running.rank(user_id="u9", candidates=["i7"], features=True).items
        return one.features or {}

    running.stream.send([engagement("long-before", now_ms(), 1, 7, "long_view")])
    running.stream.wait()
    archive()
    copy = filled_beside(running, tmp_path)
    archived = str(running.stack.repo / "archive")
    replay = ("replay", archived, "--repo", str(copy))
    filled = here(running, *replay, "--into-redis")
    assert filled.exit_code == 0, filled.output
    with following(running, copy, tmp_path):
        running.stream.send([engagement("long-after", now_ms(), 2, 7, "long_view")])
        running.stream.wait()
        assert NEW not in features()
        until(checked, 120, "for the new project to hold what the archive makes", pause_s=0.5)
        assert here(running, "switch", str(copy)).exit_code == 0
        until(lambda: NEW in features(), 60, "for the ranker to go over", pause_s=0.1)
        # Three views in a minute by the prior, one of 5 s from the archive, one that came after.
        assert features()[NEW] == (60_000 + 2 * 5_000) / (3 + 2)
        assert here(running, "switch", "--back").exit_code == 0
        until(lambda: NEW not in features(), 60, "for the ranker to go back", pause_s=0.1)


def here(running: Running, *arguments: str) -> Result:
    """A `headrace` command in this process: another one would only import everything again."""
    return CliRunner().invoke(app, arguments, env=running.environment)


def filled_beside(running: Running, folder: Path) -> Path:
    """A copy of the stack's repository, another project, with one more sum; applied."""
    copy = folder / "next_repo"
    ours = running.stack.repo
    copytree(ours, copy, ignore=ignore_patterns("__pycache__", "*.db", "data", "archive"))
    edits = {
        "stored.py": ('sums("click", "skip")', 'sums("click", "skip", "long_view")'),
        "as_of.py": (SKIPS, f"{LONG_VIEWS}, {SKIPS}"),
        SETTINGS: ("project: headrace", "project: next"),
    }
    for name, (old, new) in edits.items():
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new, 1))
    write_settings(copy, copy / SETTINGS, running.stack.children["valkey"].port)
    with applying(copy, copy / SETTINGS, folder / "apply.log") as wait:
        wait()
    return copy


@contextmanager
def following(running: Running, repo: Path, logs: Path) -> Iterator[None]:
    """Route and aggregate of another project over the stack's events."""
    named = {"HEADRACE_REPO": str(repo), "HEADRACE_UPDATES_TOPIC": "updates-next"}
    started = []
    try:
        for name in ("route", "aggregate"):
            port = free_port()
            environment = {**running.environment, **named, "HEADRACE_METRICS_PORT": str(port)}
            environment |= {"FEAST_FS_YAML_FILE_PATH": str(repo / SETTINGS)}
            command = headrace_command(name)
            program = Program(f"next-{name}", command, port, is_healthy, environment)
            started.append((program, spawn(program, logs / f"next-{name}.log")))
        wait_until_ready(started, 180)
        yield
    finally:
        stop(child for _, child in started)


def digest(said: str) -> str:
    """The digest of state that a replay printed."""
    (found,) = re.findall(r"state digest ([0-9a-f]{64})", said)
    return str(found)


def damage(running: Running) -> str:
    """Take one view's counts out of a row of the stack; returns whose."""
    key = entity_key("author_id", STRING_TYPE, "7", "headrace")
    with redis.Redis.from_url(running.environment["HEADRACE_REDIS"]) as client:
        name: Any = field_name("author_activity", "counts")
        assert client.hdel(key, name) == 1
    return "author_activity"
