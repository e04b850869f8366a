"""All experiments on one town, and their table.

    python -m tests.chaos.laboratory [NAME...]

A name is the beginning of a file's, `05`. Exits with 1 when a hypothesis is refuted. The last line
is one JSON object.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from features.plan import FeatureRepo
from tests import kafka_server
from tests.chaos.experiment import FOLDER, Result, read, run
from tests.chaos.ground import applied
from tests.chaos.links import town


def main(names: Sequence[str]) -> int:
    """Run what the names say, or all; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing behind
    if (why := kafka_server.missing()) is not None:
        sys.exit(why)
    files = sorted(FOLDER.glob("*.yaml"))
    strange = [name for name in names if not any(f.stem.startswith(name) for f in files)]
    if strange:
        sys.exit(f"no experiment begins with {strange[0]!r}: {', '.join(f.stem for f in files)}")
    chosen = [f for f in files if not names or f.stem.startswith(tuple(names))]
    seed = os.environ.get("HEADRACE_CHAOS_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"HEADRACE_CHAOS_SEED={seed} sends these events again", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        repo = applied(Path(scratch))
        plan = FeatureRepo(repo).open().read()
        with town(Path(scratch) / "town", repo) as here:
            print(HEAD, flush=True)
            for file in chosen:
                results.append(run(file.stem, read(file), here, plan, f"{seed}/{file.stem}"))
                print(line(results[-1]), flush=True)
    refuted = sum(bool(one.refuted) for one in results)
    summary = {
        "experiments": len(results),
        "refuted": refuted,
        "skipped": sum(one.skipped is not None for one in results),
        "results": [dataclasses.asdict(one) for one in results],
    }
    print(json.dumps(summary))
    return int(refuted > 0)


HEAD = f"{'experiment':<34}{'answered':>9}{'whole':>8}{'events':>8}{'lost':>6}{'recovers s':>11}"


def line(one: Result) -> str:
    """A row of the table; `events` and `lost` are of the whole log so far."""
    if one.skipped is not None:
        return f"{one.name:<34}  not run: {one.skipped}"
    lost = "?" if one.lost is None else one.lost
    row = (
        f"{one.name:<34}{one.answered / one.calls:>9.1%}{one.whole / one.calls:>8.1%}"
        f"{one.events:>8}{lost:>6}{one.recovered_s:>11.1f}"
    )
    for what, counts in (("lacked", one.lacked), ("unanswered", one.unanswered)):
        if counts:
            row += f"  {what} " + ", ".join(f"{of} {n}" for of, n in counts.items())
    return row + "".join(f"\n    REFUTED: {why}" for why in one.refuted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
