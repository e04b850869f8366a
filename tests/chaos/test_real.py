"""A short, random share of `make chaos`: real processes, killed under traffic."""

import os
import random
from pathlib import Path

import pytest

from tests import kafka_server
from tests.chaos.real import run_round
from tests.chaos.round import Settings

KILLS = 9
QUICK = Settings(pause_s=(0.0, 0.5), restart_s=(0.0, 0.5), overlap=0.5)


@pytest.mark.timeout(600)
def test_kills_at_random_moments_leave_the_rows_that_the_log_recounts_to(
    applied_repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (why := kafka_server.missing()) is not None:
        pytest.skip(why)
    seed = os.environ.get("HEADRACE_CHAOS_SEED") or str(random.SystemRandom().randrange(10**9))
    with capsys.disabled():
        print(f"\nHEADRACE_CHAOS_SEED={seed} makes these kills again")
    account = run_round(seed, KILLS, tmp_path, applied_repo, QUICK, zombies=1)
    with capsys.disabled():
        print(account)
    assert account["kills"] >= KILLS
    assert account["zombies"] >= 1
    assert account["repeated"] > 0
    assert account["dead"] > 0
