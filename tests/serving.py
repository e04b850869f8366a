"""A ranker in memory: a folded world behind the real pipeline, and models trained on the spot."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.candidates import USER_KEY
from features.entities import Hash
from features.errors import HeadraceError
from features.events import Event
from features.marker import Marker
from features.row_store import MemoryRows
from features.spec import LatestField, Plan
from features.strings import Strings
from ranker.admission import Admission
from ranker.front_desk import FrontDesk
from ranker.metrics import Observer
from ranker.pipeline import Pipeline, Stages
from ranker.reading import heads_loader, make_reading
from ranker.request import RankRequest, RankResponse
from ranker.rules import Rules
from ranker.scoring.value import ValueWeights
from ranker.stages.filters import all_filters
from ranker.stages.last_resort import Popular
from ranker.stages.roles import Query, User
from ranker.stages.serving_log import ServingLogEffect
from ranker.stages.sources import TrendingSource
from ranker.tables.turns import TurnLock
from ranker.tables.user_rows import UserRow, load_user
from ranker.training.boosting import Fitting
from ranker.training.fitting import HeadSpec, train_heads, write_model
from ranker.training.rows import RowMaker, TrainingRows
from streaming.replay import Request, Timeline
from tests.plans import (
    ITEM_EMBEDDING,
    ITEM_PROFILE,
    USER_EMBEDDING,
    USER_PROFILE,
    World,
    changed,
    plan,
)
from tests.stored import writes_of

ENDED = LatestField(name="ended", path="ended", dtype="Int64")
SERVED_PLAN: Plan = plan(
    latest=(
        ITEM_EMBEDDING,
        changed(ITEM_PROFILE, fields=(*ITEM_PROFILE.fields, ENDED)),
        USER_PROFILE,
        USER_EMBEDDING,
    )
)
CLICKS = ValueWeights(default={"click": 1.0})
UNHURRIED_MS = 300_000
"""The usual deadline here: the first request may have to wait for the compiler."""
OFFSET = 41
"""The source offset that every stored row is marked with."""


@dataclass
class SteadyLive:
    """Live tables that never change."""

    behind_ms: float = 0.0
    degraded: str | None = None

    def staleness_ms(self) -> float:
        return self.behind_ms


class StoredUsers:
    """A user hydrator over rows as a store would hold them; with a fault it fails."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.fault: HeadraceError | None = None
        rows = MemoryRows()
        rows.write(writes_of(world, OFFSET, [USER_KEY]))
        self.rows: dict[bytes, Hash] = rows.rows

    async def fetch(self, query: Query) -> Hash:
        if self.fault is not None:
            raise self.fault
        return self.rows.get(self._world.tables[USER_KEY].key_of(query.request.user_id), {})

    def hydrate(self, query: Query, stored: Hash) -> User:
        return self._user(query.request.user_id, stored, self._world.strings)

    def alone(self, query: Query, stored: Hash) -> User:
        return self._user(query.request.user_id, stored, Strings())

    def nobody(self) -> User:
        return self._user("", {}, self._world.strings)

    def _user(self, user_id: str, content: Hash, strings: Strings) -> User:
        row: UserRow = load_user(self._world.plan, strings, user_id, content)
        return User(row.table, row.row, row.marker, row.newest, row)


@dataclass
class KeptLog:
    """A serving log that keeps its records."""

    records: list[tuple[bytes, bytes]] = field(default_factory=list)
    dropped: int = 0

    def put(self, record: bytes, key: bytes) -> None:
        self.records.append((key, record))

    def newest(self) -> dict[str, Any]:
        """The last record."""
        return self.all()[-1]

    def all(self) -> list[dict[str, Any]]:
        """Every record."""
        return [json.loads(record) for _, record in self.records]


class Serving:
    """The pipeline over a world; it is also the `Service` behind both faces."""

    def __init__(
        self, world: World, model: Path | None = None, weights: ValueWeights = CLICKS
    ) -> None:
        self.world = world
        self.now = 10_000
        self.live = SteadyLive()
        self.users = StoredUsers(world)
        self.log = KeptLog()
        self.observer = Observer()
        self.not_ready: str | None = None
        self.rules = Rules()
        self.popular = Popular()
        self.queries: list[Query] = []
        tables = {key: table for key, table in world.tables.items() if key != USER_KEY}
        self.reading = make_reading(world.plan, "feed", tables, heads_loader(model, weights))
        self.pipeline = Pipeline(
            Stages(
                live=self.live,
                lock=TurnLock(),
                reading=lambda: self.reading,
                hydrator=self.users,
                sources=[TrendingSource(500)],
                filters=all_filters(lambda: self.rules),
                rules=lambda: self.rules,
                popular=lambda: self.popular,
                observe=self.queries.append,
                deadline_ms=UNHURRIED_MS,
                side_effects=[ServingLogEffect(self.log)],
                clock_ms=lambda: self.now,
            )
        )
        self.desk = FrontDesk(
            self.rank, self.observer, Admission(running_max=4, wait_ms_max=1_000), UNHURRIED_MS
        )

    def ask(self, **request: Any) -> RankResponse:
        """Rank, now."""
        return asyncio.run(self.rank(RankRequest(**request)))

    async def rank(self, request: RankRequest) -> RankResponse:
        response = await self.pipeline.rank(request)
        await asyncio.sleep(0)  # the side effects are begun once the answer is out
        self.pipeline.drain()
        return response

    def unready(self) -> str | None:
        return self.not_ready

    def observe(self) -> None:
        self.observer.set("item_staleness_ms", self.live.staleness_ms())

    def stopping(self) -> bool:
        return False


def folded(events: Iterable[Event], of: Plan = SERVED_PLAN) -> World:
    """A world after some events."""
    return World(of).fold(events)


def replayed(
    events: Iterable[Event], actions: Iterable[str] = ("click",), spill: Path | None = None
) -> TrainingRows:
    """The training rows of all requests among events."""
    timeline = Timeline(SERVED_PLAN, events)
    maker = RowMaker(SERVED_PLAN, "feed", timeline.tables, tuple(actions), spill)

    def make(request: Request) -> None:
        maker.add(request.now, request.user_id, request.surface, request.items, request.outcomes)

    timeline.run(make)
    return maker.rows()


def trained(folder: Path, rows: TrainingRows, *heads: str, trees: int = 10) -> Path:
    """A model folder, trained on rows."""
    specs = [HeadSpec.parse(head) for head in heads or ("click",)]
    write_model(
        folder, train_heads(rows, specs, Fitting(trees=trees)), rows, SERVED_PLAN, "feed", len(rows)
    )
    return folder


def marker_text() -> str:
    """The marker of every stored row, as a serving log names it."""
    return Marker(1, 0, OFFSET).encode().decode()
