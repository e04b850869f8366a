"""Replay: recorded events through route's decisions and aggregate's fold, at full speed.

What becomes of an event (parsed, repeated, too far ahead, refused), which rows it changes and how
they fold is what `route` and `aggregate` do; Kafka, blocks and one write per row and batch are left
out. State commutes, so partitions are taken one after the other and facts row by row.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from features.errors import Refused
from features.reader import reader_of
from features.row_store import RowStore
from features.spec import Plan
from streaming.blocks import decode_block
from streaming.plans import REPLAYED, Definitions, starts_of
from streaming.records import Record
from streaming.replays.chunk import COLUMNS, chunk_of
from streaming.replays.clocked import Tick, clocked
from streaming.replays.columnar import ColumnarProjection
from streaming.replays.recorded import RAW, Place, Recorded
from streaming.replays.repeats import Repeats
from streaming.replays.tables import ReplayTables, StateDigest
from streaming.route import Router, RouteSettings

SPANS: Final = "replay:spans"
"""Facts: the number of a span → where each partition stands at its end."""
DONE: Final = "replay:done"
OF: Final = "replay:of"
DIGEST_KEYS: Final = 2_000

Positions = dict[Place, int]
"""The next offset of each partition."""


class Phase(NamedTuple):
    """A plan, and the first offset of each partition that it applies to (0 if it names none)."""

    plan: Plan
    starts: Mapping[Place, int]


def phases_of(store: RowStore, places: Sequence[Place], declared: Plan) -> list[Phase]:
    """The plans of a project and where each applies; the declared one where none was ever in force.

    An offset that a later definition shares with an earlier one is the later one's.
    """
    definitions = Definitions(store)
    phases = [Phase(definitions[number].plan, {}) for number in range(len(definitions))]
    for place in places:
        starts = starts_of(store, *place)
        upto = 0
        for number, phase in enumerate(phases):
            upto = starts.get(number, upto)
            phases[number] = phase._replace(starts={**phase.starts, place: upto})
    if phases and store.remembered(REPLAYED):  # its first plan was given all there is
        phases[0] = phases[0]._replace(starts={})
    return phases or [Phase(declared, {})]


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What decides state beside the events and the plan, and what memory may be taken."""

    horizon: int = 100_000
    """Offsets within which a repeated event id is dropped."""
    max_ahead_ms: int = 300_000
    """How far past its append time an event may claim to have happened."""
    rows_max: int = 1_000_000
    """Rows held in memory before they go to the store."""
    span_records: int = 5_000_000
    """Records after which rows go to the store in any case: what a crash can cost."""
    until_ms: int | None = None
    """Events appended at or after this instant are left out."""


@dataclass(slots=True)
class Outcome:
    """What a replay did."""

    counts: Counter[str] = field(default_factory=Counter)
    """Records by fate (accepted, repeated, dead) and in all; updates; rows written."""
    positions: Positions = field(default_factory=dict)
    seconds: float = 0.0
    cpu_s: float = 0.0
    digest: str = ""
    rows: int = 0

    @property
    def events_per_s_per_core(self) -> float:
        """Records over processor seconds."""
        return self.counts["records"] / max(self.cpu_s, 1e-9)


class Route(Protocol):
    """`route` of one plan, for a batch of one partition's records."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns of archived events that it reads."""

    def step(
        self, place: Place, rows: pa.Table, resume_at: int, tables: ReplayTables
    ) -> Counter[str]:
        """Fold what the rows change; those below `resume_at` only count as having occurred."""


class ColumnarRoute:
    """`route` over columns, for Headrace's own events."""

    def __init__(self, plan: Plan, repeats: dict[Place, Repeats], settings: ReplaySettings) -> None:
        self._projection = ColumnarProjection(plan)
        self._repeats, self._settings = repeats, settings
        named = ("event_id",) if self._projection.names_shown else ()
        self.columns: Sequence[str] = (*COLUMNS, *named)

    def step(
        self, place: Place, rows: pa.Table, resume_at: int, tables: ReplayTables
    ) -> Counter[str]:
        """The fates of `Router.step`, in its order: parsed, repeated, ahead, refused."""
        settings, chunk = self._settings, chunk_of(*place, rows)
        fresh = chunk.offset >= resume_at
        repeated = np.zeros(len(chunk), np.bool_)
        good = np.flatnonzero(chunk.good)
        repeats = self._repeats.setdefault(place, Repeats(settings.horizon))
        repeated[good] = repeats.repeated(chunk.identity[good], chunk.offset[good])
        taken = chunk.good & ~repeated & fresh
        ahead = chunk.time - chunk.append_time > settings.max_ahead_ms
        accepted = taken & ~ahead & ~self._projection.refused(chunk)
        projected, refused = self._projection.updates(chunk, accepted)
        tables.fold(projected)
        counts = Counter(records=int(fresh.sum()), updates=len(projected))
        counts["accepted"] = int(accepted.sum()) - refused
        counts["repeated"] = int((repeated & fresh).sum())
        counts["dead"] = counts["records"] - counts["accepted"] - counts["repeated"]
        return counts


class RowRoute:
    """`route` itself, for plans of plain records."""

    columns: Sequence[str] = RAW

    def __init__(self, plan: Plan, routers: dict[Place, Router], settings: ReplaySettings) -> None:
        self._reader, self._routers = reader_of(plan), routers
        self._settings = RouteSettings(
            "events", "updates", "dead-letters", 1, settings.horizon, settings.max_ahead_ms
        )

    def step(
        self, place: Place, rows: pa.Table, resume_at: int, tables: ReplayTables
    ) -> Counter[str]:
        """Blocks of one target, decoded and folded at once."""
        router = self._routers.get(place)
        if router is None:
            router = self._routers[place] = Router(self._settings, place.generation, "replay")
            router.own(place.partition, resume_at)
        times = rows.column("append_time").cast(pa.int64()).to_pylist()
        others = (rows.column(name).to_pylist() for name in ("offset", "key", "value"))
        records = [
            Record(place.partition, offset, key, value, at)
            for offset, key, value, at in zip(*others, times, strict=True)
        ]
        routed = router.step({place.partition: records}, self._reader)
        for outgoing in routed.outgoing:
            if outgoing.topic == self._settings.updates:
                tables.fold_columns(decode_block(outgoing.value).updates)
        counts = Counter(records=sum(record.offset >= resume_at for record in records))
        for kind in ("accepted", "repeated", "dead", "updates"):
            counts[kind] = routed.counts[kind]
        return counts


class Replay:
    """One replay into a store, from its start or from where it was broken off."""

    def __init__(
        self,
        recorded: Recorded,
        phases: Sequence[Phase],
        store: RowStore,
        settings: ReplaySettings,
        *,
        resume: bool = False,
    ) -> None:
        self._recorded, self._phases, self._store = recorded, phases, store
        self._settings = settings
        # What one plan counts, the others keep: rows may be folded under each of them.
        self.tables = ReplayTables(phases[0].plan, store, [phase.plan for phase in phases])
        self.outcome = Outcome()
        self._repeats: dict[Place, Repeats] = {}
        self._routers: dict[Place, Router] = {}
        self._held = 0
        """Records that were folded since the last flush."""
        self._planned: Positions | None = None
        self._begin(resume)

    def run(
        self,
        watch: Callable[[Outcome], None] = lambda _: None,
        upto: Mapping[Place, int] | None = None,
    ) -> Outcome:
        """Fold everything, or what stands below some offsets, as fast as it goes."""
        began, cpu = time.perf_counter(), time.process_time()
        if self._planned is not None:
            for phase in self._phases:
                self._fold_phase(phase, self._planned, watch)
            self._flush()
        for phase in self._phases:
            self._fold_phase(phase, upto or {}, watch)
            if len(self._phases) > 1:
                self._flush()
        self.outcome.seconds += time.perf_counter() - began
        self.outcome.cpu_s += time.process_time() - cpu
        return self.outcome

    def run_clocked(self, tick_ms: int, on_tick: Callable[[Tick], bool]) -> Outcome:
        """Fold tick after tick of append time; rows are written before `on_tick` hears of each.

        It ends when `on_tick` says no, or at the last event.
        """
        for phase in self._phases:
            self._use(phase)
            route = self._route(phase.plan)
            firsts, stops = self._firsts(), self._stops(phase, {})
            for tick in clocked(self._recorded, route.columns, firsts, stops, tick_ms):
                for place, rows in tick.parts:
                    self._step(route, place, rows)
                self._flush()
                if not on_tick(tick):
                    return self.outcome
        return self.outcome

    def finish(self) -> Outcome:
        """Write what is held and wait until it is safe."""
        self._flush()
        if not self._store.seal().settled():
            raise Refused("the store does not confirm that the replayed rows are durable")
        return self.outcome

    def digest(self) -> Outcome:
        """Add the digest of all rows to the outcome; of a store when they were written there."""
        digest = StateDigest()
        if self.tables.span == 1:
            for key, row in self.tables.hashes():
                digest.add(key, row)
        else:
            self._flush()
            for entity in self.tables.plan.entities:
                for keys in every(self._store, entity.join_key):
                    for key, row in zip(keys, self._store.read(keys), strict=True):
                        digest.add(key, row)
        self.outcome.digest, self.outcome.rows = digest.text, digest.rows
        return self.outcome

    def _begin(self, resume: bool) -> None:
        """Where to go on; Refused when the store holds another replay, or one unasked for."""
        store = self._store
        of = json.dumps(
            {
                "events": self._recorded.name,
                "plans": [phase.plan.version for phase in self._phases],
                "horizon": self._settings.horizon,
                "max_ahead_ms": self._settings.max_ahead_ms,
            },
            sort_keys=True,
        )
        known = store.remembered(OF).get("replay")
        if known is not None and not resume:
            raise Refused(
                "a replay into this project or state file was begun before: go on with --resume, "
                "or name another"
            )
        if store.remember(OF, "replay", of) != of:
            raise Refused(
                f"the replay that was begun here was another one ({known}): name another project "
                "or state file"
            )
        done = store.raise_to(DONE, {"span": 0})["span"]
        spans = store.remembered(SPANS)
        begun = dict(self._phases[0].starts)
        self.outcome.positions = begun | _decoded(spans.get(str(done), "{}"))
        if str(done + 1) in spans:
            self._planned = _decoded(spans[str(done + 1)])
        self.tables.begin(done + 1, store_is_empty=done == 0 and self._planned is None)

    def _fold_phase(
        self, phase: Phase, planned: Mapping[Place, int], watch: Callable[[Outcome], None]
    ) -> None:
        self._use(phase)
        route, stops = self._route(phase.plan), self._stops(phase, planned)
        for place in self._recorded.places():
            if planned and place not in planned:
                continue
            first, stop = self._firsts()[place], stops.get(place)
            if stop is not None and self.outcome.positions.get(place, 0) >= stop:
                continue
            for rows in self._recorded.rows(place, first, stop, route.columns):
                kept = self._before_end(rows)
                self._step(route, place, kept)
                watch(self.outcome)
                if not planned and self._is_due():
                    self._flush()
                if len(kept) < len(rows):
                    break

    def _use(self, phase: Phase) -> None:
        if phase.plan.version != self.tables.plan.version:
            self._flush()
            self.tables.use(phase.plan)

    def _route(self, plan: Plan) -> Route:
        if plan.plain:
            return RowRoute(plan, self._routers, self._settings)
        return ColumnarRoute(plan, self._repeats, self._settings)

    def _firsts(self) -> Positions:
        """Where to read each partition from: its position, and where ids must be known, before."""
        found = {}
        for place in self._recorded.places():
            position = self.outcome.positions.get(place, 0)
            known = place in self._repeats or place in self._routers
            found[place] = position if known else max(0, position - self._settings.horizon)
        return found

    def _stops(self, phase: Phase, planned: Mapping[Place, int]) -> Positions:
        number = self._phases.index(phase)
        following = self._phases[number + 1].starts if number + 1 < len(self._phases) else {}
        stops = dict(following)
        for place, stop in planned.items():
            stops[place] = min(stop, stops.get(place, stop))
        return stops

    def _step(self, route: Route, place: Place, rows: pa.Table) -> None:
        if not len(rows):
            return
        resume_at = self.outcome.positions.get(place, 0)
        counts = route.step(place, rows, resume_at, self.tables)
        self.outcome.counts += counts
        self._held += counts["records"]
        last: int = rows.column("offset")[-1].as_py()
        self.outcome.positions[place] = max(resume_at, last + 1)

    def _before_end(self, rows: pa.Table) -> pa.Table:
        """What was appended before the end of the replay."""
        if self._settings.until_ms is None:
            return rows
        times = np.asarray(rows.column("append_time").cast(pa.int64()))
        late = np.flatnonzero(times >= self._settings.until_ms)
        return rows.slice(0, int(late[0])) if len(late) else rows

    def _is_due(self) -> bool:
        settings = self._settings
        return self._held >= settings.span_records or len(self.tables) > settings.rows_max

    def _flush(self) -> None:
        """1. plan the end of the span; 2. write its rows; 3. say that they are safe."""
        if not self._held and self._planned is None:
            return
        store, span = self._store, self.tables.span
        store.remember(SPANS, str(span), _encoded(self.outcome.positions))
        self.outcome.counts["rows_written"] += self.tables.flush()
        if not store.seal().settled():
            raise Refused("the store does not confirm that the replayed rows are durable")
        store.raise_to(DONE, {"span": span})
        if len(self.tables) > self._settings.rows_max:
            self.tables.forget()
        self._held, self._planned = 0, None
        self.tables.begin(span + 1)


def every(store: Any, join_key: str) -> Iterator[list[bytes]]:
    """The keys of all rows of an entity in a store that can tell them."""
    found: Iterator[list[bytes]] = store.every(join_key, DIGEST_KEYS)
    return found


def _encoded(positions: Positions) -> str:
    return json.dumps({str(place): at for place, at in sorted(positions.items())})


def _decoded(text: str) -> Positions:
    found: dict[str, int] = json.loads(text)
    return {Place(*map(int, name.split("/"))): at for name, at in found.items()}
