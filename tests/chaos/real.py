"""Real processes killed at random under traffic: Apache Kafka, Valkey, two of each worker.


    python -m tests.chaos.real --kills 500 --seed 7 --resume

Rounds of some kills each, every round on ground of its own, end with a full comparison: the rows
must equal, bit for bit, what the log itself recounts to. Rounds that are done stand in a progress
file, with the seed that makes each again. The last line is one JSON object.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from features.plan import FeatureRepo
from tests import kafka_server
from tests.chaos.ground import Ground, applied
from tests.chaos.round import Round, Settings

FOLDER = Path(".headrace-chaos")
ROUND_KILLS = 20


def run_round(
    seed: str, kills: int, folder: Path, repo: Path, settings: Settings, zombies: int = 0
) -> dict[str, Any]:
    """One round on new ground; raises AssertionError when anything is wrong."""
    began = time.monotonic()
    with ExitStack() as stack:
        ground = stack.enter_context(Ground.made(folder, repo, settings.workers))
        plan = FeatureRepo(repo).open().read()
        one = Round(ground, plan, seed, settings)
        try:
            one.run(kills, zombies)
        except BaseException:
            ground.dump()
            raise
        return one.account() | {"seed": seed, "took_s": round(time.monotonic() - began, 1)}


def report(rounds: Sequence[dict[str, Any]]) -> str:
    """Time without service by victim, then one JSON object."""
    by_victim: dict[str, list[float]] = {}
    for one in rounds:
        for victim, seconds in one["out"]:
            by_victim.setdefault(victim, []).append(seconds)
    lines = [f"{'victim':<18}{'times':>6}{'p50 s':>8}{'p99 s':>8}{'max s':>8}"]
    figures: dict[str, Any] = {}
    for victim, seconds in sorted(by_victim.items()):
        ordered = sorted(seconds)
        p50, p99 = (ordered[min(int(len(ordered) * q), len(ordered) - 1)] for q in (0.5, 0.99))
        lines.append(f"{victim:<18}{len(ordered):>6}{p50:>8.1f}{p99:>8.1f}{ordered[-1]:>8.1f}")
        figures[victim] = {"p50_s": p50, "p99_s": p99, "max_s": ordered[-1]}
    total: Counter[str] = Counter()
    for one in rounds:
        total.update({k: one[k] for k in ("kills", "zombies", "records", "accepted", "repeated")})
    summary = {"rounds": len(rounds), **total, "wrong": 0, "lost": 0, "without_service": figures}
    return "\n".join([*lines, json.dumps(summary)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.chaos.real", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**9)))
    parser.add_argument("--resume", action="store_true", help="go on after the rounds on file")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    if (why := kafka_server.missing()) is not None:
        sys.exit(why)
    options.folder.mkdir(exist_ok=True)
    progress: Path = options.folder / "progress.jsonl"
    if not options.resume:
        progress.unlink(missing_ok=True)
    lines = progress.read_text().splitlines() if progress.exists() else []
    rounds: list[dict[str, Any]] = [json.loads(line) for line in lines]
    print(f"seed {options.seed}; rounds in {progress}, {len(rounds)} done", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        run(options.seed, options.kills, rounds, progress, applied(Path(scratch)))
    print(report(rounds))


def run(seed: str, kills: int, rounds: list[dict[str, Any]], progress: Path, repo: Path) -> None:
    """Round after round, each noted once it is done, until there were enough kills."""
    while (done := sum(one["kills"] for one in rounds)) < kills:
        name = f"{seed}/{len(rounds)}"
        folder = Path(tempfile.mkdtemp(prefix="round-", dir=progress.parent)).resolve()
        wanted = min(ROUND_KILLS, kills - done)
        try:
            rounds.append(run_round(name, wanted, folder, repo, Settings()))
        except BaseException:
            print(f"round {name} failed, its logs stay in {folder}", file=sys.stderr, flush=True)
            raise
        shutil.rmtree(folder)
        with progress.open("a") as out:
            out.write(json.dumps(rounds[-1]) + "\n")
        shown = {k: v for k, v in rounds[-1].items() if k != "out"}
        load = os.getloadavg()[0]
        print(f"{done + wanted}/{kills} kills, load {load:.1f}: {shown}", flush=True)


if __name__ == "__main__":
    main()
