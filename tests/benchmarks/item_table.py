"""The item table: how long it takes to load, what an item costs in memory, how far it is behind.

Rows are real ones (KuaiRand's where it is) under many ids, each with an embedding of its own, in a
Valkey. The yardstick reads the same rows by pipelines of HGETALL with redis-py into dicts.
"""

import gc
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import psutil
import redis
from numpy.typing import NDArray

from features.as_of import Reader
from features.candidates import CandidateJoin
from features.codec import encode_value, field_name
from features.entities import EntityTable, Hash
from features.plan import FeatureRepo
from features.spec import Plan
from ranker.tables.live_feed import redis_feeds
from ranker.tables.live_tables import LiveTables
from ranker.tables.refresh import LiveRows
from tests.benchmarks.ground import SERVICE, applied, events, scratch, valkey
from tests.benchmarks.report import Result
from tests.plans import World
from tests.stored import writes_of
from tests.waiting import until

ITEMS, ITEMS_FULL = 100_000, 1_000_000
EVENTS = 60_000
DIMENSION = 64
ROWS_PER_CALL = 500
WRITTEN, ROUNDS = 10_000, 5
CANDIDATES, REQUESTS = 500, 400

Figures = dict[str, float]


def run(full: bool) -> Result:
    count = ITEMS_FULL if full else ITEMS
    with scratch() as folder, valkey(folder) as port, applied(folder, port) as apply:
        plan = _half(FeatureRepo(apply()).open().read())
        url = f"redis://127.0.0.1:{port}/0"
        templates = _templates(plan)
        fill(plan, url, templates, count)
        ours = measure(plan, url, templates, count)
        yardstick = _in_dicts(plan, url)
    ratio = {n: yardstick[n] / ours[n] for n in ("load_s", "bytes_per_item")}
    return Result("item_table", ours, yardstick, ratio)


def _half(plan: Plan) -> Plan:
    """The plan with embeddings in half precision."""
    told = plan.model_dump()
    for view in told["latest"]:
        for field in view["fields"]:
            if field["path"] == "embedding":
                field["precision"] = "float16"
    return Plan.model_validate(told)


def _templates(plan: Plan) -> list[Hash]:
    """Rows of items that were shown, as the store has them."""
    world = World(plan).fold(events(EVENTS))
    counts = field_name("item_activity", "counts")
    writes = writes_of(world, 7, ["item_id"])
    rows = [dict(zip(w.fields[::2], w.fields[1::2], strict=True)) for w in writes]
    marker = writes[0].marker.encode()
    return [{**row, b"_m": marker} for row in rows if counts in row]


def _rows(
    plan: Plan, templates: Sequence[Hash], numbers: Sequence[int]
) -> Iterator[tuple[bytes, Hash]]:
    rng = np.random.default_rng(numbers[0])
    entity = next(e for e in plan.entities if e.join_key == "item_id")
    key_of = EntityTable(plan, entity, World(plan).strings).key_of
    name = field_name("item_embedding", "embedding")
    for number in numbers:
        vector = encode_value(rng.normal(0, 0.1, DIMENSION).tolist(), "Array(Float32)")
        yield key_of(str(number)), {**templates[number % len(templates)], name: vector}


def fill(plan: Plan, url: str, templates: Sequence[Hash], count: int) -> None:
    """Write so many rows, and the index that names them."""
    index = f"headrace:{plan.project}:index:item_id"
    with redis.Redis.from_url(url) as client:
        for start in range(0, count, ROWS_PER_CALL):
            numbers = range(start, min(start + ROWS_PER_CALL, count))
            pipe = client.pipeline(transaction=False)
            keys = []
            for key, content in _rows(plan, templates, numbers):
                pipe.hset(key, mapping=content)
                keys.append(key)
            pipe.sadd(index, *keys)
            pipe.execute()


def warm_up(plan: Plan, templates: Sequence[Hash]) -> None:
    """Have compiled what loading runs."""
    LiveRows(plan).put(*zip(*_rows(plan, templates, range(64)), strict=True))


def measure(plan: Plan, url: str, templates: Sequence[Hash], count: int) -> Figures:
    warm_up(plan, templates)
    before = _memory()
    live = LiveTables(plan, redis_feeds(url), rows_max=count + WRITTEN)
    try:
        assert live.start(1200), live.degraded
        table = live.tables["item_id"]
        assert table.held == count
        figures = {
            "load_s": live.load_s,
            "bytes_per_item": (_memory() - before) / count,
            "bytes_per_item_in_arrays": table.nbytes / count,
        }
        figures |= _requests(plan, live, count)
        figures |= _behind(plan, url, templates, live, count)
    finally:
        live.stop()
    return figures


def _requests(plan: Plan, live: LiveTables, count: int) -> Figures:
    """What it takes to compute all features of 500 candidates, of a user nobody knows."""
    users = EntityTable(
        plan, next(e for e in plan.entities if e.join_key == "user_id"), live.strings
    )
    reader = Reader(plan, SERVICE, {**live.tables, "user_id": users})
    join, rng, took_ms = CandidateJoin(plan, live.tables), np.random.default_rng(3), []
    gc.collect()
    for _ in range(REQUESTS):
        ids = list(map(str, rng.integers(0, count, CANDIDATES).tolist()))
        began = time.perf_counter()
        with live.lock:
            rows = live.tables["item_id"].rows_of_ids(ids)
            moment = join.moment(1_652_000_000_000, -1, ids, rows, "1")
            reader.matrix(moment, users)
        took_ms.append(1000 * (time.perf_counter() - began))
    return {"features_p50_ms": _at(took_ms[20:], 50), "features_p99_ms": _at(took_ms[20:], 99)}


def _behind(
    plan: Plan, url: str, templates: Sequence[Hash], live: LiveTables, count: int
) -> Figures:
    """How old the oldest change is that is not in the table, at each millisecond while another
    process writes 10,000 rows in each second."""
    refreshed, seen = live.refreshed, []
    writer = multiprocessing.get_context("spawn").Process(
        target=write, args=(plan.model_dump_json(), url, list(templates), count)
    )
    writer.start()
    try:
        until(lambda: live.refreshed > refreshed, 60)
        began = time.perf_counter()
        while writer.is_alive() or live.staleness_ms() > 0:
            seen.append(live.staleness_ms())
            time.sleep(0.001)
        took_s = time.perf_counter() - began
    finally:
        writer.join()
    return {
        "staleness_p50_ms": _at(seen, 50),
        "staleness_p99_ms": _at(seen, 99),
        "staleness_max_ms": max(seen),
        "rows_written_per_s": ROUNDS * WRITTEN / took_s,
    }


def write(plan: str, url: str, templates: Sequence[Hash], count: int) -> None:
    """Write rows anew, evenly over each second."""
    rng, told = np.random.default_rng(9), Plan.model_validate_json(plan)
    rounds = [
        list(_rows(told, templates, rng.choice(count, WRITTEN, replace=False).tolist()))
        for _ in range(ROUNDS)
    ]
    with redis.Redis.from_url(url) as client:
        for rows in rounds:
            began, part = time.perf_counter(), WRITTEN // 50
            for place in range(50):
                pipe = client.pipeline(transaction=False)
                for key, content in rows[place * part : (place + 1) * part]:
                    pipe.hset(key, mapping=content)
                pipe.execute()
                time.sleep(max(0.0, began + (place + 1) / 50 - time.perf_counter()))


def _in_dicts(plan: Plan, url: str) -> Figures:
    before, held = _memory(), dict[bytes, Hash]()
    with redis.Redis.from_url(url) as client:
        began = time.perf_counter()
        keys = client.sscan_iter(f"headrace:{plan.project}:index:item_id", count=1000)
        while part := list(islice(keys, ROWS_PER_CALL)):
            pipe = client.pipeline(transaction=False)
            for key in part:
                pipe.hgetall(key)
            held.update(zip(part, pipe.execute(), strict=True))
        took_s = time.perf_counter() - began
    return {"load_s": took_s, "bytes_per_item": (_memory() - before) / len(held)}


def _memory() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss)


def _at(figures: Sequence[float] | NDArray[np.float64], share: float) -> float:
    return float(np.percentile(figures, share))
