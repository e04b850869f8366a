"""Events per second through the whole pipeline, and through `FeatureStore.push`.

Ours: `route` and `aggregate` as processes, a broker, Valkey with its append-only file, all on one
machine; the events were sent before, as JSON. The time runs from the end of a warm-up, in which
the workers join, compile and fetch what they cache, until the last row is written.

The yardstick is a loop that takes the same events 1,000 at a time and pushes the final versions,
after each thousand, of the rows they changed. Who computes those is left out: it pushes a sample
of them, as they stand at the end, in batches of 1,000 rows.
"""

import random
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from features.codec import entity_id
from features.events import Event, ItemEvent, UserEvent
from features.project import Projection
from features.spec import Plan
from tests.benchmarks.ground import events, scratch
from tests.benchmarks.live import Servers, grounded, keyed, until, working
from tests.benchmarks.report import Result
from tests.benchmarks.stock_feast import StockWriter

WARM_UP = 10_000
EVENTS = 60_000
BATCH = 1_000
PUSHED_ROWS, FULL_PUSHED_ROWS = 5_000, 40_000


def run(full: bool) -> Result:
    recorded = distinct(events(None if full else WARM_UP + EVENTS))
    with scratch() as folder, grounded(folder) as ground:
        ours = ingest(ground, recorded)
        most = FULL_PUSHED_ROWS if full else PUSHED_ROWS
        yardstick = push(StockWriter(ground.repo, folder, ground.plan), ground.plan, recorded, most)
        measured = recorded[measured_from(recorded) :]
        yardstick["rows_per_event"] = rows_per_event(ground.plan, measured)
    yardstick["events_per_s"] = yardstick["rows_per_s"] / yardstick["rows_per_event"]
    yardstick["events_per_s_same_rows"] = yardstick["rows_per_s"] / ours["rows_per_event"]
    ratio = {
        name: ours["events_per_s"] / yardstick[name]
        for name in ("events_per_s", "events_per_s_same_rows")
    }
    return Result("ingest", ours, yardstick, ratio)


def measured_from(recorded: Sequence[Event]) -> int:
    """Where the warm-up ends: items, users, and the first of what was shown."""
    first = next(i for i, e in enumerate(recorded) if not isinstance(e, ItemEvent | UserEvent))
    return first + WARM_UP


def ingest(ground: Servers, recorded: Sequence[Event]) -> dict[str, float]:
    """Let the workers eat what was sent before they started.

    The clock starts when `route` is through with the warm-up. `aggregate` is behind it then, and
    what it still has to do of the warm-up is counted as time but not as events.
    """
    ground.send(keyed(recorded))
    warm_up, all_updates = measured_from(recorded), ground.updates(recorded)
    with working(ground) as pipeline:
        until(lambda: pipeline.routed() >= warm_up)
        began = time.perf_counter()
        routed, before, used = pipeline.routed(), pipeline.done(), pipeline.cpu_s()
        until(lambda: pipeline.done()["folded_updates"] >= all_updates)
        took_s = time.perf_counter() - began
        after, cost = pipeline.done(), pipeline.cpu_s()
        assert after["folded_updates"] == all_updates
    sent = len(recorded) - routed
    updates, rows = (after[kind] - before[kind] for kind in ("folded_updates", "rows_written"))
    return {
        "events_per_s": sent / took_s,
        "updates_per_s": updates / took_s,
        "rows_per_s": rows / took_s,
        "events": sent,
        "updates_per_event": updates / sent,
        "rows_per_event": rows / sent,
        **{f"cpu_us_per_event_{name}": (cost[name] - used[name]) / sent * 1e6 for name in cost},
    }


def rows_per_event(plan: Plan, recorded: Sequence[Event]) -> float:
    """Rows (of all views) that a thousand events change, over a thousand."""
    columns = Projection(plan).updates(enumerate(recorded))
    batch = columns.offset // BATCH
    touched = np.unique(np.stack([batch, columns.view, columns.key]), axis=1)
    return float(touched.shape[1]) / len(recorded)


def push(stock: StockWriter, plan: Plan, recorded: Sequence[Event], most: int) -> dict[str, float]:
    """Rows per second that stock Feast pushes, over a sample of all rows of all views."""
    columns = Projection(plan).updates(enumerate(recorded))
    pairs = sorted(set(zip(columns.view.tolist(), columns.key.tolist(), strict=True)))
    chosen: dict[int, list[str]] = defaultdict(list)
    for number, key in random.Random(5).sample(pairs, min(most, len(pairs))):
        join_key = plan.views[number].entity.join_key
        found = entity_id(join_key, columns.keys[key], plan.project)
        assert found is not None
        chosen[number].append(found)
    took_s, rows = 0.0, 0
    for number, ids in chosen.items():
        view = plan.views[number]
        frame = stock.rows(view.name, view.entity.join_key, ids)
        stock.push(view.name, frame[:1], 1)  # its first call does more
        took_s += stock.push(view.name, frame, BATCH)
        rows += len(frame)
        assert not stock.differs(view.name, view.entity.join_key, frame[:100])
    return {"rows_per_s": rows / took_s, "rows": float(rows)}


def distinct(recorded: Sequence[Event]) -> list[Event]:
    """Each event once: the pipeline drops repeats, which would not be fair to count."""
    return list({event.event_id: event for event in recorded}.values())
