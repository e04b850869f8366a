"""A small system in memory: route, aggregate, a ranker over stored rows, and archived logs."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.candidates import USER_KEY
from features.codec import entity_key
from features.entities import Hash
from features.events import Event, dump_event
from features.project import Projection
from features.row_store import MemoryRows
from features.spec import Plan
from ranker.pipeline import Pipeline, Stages
from ranker.reading import heads_loader, make_reading
from ranker.request import RankRequest, RankResponse
from ranker.rules import Rules
from ranker.scoring.value import ValueWeights
from ranker.stages.filters import all_filters
from ranker.stages.roles import Query, Source, User
from ranker.stages.serving_log import ServingLogEffect
from ranker.tables.refresh import LiveRows
from ranker.tables.turns import TurnLock
from ranker.tables.user_rows import load_user
from streaming.aggregate import Aggregator
from streaming.archive_folder import ArrowFolder
from streaming.blocks import decode_block
from streaming.logs.files import LogFiles
from streaming.logs.schema import BLOCK_LOG, EVENT_LOG, RANKING_LOG, LogKind
from streaming.logs.writer import CutSettings, PartitionLog
from streaming.records import Record
from streaming.route import Router
from tests.pipeline import GENERATION, SETTINGS
from tests.plans import changed
from tests.serving import CLICKS, SERVED_PLAN, UNHURRIED_MS, KeptLog, SteadyLive

SOURCES = 2
STEP = 5
"""Records that route takes at a time: each step makes blocks of its own."""


class _Users:
    """Reads users from the store, as `UserRowHydrator` does from Redis."""

    def __init__(self, plan: Plan, rows: MemoryRows, live: LiveRows) -> None:
        self._plan, self._rows, self._live = plan, rows, live

    async def fetch(self, query: Query) -> Hash:
        (entity,) = (e for e in self._plan.entities if e.join_key == USER_KEY)
        name = query.request.user_id
        key = entity_key(USER_KEY, entity.value_type, name, self._plan.project)
        return self._rows.rows.get(key, {})

    def hydrate(self, query: Query, stored: Hash) -> User:
        row = load_user(self._plan, self._live.strings, query.request.user_id, stored)
        return User(row.table, row.row, row.marker, row.newest, row)

    def alone(self, query: Query, stored: Hash) -> User:
        return self.hydrate(query, stored)

    def nobody(self) -> User:
        row = load_user(self._plan, self._live.strings, "", {})
        return User(row.table, row.row, row.marker, row.newest, row)


@dataclass
class Town:
    """Everything that happened, and the state it left."""

    plan: Plan = SERVED_PLAN
    model: Path | None = None
    weights: ValueWeights = CLICKS
    service: str = "feed"
    rules: Rules = field(default_factory=Rules)
    sources: Sequence[Source] = ()
    """What is asked by a request that brings no candidates."""
    kept_share: float = 1.0
    """Of how many requests the log keeps all candidates."""
    disturbed: Callable[[Event], Event | None] = lambda event: event
    """What becomes of an event on its way to the live rows; the log keeps it as it was."""
    events: dict[int, list[Record]] = field(default_factory=lambda: {s: [] for s in range(SOURCES)})
    updates: dict[int, list[Record]] = field(default_factory=dict)
    rows: MemoryRows = field(default_factory=MemoryRows)
    log: KeptLog = field(default_factory=KeptLog)
    clock_ms: int = 10**13
    """The broker's clock; each batch of records takes it a second."""

    def __post_init__(self) -> None:
        self._router = Router(SETTINGS, GENERATION, "town")
        for source in range(SOURCES):
            self._router.own(source, 0)
        self._aggregator = Aggregator(self.plan, self.rows)
        for target in range(SETTINGS.targets):
            self.updates[target] = []
            self._aggregator.own(target, GENERATION, 0)

    def feed(self, events: Sequence[Event]) -> None:
        """Let events happen: dealt out to partitions, routed a few at a time, and folded."""
        for start in range(0, len(events), STEP):
            for source in range(SOURCES):
                self._route(source, events[start : start + STEP][source::SOURCES])

    def _route(self, source: int, events: Sequence[Event]) -> None:
        self.clock_ms += 1_000
        log, first = self.events[source], len(self.events[source])
        log += [
            Record(source, first + n, b"", dump_event(event), self.clock_ms)
            for n, event in enumerate(events)
        ]
        seen = [
            record._replace(value=dump_event(other))
            for record, event in zip(log[first:], events, strict=True)
            if (other := self.disturbed(event)) is not None
        ]
        if not seen:
            return
        for out in self._router.step({source: seen}, Projection(self.plan)).outgoing:
            assert out.partition is not None
            target = self.updates[out.partition]
            record = Record(out.partition, len(target), None, out.value, self.clock_ms)
            target.append(record)
            self._aggregator.step({out.partition: [(record.offset, decode_block(out.value))]})

    def rank(self, now: int, **request: Any) -> RankResponse:
        """Rank from the rows as they stand."""
        live = LiveRows(self.plan)
        live.put(live.own(list(self.rows.rows)), self.rows.read(live.own(list(self.rows.rows))))
        load = heads_loader(self.model, self.weights)
        reading = make_reading(self.plan, self.service, live.tables, load)
        pipeline = Pipeline(
            Stages(
                live=SteadyLive(),
                lock=TurnLock(),
                reading=lambda: reading,
                hydrator=_Users(self.plan, self.rows, live),
                sources=self.sources,
                filters=all_filters(lambda: self.rules),
                rules=lambda: self.rules,
                deadline_ms=UNHURRIED_MS,
                side_effects=[ServingLogEffect(self.log, self.kept_share)],
                clock_ms=lambda: now,
            )
        )

        async def ask() -> RankResponse:
            found = await pipeline.rank(RankRequest(now=now, **request))
            await asyncio.sleep(0)
            pipeline.drain()
            return found

        try:
            return asyncio.run(ask())
        finally:
            pipeline.close()

    def archive(self, folder: Path, skip: Callable[[Record], bool] = lambda _: False) -> LogFiles:
        """The logs of all that happened; of events those that are not skipped."""
        files = LogFiles(ArrowFolder(str(folder)))
        for source, records in self.events.items():
            _archive(files, EVENT_LOG, source, [r for r in records if not skip(r)])
        for target, records in self.updates.items():
            _archive(files, BLOCK_LOG, target, records)
        rankings = [
            Record(0, n, key, value, self.clock_ms)
            for n, (key, value) in enumerate(self.log.records)
        ]
        _archive(files, RANKING_LOG, 0, rankings)
        return files


def _archive(files: LogFiles, kind: LogKind, partition: int, records: Sequence[Record]) -> None:
    one = PartitionLog(partition, GENERATION, kind, files, CutSettings(50, 60_000))
    one.resume(0)
    one.take(records)
    one.flush()


def reformulated(plan: Plan, view: str, feature: str, **changes: Any) -> Plan:
    """The plan with another formula for one feature; its state is the same."""
    views = tuple(
        changed(
            one,
            features=tuple(changed(f, **changes) if f.name == feature else f for f in one.features),
        )
        if one.name == view
        else one
        for one in plan.as_of
    )
    return changed(plan, as_of=views)
