"""Route, aggregate and ranker in the test's own process, over rows in a dict."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.stream_tests.script import Values, refuse
from deploy.stream_tests.vectors import vectors
from features.candidates import USER_KEY
from features.entities import Hash
from features.events import Event, dump_event, record_key
from features.project import Projection
from features.row_store import MemoryRows
from features.spec import Plan
from ranker.pipeline import Pipeline, Stages
from ranker.reading import heads_loader, make_reading
from ranker.recount import Recounter
from ranker.request import RankRequest, RankResponse
from ranker.rules import read_rules
from ranker.scoring.value import read_weights
from ranker.stages.filters import all_filters
from ranker.stages.roles import Query, User
from ranker.stages.sources import TrendingSource
from ranker.tables.refresh import LiveRows
from ranker.tables.turns import TurnLock
from ranker.tables.user_rows import load_user
from streaming.aggregate import Aggregator
from streaming.blocks import decode_block
from streaming.dead_letters import read_dead_letter
from streaming.records import Record
from streaming.route import Router, RouteSettings

UNHURRIED_MS: Final = 300_000
"""The first request may have to wait for the compiler."""
SOURCED_MAX: Final = 500
GENERATION: Final = 1
ROUTE: Final = RouteSettings("events", "updates", "dead-letters", 1, 100_000, 300_000)


class MemoryTwin:
    """A `Twin` without servers: records and blocks go from hand to hand."""

    def __init__(self, plan: Plan, repo: Path, service: str, model: Path | None = None) -> None:
        self._plan, self._service = plan, service
        self._load_heads = heads_loader(model, read_weights(repo / "value.yaml"))
        self._rules = read_rules(repo / "feed.yaml")
        self._rows = MemoryRows()
        self._recounter = Recounter(plan, service, self._load_heads)
        self._router = Router(ROUTE, GENERATION, "test")
        self._router.own(0, 0)
        self._aggregator = Aggregator(plan, self._rows)
        self._aggregator.own(0, GENERATION, 0)
        self._events = self._blocks = 0

    def send(self, events: Sequence[Event], now: int) -> None:
        """Route and fold them; `now` is the log's append time."""
        records = [
            Record(0, self._events + number, record_key(event), dump_event(event), now)
            for number, event in enumerate(events)
        ]
        if not records:
            return
        self._events += len(records)
        dead = []
        for out in self._router.step({0: records}, Projection(self._plan)).outgoing:
            if out.topic == ROUTE.updates:
                self._aggregator.step({0: [(self._blocks, decode_block(out.value))]})
                self._blocks += 1
            else:
                letter = Record(0, 0, out.key, out.value, now, tuple(out.headers))
                dead.append(read_dead_letter(letter).reason)
        refuse(dead)

    def features(self, user: str, items: Sequence[str], surface: str, now: int) -> list[Values]:
        """Computed as the ranker does, from the rows as they stand."""
        return vectors(self._recounter, self._rows, user, items, surface, now)

    def rank(self, request: RankRequest) -> RankResponse:
        """Through the ranker's pipeline, over live tables made of the rows as they stand."""
        live = LiveRows(self._plan)
        keys = live.own(list(self._rows.rows))
        live.put(keys, self._rows.read(keys))
        reading = make_reading(self._plan, self._service, live.tables, self._load_heads)
        pipeline = Pipeline(
            Stages(
                live=_Steady(),
                lock=TurnLock(),
                reading=lambda: reading,
                hydrator=_Users(self._recounter, self._rows, live),
                sources=[TrendingSource(SOURCED_MAX)],
                filters=all_filters(lambda: self._rules),
                rules=lambda: self._rules,
                deadline_ms=UNHURRIED_MS,
                side_effects=[],
                clock_ms=lambda: request.now or 0,
            )
        )
        try:
            return asyncio.run(pipeline.rank(request))
        finally:
            pipeline.close()


class _Steady:
    """Live tables that are never behind."""

    degraded: str | None = None

    def staleness_ms(self) -> float:
        return 0.0


class _Users:
    """Reads users from the dict, as `UserRowHydrator` does from Redis."""

    def __init__(self, recounter: Recounter, rows: MemoryRows, live: LiveRows) -> None:
        self._recounter, self._rows, self._live = recounter, rows, live

    async def fetch(self, query: Query) -> Hash:
        key = self._recounter.key_of(USER_KEY, query.request.user_id)
        return self._rows.rows.get(key, {})

    def hydrate(self, query: Query, stored: Hash) -> User:
        return self._user(query.request.user_id, stored)

    def alone(self, query: Query, stored: Hash) -> User:
        return self._user(query.request.user_id, stored)

    def nobody(self) -> User:
        return self._user("", {})

    def _user(self, user_id: str, stored: Hash) -> User:
        row = load_user(self._recounter.plan, self._live.strings, user_id, stored)
        return User(row.table, row.row, row.marker, row.newest, row)
