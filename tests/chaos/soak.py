"""An hour of mixed load on two cores: events, repeats, bad records, rankings.

    python -m tests.chaos.soak --seconds 3600 --output .headrace-soak

At the end memory and latency must be flat, no ranking and no process may have failed, and the rows
must equal the recount of the log. Leaves `soak.png` and `soak.jsonl`; the last line is one JSON
object. Exits with 1 when anything did not hold.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import psutil

from deploy.ports import HOST, free_port
from deploy.probes import is_ready
from deploy.processes import Program, running
from features.plan import FeatureRepo
from ranker.client import NO_RETRIES, Client, RankError, RankRequest
from tests import kafka_server
from tests.chaos.callers import SteadyCallers
from tests.chaos.ground import Ground, applied
from tests.chaos.round import Round, Settings

EVENTS_PER_S, CALLS_PER_S = 150.0, 10.0
SAMPLES = 120
MEMORY_GROWTH_MAX, MEMORY_SLACK_MB = 0.10, 24.0
"""What the last quarter may need more than the second: a share, and what fragments."""
LATENCY_GROWTH_MAX, LATENCY_SLACK_MS = 0.5, 20.0
PATIENCE_S = 2.0


@dataclass(frozen=True)
class Sample:
    """One window: memory at its end, latency and errors in it."""

    at_s: float
    memory_mb: dict[str, float]
    p50_ms: float
    p99_ms: float
    calls: int
    errors: int
    degraded: int


class Window(NamedTuple):
    """What callers saw since the last look."""

    took_ms: list[float]
    errors: list[str]
    degraded: int


class Answers:
    """What was seen of rankings, a window at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = Window([], [], 0)

    def take(self) -> Window:
        """What was seen since this was asked last."""
        with self._lock:
            window, self._window = self._window, Window([], [], 0)
        return window

    def ask(self, client: Client, rng: random.Random) -> None:
        """One call, from any thread; half of them bring candidates."""
        user = f"u{rng.randrange(50)}"
        items = rng.sample([f"i{n}" for n in range(200)], 100) if rng.random() < 0.5 else []
        began = time.monotonic()
        try:
            feed = client.rank(RankRequest(user_id=user, candidates=items or None))
        except RankError as error:
            with self._lock:
                self._window.errors.append(str(error))
        else:
            with self._lock:
                self._window.took_ms.append(1000 * (time.monotonic() - began))
                degraded = self._window.degraded + bool(feed.degraded)
                self._window = self._window._replace(degraded=degraded)


def soak(seconds: float, folder: Path, repo: Path) -> tuple[list[Sample], dict[str, Any]]:
    """The samples, and the account of the rows. Raises AssertionError when rows are wrong."""
    plan = FeatureRepo(repo).open().read()
    with ExitStack() as stack:
        workers = ("route-1", "aggregate-1")
        ground = stack.enter_context(Ground.made(folder, repo, workers))
        http, grpc = free_port(), free_port()
        environment = ground.stream.environment() | {
            "HEADRACE_HTTP_PORT": str(http),
            "HEADRACE_GRPC_PORT": str(grpc),
            "HEADRACE_RANKINGS_TOPIC": "rankings-soak",
        }
        command = [sys.executable, "-m", "deploy.cli", "ranker"]
        program = Program("ranker", command, http, is_ready, environment)
        ranker = stack.enter_context(running(program, ground.stream.logs / "ranker.log", 180))
        one = Round(ground, plan, "soak", Settings(workers=workers, per_second=EVENTS_PER_S))
        try:
            one.move("start")
            watched = {name: child.pid for name, child in ground.stream.alive.items()}
            watched |= {"ranker": ranker.pid, "redis": ground.servers["redis"].pid}
            answers = Answers()
            with SteadyCallers(
                f"{HOST}:{grpc}",
                answers.ask,
                per_s=CALLS_PER_S,
                patience_s=PATIENCE_S,
                retries=NO_RETRIES,
            ):
                samples = _watch(seconds, watched, answers)
            recovered_s = one.move("end")
        finally:
            one.close()
        assert not ground.fallen(), f"{ground.fallen()} ended by themselves"
        one.compare()
        return samples, one.account() | {"last_probe_s": round(recovered_s, 2)}


def _watch(seconds: float, watched: dict[str, int], answers: Answers) -> list[Sample]:
    """One sample after another; the first seconds, when caches fill, count like all others."""
    processes = {name: psutil.Process(pid) for name, pid in watched.items()}
    began, step, samples = time.monotonic(), seconds / SAMPLES, []
    answers.take()
    for number in range(1, SAMPLES + 1):
        time.sleep(max(0.0, began + number * step - time.monotonic()))
        seen = answers.take()
        took = sorted(seen.took_ms) or [float("nan")]
        samples.append(
            Sample(
                at_s=round(time.monotonic() - began, 1),
                memory_mb={n: round(p.memory_info().rss / 1e6, 1) for n, p in processes.items()},
                p50_ms=took[len(took) // 2],
                p99_ms=took[int(len(took) * 0.99)],
                calls=len(seen.took_ms) + len(seen.errors),
                errors=len(seen.errors),
                degraded=seen.degraded,
            )
        )
        for error in seen.errors[:1]:
            print(f"{samples[-1].at_s:.0f} s: {error}", file=sys.stderr, flush=True)
    return samples


def verdict(samples: Sequence[Sample]) -> list[str]:
    """What did not hold: memory or latency that grew, rankings that failed."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    wrong = []
    for name in samples[0].memory_mb:
        before, after = (
            statistics.median(s.memory_mb[name] for s in some) for some in (second, last)
        )
        if after > before * (1 + MEMORY_GROWTH_MAX) + MEMORY_SLACK_MB:
            wrong.append(f"{name} grew from {before:.0f} to {after:.0f} MB")
    before, after = (statistics.median(s.p99_ms for s in some) for some in (second, last))
    if after > before * (1 + LATENCY_GROWTH_MAX) + LATENCY_SLACK_MS:
        wrong.append(f"p99 rose from {before:.0f} to {after:.0f} ms")
    if errors := sum(sample.errors for sample in samples):
        wrong.append(f"{errors} of {sum(sample.calls for sample in samples)} rankings failed")
    return wrong


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Memory of each process, and latency, over time."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory, latency) = plt.subplots(2, 1, figsize=(10, 7), sharex=True)
    minutes = [sample.at_s / 60 for sample in samples]
    for name in samples[0].memory_mb:
        memory.plot(minutes, [sample.memory_mb[name] for sample in samples], label=name)
    for label in ("p50_ms", "p99_ms"):
        latency.plot(minutes, [getattr(sample, label) for sample in samples], label=label[:3])
    memory.set(ylabel="memory, MB", ylim=(0, None))
    latency.set(ylabel="ranking over gRPC, ms", xlabel="minutes", ylim=(0, None))
    for one in (memory, latency):
        one.legend()
        one.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.chaos.soak")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--output", type=Path, default=Path(".headrace-soak"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing behind
    if (why := kafka_server.missing()) is not None:
        sys.exit(why)
    options.output.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        samples, account = soak(options.seconds, folder / "ground", applied(folder))
    lines = "".join(json.dumps(asdict(sample)) + "\n" for sample in samples)
    (options.output / "soak.jsonl").write_text(lines)
    draw(samples, options.output / "soak.png")
    wrong = verdict(samples)
    last = samples[-1]
    for name, size in last.memory_mb.items():
        print(f"{name:<14}{samples[len(samples) // 4].memory_mb[name]:>9.0f} MB → {size:.0f} MB")
    calls, errors = sum(s.calls for s in samples), sum(s.errors for s in samples)
    p50, p99 = (statistics.median(getattr(s, n) for s in samples) for n in ("p50_ms", "p99_ms"))
    print(f"{calls} rankings, {errors} failed, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for what in wrong:
        print(f"DID NOT HOLD: {what}")
    kept = {name: account[name] for name in ("records", "accepted", "repeated", "dead", "rows")}
    print(
        json.dumps(
            {"seconds": options.seconds, "calls": calls, "errors": errors}
            | kept
            | {"p50_ms": p50, "p99_ms": p99, "wrong": wrong}
        )
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
