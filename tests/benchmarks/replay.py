"""Events per second of one core: replay from an archive, and the live pipeline, on the same events.

Ours: the archived log of the events, as `headrace archive log` writes it, decoded and folded into
rows in memory by one process. What came before the measured events is folded first, in the same
tables, as the live workers have their warm-up behind them. Best of a few runs, because what else
runs on a machine only ever slows.

The yardstick is the live pipeline of `ingest`, in the same run: its figure is events over the
processor seconds of `route` and `aggregate` alone; the broker and Valkey are left out, which is in
its favour. `live_all` counts them, too.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from features.events import Event
from features.row_store import MemoryRows
from features.spec import Plan
from streaming.archive_folder import ArrowFolder
from streaming.logs.files import LogFiles
from streaming.logs.schema import EVENT_LOG
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.records import Record
from streaming.replays.engine import Phase, Replay, ReplaySettings
from streaming.replays.recorded import ArchivedEvents, Place
from tests.benchmarks.ground import events, scratch
from tests.benchmarks.ingest import WARM_UP, distinct, ingest, measured_from
from tests.benchmarks.live import grounded, keyed
from tests.benchmarks.report import Result

EVENTS, FULL_EVENTS = 60_000, 200_000
RUNS = 3
LONG_AFTER = 9 * 10**12


def run(full: bool) -> Result:
    recorded = distinct(events(WARM_UP + (FULL_EVENTS if full else EVENTS)))
    with scratch() as folder, grounded(folder) as ground:
        live = ingest(ground, recorded)
        first = measured_from(recorded)
        archived = archive(folder / "archive", recorded, first)
        runs = [replayed(ground.plan, archived, first) for _ in range(RUNS)]
    ours = max(runs, key=lambda one: one["events_per_s_per_core"])
    workers = live["cpu_us_per_event_route"] + live["cpu_us_per_event_aggregate"]
    servers = live["cpu_us_per_event_broker"] + live["cpu_us_per_event_valkey"]
    yardstick = {
        "events_per_s_per_core": 1e6 / workers,
        "events_per_s_per_core_live_all": 1e6 / (workers + servers),
        "events_per_s": live["events_per_s"],
        "events": live["events"],
    }
    name = "events_per_s_per_core"
    return Result("replay", ours, yardstick, {name: ours[name] / yardstick[name]})


def archive(folder: Path, recorded: Sequence[Event], first: int) -> LogFiles:
    """The events as one partition of the log, in the files that the archiver would write.

    A file begins with the first measured event, so that what is measured decodes no others.
    """
    files = LogFiles(ArrowFolder(str(folder)))
    log = PartitionLog(0, 1, EVENT_LOG, files, CutSettings(1_000_000, 10**9))
    log.resume(0)
    pairs = enumerate(keyed(recorded))
    records = [Record(0, n, key, value, LONG_AFTER) for n, (key, value) in pairs]
    for part in (records[:first], records[first:]):
        log.take(part)
        log.flush()
    return files


def replayed(plan: Plan, files: LogFiles, first: int) -> dict[str, float]:
    """Fold what comes before `first`, then measure the rest."""
    source = ArchivedEvents(files, "archive")
    place = Place(1, 0)
    replay = Replay(source, [Phase(plan, {})], MemoryRows(), ReplaySettings())
    replay.run(upto={place: first})
    before = replay.outcome.counts.copy()
    began, cpu = time.perf_counter(), time.process_time()
    replay.run()
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    done = replay.outcome.counts - before
    assert done["accepted"] == done["records"]
    return {
        "events_per_s_per_core": done["records"] / cpu_s,
        "events_per_s": done["records"] / took_s,
        "updates_per_event": done["updates"] / done["records"],
        "cpu_us_per_event": cpu_s / done["records"] * 1e6,
        "events": float(done["records"]),
    }
