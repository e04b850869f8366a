"""What the benchmarks of ranking share: stored rows, models, requests, and the ranker itself."""

import asyncio
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightgbm
from pydantic import SecretStr

from deploy.kernels import compile_kernels
from features.candidates import ITEM_KEY
from features.events import (
    EngagementEvent,
    Event,
    ImpressionEvent,
    ItemEvent,
    UserEvent,
    dump_event,
    record_key,
)
from features.project import Projection
from features.row_store import RowStore
from features.spec import Plan
from ranker.request import RankRequest, RankResponse
from ranker.scoring.model import TrainedHead
from ranker.serving import new_loop
from ranker.settings import RankerSettings
from ranker.training.boosting import PARAMETERS
from ranker.training.fitting import write_model
from ranker.training.rows import RowMaker, TrainingRows
from ranker.wiring import Ranker
from streaming.aggregate import Aggregator
from streaming.blocks import decode_block
from streaming.records import Record
from streaming.replay import Request, Timeline
from streaming.route import Router, RouteSettings
from streaming.settings import StreamingSettings
from streaming.wiring import open_store
from tests.benchmarks.ground import SERVICE
from tests.benchmarks.timing import Took

CANDIDATES, LIMIT = 500, 20
TREES, LEAVES = 300, 63
TRAINING_ROWS = 20_000
PEOPLE = 100
ASKED = 40
"""Different requests, asked in turn."""
RECORDS_PER_STEP = 2_000


@dataclass(frozen=True)
class Rank:
    """A ranker of this process, asked from outside its event loop."""

    loop: asyncio.AbstractEventLoop
    one: Ranker

    def __call__(self, request: RankRequest) -> RankResponse:
        """The answer to a request."""
        return self.loop.run_until_complete(self.one.rank(request))

    def timed(self, request: RankRequest) -> tuple[RankResponse, Took]:
        """The same, with the time from the request to the answer inside the loop."""
        return self.loop.run_until_complete(self._timed(request))

    async def _timed(self, request: RankRequest) -> tuple[RankResponse, Took]:
        began = time.perf_counter()
        response = await self.one.rank(request)
        return response, Took((time.perf_counter() - began) * 1000)


@dataclass(frozen=True)
class Asked:
    """One request, and what stock Feast is to be told for it."""

    request: RankRequest
    ids: list[dict[str, str]]


def peopled(recorded: Sequence[Event], people: int = PEOPLE) -> list[Event]:
    """The same events by so many people, each of whom did what several did, in the order of time.

    Nobody in KuaiRand did more than some ten things a day, and a feed is asked for most by those
    who do most: their rows hold full lists.
    """

    def person(user_id: str) -> str:
        return f"p{zlib.crc32(user_id.encode()) % people}"

    return [
        event.model_copy(update={"user_id": person(event.user_id)})
        if isinstance(event, ImpressionEvent | EngagementEvent | UserEvent)
        else event
        for event in recorded
    ]


def fill(plan: Plan, recorded: Sequence[Event], url: str) -> None:
    """Fold events into the rows of a Redis by the code of `route` and `aggregate`."""
    store = open_store(StreamingSettings(redis=SecretStr(url), durability="none"), plan.project)
    try:
        _fold(plan, recorded, store)
    finally:
        store.close()


def _fold(plan: Plan, recorded: Sequence[Event], store: RowStore) -> None:
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
        routed = router.step({0: records}, projection)
        assert not routed.counts["dead"]
        for outgoing in routed.outgoing:
            aggregator.step({0: [(at, decode_block(outgoing.value))]})
            at += 1


@dataclass(frozen=True)
class Trained:
    """Rows of the newest requests of a replay, and boosters of the benchmark's size."""

    plan: Plan
    rows: TrainingRows
    boosters: dict[str, lightgbm.Booster]
    events: int

    def write(self, folder: Path, actions: Sequence[str]) -> Path:
        """A model folder with a binary head for each action."""
        heads = [
            TrainedHead(action, "binary", action, self.boosters[action].model_to_string(), {})
            for action in actions
        ]
        write_model(folder, heads, self.rows, self.plan, SERVICE, self.events)
        return folder


def train(plan: Plan, recorded: Sequence[Event], actions: Sequence[str]) -> Trained:
    """Learn what the newest requests of a replay tell of each action."""
    timeline = Timeline(plan, recorded)
    maker = RowMaker(plan, SERVICE, timeline.tables, actions)
    rows_left = sum(len(request.items) for request in timeline.requests)

    def add(request: Request) -> None:
        nonlocal rows_left
        if rows_left <= TRAINING_ROWS:
            maker.add(
                request.now, request.user_id, request.surface, request.items, request.outcomes
            )
        rows_left -= len(request.items)

    timeline.run(add)
    rows = maker.rows()
    # Leaves of few rows, so that all trees reach their full size on this many.
    parameters = PARAMETERS | {"objective": "binary", "num_leaves": LEAVES, "min_data_in_leaf": 20}
    boosters = {
        action: lightgbm.train(
            parameters,
            lightgbm.Dataset(rows.matrix, rows.labels[action], feature_name=list(rows.columns)),
            num_boost_round=TREES,
        )
        for action in actions
    }
    return Trained(plan, rows, boosters, timeline.events)


def requests(recorded: Sequence[Event], count: int = CANDIDATES, asked: int = ASKED) -> list[Asked]:
    """Requests of people who were seen, more often of those seen more, just after the last event.

    Their candidates are items that were shown: those whose rows hold counts.
    """
    rng = random.Random(5)
    about = {event.item_id: event for event in recorded if isinstance(event, ItemEvent)}
    shown = [event for event in recorded if isinstance(event, ImpressionEvent)]
    items = sorted({item.item_id for event in shown for item in event.items} & set(about))
    now = max(event.event_time for event in recorded) + 1
    found = []
    for event in rng.choices(shown, k=asked):
        candidates = rng.sample(items, count)
        request = RankRequest(
            user_id=event.user_id,
            surface=event.surface,
            candidates=candidates,
            limit=LIMIT,
            now=now,
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


@contextmanager
def ranker(url: str, repo: Path, model: Path) -> Iterator[Rank]:
    """The `ranker` process's own pipeline and event loop in this process, without HTTP and serving
    log."""
    settings = RankerSettings(
        redis=SecretStr(url),
        kafka="",
        repo=repo,
        model=model,
        # A busy machine shall make requests slow, not cut short.
        deadline_ms=10_000,
        user_read_timeout_ms=1_000,
    )
    compile_kernels()
    loop = new_loop()
    try:
        one = Ranker(settings)
        running = one.running()
        loop.run_until_complete(running.__aenter__())
        try:
            assert (why := one.unready()) is None, why
            yield Rank(loop, one)
        finally:
            loop.run_until_complete(running.__aexit__(None, None, None))
    finally:
        loop.close()


def in_turn(way: Callable[[Asked], object], asked: Sequence[Asked]) -> Callable[[], object]:
    """The same way, with the next request at each call."""
    calls = 0

    def next_one() -> object:
        nonlocal calls
        calls += 1
        return way(asked[calls % len(asked)])

    return next_one
