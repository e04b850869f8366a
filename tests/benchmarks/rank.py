"""A request of 500 candidates, through our pipeline and through stock Feast, on rows of the same.

Ours: from the parsed request to the response object, as the ranker process does it (no HTTP): the
user's row from Valkey, every feature of `home_feed` for all candidates, the model, the page.
The yardstick: `get_online_features` of what those features are computed from, as typed fields, then
`Booster.predict`; see `stock_feast.StockRanker` for what it is spared. One ranking between the two
is not counted: the threads of `Booster.predict` spin for a while after it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import redis
from numpy.typing import NDArray
from pydantic import SecretStr
from redis.asyncio import Redis

from features.candidates import ITEM_KEY
from features.events import Event, ImpressionEvent, ItemEvent, dump_event, record_key
from features.plan import FeatureRepo
from features.project import Projection
from features.row_store import RowStore
from features.spec import Plan
from ranker.filters import all_filters
from ranker.hydrators import UserRowHydrator
from ranker.live_feed import redis_feeds
from ranker.live_tables import LiveTables
from ranker.model import TrainedHead
from ranker.pipeline import Pipeline, Stages
from ranker.reading import Reading, heads_loader, make_reading
from ranker.request import RankRequest, RankResponse
from ranker.rows import RowMaker, TrainingRows
from ranker.rules import read_rules
from ranker.training import PARAMETERS, write_model
from ranker.user_rows import UserRows
from ranker.value import read_weights
from streaming.aggregate import Aggregator
from streaming.blocks import decode_block
from streaming.records import Record
from streaming.replay import Request, Timeline
from streaming.route import Router, RouteSettings
from streaming.settings import StreamingSettings
from streaming.wiring import open_store
from tests.benchmarks.ground import SERVICE, applied, events, scratch, valkey
from tests.benchmarks.report import Result
from tests.benchmarks.stock_feast import StockRanker, typed_project
from tests.benchmarks.timing import paired_ms

CANDIDATES = 500
TREES, LEAVES = 300, 63
EVENTS, FULL_EVENTS = 50_000, 200_000
TRAINING_ROWS = 20_000
ASKED = 40
"""Different requests, asked in turn."""
RECORDS_PER_STEP = 2_000


@dataclass(frozen=True)
class Asked:
    """One request, and what stock Feast is to be told for it."""

    request: RankRequest
    ids: list[dict[str, str]]


def run(full: bool) -> Result:
    with scratch() as folder, valkey(folder) as port, applied(folder, port) as apply:
        recorded = events(FULL_EVENTS if full else EVENTS)
        repo = apply()
        plan = FeatureRepo(repo).open().read()
        url = f"redis://127.0.0.1:{port}/0"
        store = open_store(StreamingSettings(redis=SecretStr(url), durability="none"), plan.project)
        try:
            fill(plan, recorded, store)
        finally:
            store.close()
        booster = train(plan, recorded, folder / "model")
        asked = requests(recorded)
        with ranker(plan, url, repo, folder / "model") as (rank, parts):
            response = rank(asked[0].request)
            assert not response.degraded, response.degraded
            assert response.freshness.user_updated_at is not None
            reading = parts.reading()
            matrix = parts.matrix(asked[0].request)
            with redis.Redis.from_url(url) as client:
                typed = typed_project(repo, folder, plan, client)
            stock = StockRanker(typed, plan, SERVICE, booster, matrix)
            assert stock.found(asked[0].ids) == CANDIDATES
            rank_next = _in_turn(lambda one: rank(one.request), asked)
            taken_ms = paired_ms(
                {
                    "between": rank_next,
                    "ours": rank_next,
                    "feast": _in_turn(
                        lambda one: stock.rank(one.request.user_id, one.request.surface, one.ids),
                        asked,
                    ),
                },
                runs=400 if full else 80,
            )
            figures = parts.figures(asked[0].request, matrix)
    ours, yardstick = _percentiles(taken_ms["ours"]), _percentiles(taken_ms["feast"])
    return Result(
        benchmark="rank",
        ours=ours | figures | {"columns": float(len(reading.reader.columns))},
        yardstick=yardstick
        | {"columns": float(len(stock.of_request) + len(stock.of_candidate))}
        | {"columns_per_candidate": float(len(stock.of_candidate))},
        ratio={
            "p50": yardstick["p50_ms"] / ours["p50_ms"],
            "p99": yardstick["p99_ms"] / ours["p99_ms"],
        },
    )


def fill(plan: Plan, recorded: list[Event], store: RowStore) -> int:
    """Fold events into stored rows by the code of `route` and `aggregate`; rows written."""
    settings = RouteSettings("events", "updates", "dead-letters", 1, 100_000, 300_000)
    router, projection = Router(settings, 1, "benchmark"), Projection(plan)
    router.own(0, 0)
    aggregator = Aggregator(plan, store)
    aggregator.own(0, 1, 0)
    at = 0
    for start in range(0, len(recorded), RECORDS_PER_STEP):
        records = [
            Record(0, start + i, record_key(event), dump_event(event), event.event_time)
            for i, event in enumerate(recorded[start : start + RECORDS_PER_STEP])
        ]
        routed = router.step(0, records, projection)
        assert not routed.counts["dead"]
        for outgoing in routed.outgoing:
            aggregator.step(0, [(at, decode_block(outgoing.value))])
            at += 1
    return aggregator.counts["rows_written"]


def train(plan: Plan, recorded: list[Event], folder: Path) -> lightgbm.Booster:
    """A click model of the benchmark's size, from the newest requests of a replay, as a folder."""
    timeline = Timeline(plan, recorded)
    maker = RowMaker(plan, SERVICE, timeline.tables, ["click"])
    rows_left = sum(len(request.items) for request in timeline.requests)

    def add(request: Request) -> None:
        nonlocal rows_left
        if rows_left <= TRAINING_ROWS:
            maker.add(
                request.now, request.user_id, request.surface, request.items, request.outcomes
            )
        rows_left -= len(request.items)

    timeline.run(add)
    rows: TrainingRows = maker.rows()
    booster = lightgbm.train(
        # Leaves of few rows, so that all trees reach their full size on this many.
        PARAMETERS | {"objective": "binary", "num_leaves": LEAVES, "min_data_in_leaf": 20},
        lightgbm.Dataset(rows.matrix, rows.labels["click"], feature_name=list(rows.columns)),
        num_boost_round=TREES,
    )
    head = TrainedHead("click", "binary", "click", booster.model_to_string(), {})
    write_model(folder, [head], rows, plan, SERVICE, timeline.events)
    return booster


def requests(recorded: list[Event]) -> list[Asked]:
    """Requests of people who were seen, more often of those seen more, just after the last event.

    Their candidates are items that were shown: those whose rows hold counts.
    """
    rng = random.Random(5)
    about = {event.item_id: event for event in recorded if isinstance(event, ItemEvent)}
    shown = [event for event in recorded if isinstance(event, ImpressionEvent)]
    items = sorted({item.item_id for event in shown for item in event.items} & set(about))
    now = max(event.event_time for event in recorded) + 1
    found = []
    for event in rng.choices(shown, k=ASKED):
        candidates = rng.sample(items, CANDIDATES)
        request = RankRequest(
            user_id=event.user_id, surface=event.surface, candidates=candidates, limit=20, now=now
        )
        ids = [
            {
                ITEM_KEY: item,
                "author_id": about[item].author_id or "",
                "category": (about[item].categories or [""])[0],
            }
            for item in candidates
        ]
        found.append(Asked(request, ids))
    return found


@dataclass(frozen=True)
class Parts:
    """The ranker taken apart, to see where the time goes."""

    loop: asyncio.AbstractEventLoop
    live: LiveTables
    users: UserRows
    reading: Callable[[], Reading]

    def matrix(self, request: RankRequest) -> NDArray[np.float64]:
        """Every feature of the request's candidates."""
        user = self.loop.run_until_complete(self.users.read(request.user_id))
        reading, items = self.reading(), list(request.candidates or [])
        with self.live.lock:
            rows = reading.tables[ITEM_KEY].rows_of_ids(items)
            moment = reading.join.moment(
                request.now or 0, user.table, user.row, items, rows, request.surface
            )
            return reading.reader.matrix(moment, user.table)

    def figures(self, request: RankRequest, matrix: NDArray[np.float64]) -> dict[str, float]:
        """Milliseconds of the three largest parts, each alone."""
        reading = self.reading()
        assert reading.heads is not None
        heads = reading.heads
        taken_ms = paired_ms(
            {
                "user_row": lambda: self.loop.run_until_complete(self.users.read(request.user_id)),
                "user_row_and_features": lambda: self.matrix(request),
                "forest": lambda: heads.score(matrix),
            },
            runs=100,
        )
        p50 = {name: float(np.median(taken)) for name, taken in taken_ms.items()}
        return {
            "user_row_ms": p50["user_row"],
            "features_ms": p50["user_row_and_features"] - p50["user_row"],
            "forest_ms": p50["forest"],
        }


@contextmanager
def ranker(
    plan: Plan, url: str, repo: Path, model: Path
) -> Iterator[tuple[Callable[[RankRequest], RankResponse], Parts]]:
    """The ranker's pipeline, composed as `ranker.wiring` does it but for HTTP, log and refresh."""
    live = LiveTables(plan, redis_feeds(url))
    load_heads = heads_loader(model, read_weights(repo / "value.yaml"))
    loop = asyncio.new_event_loop()
    client = Redis.from_url(url, socket_timeout=5.0)
    try:
        assert live.start(30.0), live.degraded
        reading = make_reading(plan, SERVICE, live.tables, load_heads)
        assert reading.heads is not None, reading.unfit
        users = UserRows(client, live, deadline_ms=1_000)
        rules = read_rules(repo / "feed.yaml")
        stages = Stages(
            live=live,
            lock=live.lock,
            reading=lambda: reading,
            hydrator=UserRowHydrator(users),
            sources=[],
            filters=all_filters(lambda: rules),
            rules=lambda: rules,
            side_effects=[],
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        pipeline = Pipeline(stages)
        yield (
            lambda request: loop.run_until_complete(pipeline.rank(request)),
            Parts(loop, live, users, lambda: reading),
        )
        pipeline.close()
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()
        live.stop()


def _in_turn(way: Callable[[Asked], object], asked: list[Asked]) -> Callable[[], object]:
    """The same way, with the next request at each call."""
    calls = 0

    def next_one() -> object:
        nonlocal calls
        calls += 1
        return way(asked[calls % len(asked)])

    return next_one


def _percentiles(taken_ms: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{part}_ms": float(np.percentile(taken_ms, part)) for part in (50, 99)}
