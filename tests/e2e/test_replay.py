"""Replay against the running stack: what it archived makes its rows, vectors and ranking again."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import redis

from features.codec import STRING_TYPE, entity_key, field_name
from tests.browsing import engagement
from tests.e2e.conftest import Running
from tests.e2e.test_stack import now_ms
from tests.waiting import until

ITEMS = [f"i{number}" for number in range(60)]


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
    said = running.headrace(*command)
    found = json.loads((tmp_path / "report" / "replay.json").read_text())
    assert found["passed"], said
    state, skew, rank = (found["checks"][name.removeprefix("--")] for name in checks)
    assert state["rows"] == state["equal"] > 60
    assert (skew["rankings"], skew["values that differ"]) == (12, 0)
    assert (rank["rankings"], rank["same scores"], rank["another order"]) == (12, 12, 0)
    assert digest(said) == digest(running.headrace("replay"))
    damaged = damage(running)
    failed = running.run(sys.executable, "-m", "deploy.cli", "replay", "--check-state")
    assert failed.returncode == 1
    assert "check-state: failed" in failed.stdout
    assert damaged in failed.stdout


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
