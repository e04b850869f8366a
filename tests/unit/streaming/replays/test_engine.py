"""Replay as a whole: broken off anywhere it ends up the same, in any memory, at any pace."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.entities import RowWrite
from features.errors import Refused
from features.events import Event, dump_event
from features.row_store import MemoryRows
from streaming.event_file import write_events
from streaming.local_rows import LocalRows
from streaming.plans import REPLAYED, Activations, Definitions, claim
from streaming.records import Record
from streaming.replays.clocked import Tick
from streaming.replays.engine import Outcome, Phase, Replay, ReplaySettings, phases_of
from streaming.replays.recorded import FileEvents, Place
from tests.browsing import browsing
from tests.pipeline import final_rows, unmarked
from tests.plans import changed
from tests.recordings import ROUTED, ListedEvents, archived, listed, replay_of, replayed_rows
from tests.serving import SERVED_PLAN
from tests.strategies import histories

EVENTS = browsing(60, seed=8)
ROWS = final_rows(EVENTS, SERVED_PLAN)
SMALL = ReplaySettings(ROUTED.horizon, ROUTED.max_ahead_ms, rows_max=20, span_records=40)


class Crash(Exception):
    """The process is gone."""


class MortalRows(MemoryRows):
    """Rows whose writer dies at its n-th call: after half of what it wrote, or after all."""

    def __init__(self, calls: int, half: bool) -> None:
        super().__init__()
        self.calls, self._half = calls, half

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        self.calls -= 1
        if self.calls:
            return super().write(writes)
        super().write(writes[: len(writes) // 2] if self._half else writes)
        raise Crash


@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=4), st.integers(1, 3))
def test_a_replay_that_dies_inside_its_writes_counts_nothing_twice(
    deaths: list[tuple[int, bool]], partitions: int
) -> None:
    recorded = listed(EVENTS, 11, partitions)
    store = MortalRows(0, half=False)
    resume = False
    for calls, half in [*deaths, (0, False)]:
        store.calls, store._half = calls, half  # noqa: SLF001 - its next death
        replay = Replay(recorded, [Phase(SERVED_PLAN, {})], store, SMALL, resume=resume)
        resume = True
        try:
            replay.run()
            replay.finish()
        except Crash:
            continue
    assert unmarked(store.rows) == ROWS


def test_memory_is_bounded_by_rows_that_go_to_the_store_and_come_back(tmp_path: Path) -> None:
    store = LocalRows(tmp_path / "rows.sqlite")
    replay = replay_of(SERVED_PLAN, listed(EVENTS, 3), store, SMALL)
    most: list[int] = []
    replay.run(lambda _: most.append(len(replay.tables)))
    replay.finish()
    assert max(most) < 20 + 30 < len(ROWS)
    digest = replay.digest().digest
    whole = replay_of(SERVED_PLAN, listed(EVENTS, 50))
    whole.run()
    assert (whole.digest().digest, whole.outcome.rows) == (digest, len(ROWS))
    store.close()


@settings(max_examples=8)
@given(histories(), st.integers(1, 9), st.integers(1, 3))
def test_the_digest_depends_on_events_alone(
    events: list[Event], size: int, partitions: int
) -> None:
    def digest(recorded: ListedEvents) -> str:
        replay = replay_of(SERVED_PLAN, recorded)
        replay.run()
        return replay.digest().digest

    assert digest(listed(events, size, partitions)) == digest(listed(events, 7, 1))


def test_another_event_makes_another_digest() -> None:
    def digest(count: int) -> str:
        replay = replay_of(SERVED_PLAN, listed(EVENTS[:count]))
        replay.run()
        return replay.digest().digest

    assert len({digest(count) for count in (57, 58, 59)}) == 3


def test_a_replay_that_was_begun_is_gone_on_with_only_when_asked_and_only_the_same() -> None:
    store = MemoryRows()
    replay_of(SERVED_PLAN, listed(EVENTS), store).run()
    with pytest.raises(Refused, match="--resume"):
        replay_of(SERVED_PLAN, listed(EVENTS), store)
    other = listed(EVENTS)
    other.name = "another list"
    with pytest.raises(Refused, match="another one"):
        Replay(other, [Phase(SERVED_PLAN, {})], store, ROUTED, resume=True)


def test_a_resumed_replay_knows_the_ids_of_the_span_before() -> None:
    values = [dump_event(event) for event in EVENTS]
    store = MemoryRows()
    replay = replay_of(SERVED_PLAN, ListedEvents({0: values}), store)
    replay.run()
    replay.finish()
    longer = ListedEvents({0: [*values, *values[-30:]]})
    again = Replay(longer, [Phase(SERVED_PLAN, {})], store, ROUTED, resume=True)
    again.run()
    assert (again.outcome.counts["repeated"], again.outcome.counts["accepted"]) == (30, 0)
    assert longer.read[0] == (Place(1, 0), max(0, len(values) - ROUTED.horizon))


def test_ticks_come_in_order_of_append_time_and_make_the_same_rows() -> None:
    recorded = listed(EVENTS, 5, partitions=3)
    store = MemoryRows()
    ticks: list[int] = []
    replay = replay_of(SERVED_PLAN, recorded, store)

    def on_tick(tick: Tick) -> bool:
        ticks.append(tick.records)
        return True

    replay.run_clocked(60_000, on_tick)
    replay.finish()
    assert sum(ticks) == len(EVENTS)
    assert unmarked(store.rows) == ROWS


def test_a_stepped_replay_stops_where_it_is_told_and_its_rows_stand(tmp_path: Path) -> None:
    records = {
        0: [
            Record(0, n, None, dump_event(event), 1_000_000 + 100 * n)
            for n, event in enumerate(EVENTS)
        ]
    }
    recorded = archived(tmp_path, records)
    store = MemoryRows()
    ends: list[int] = []

    def on_tick(tick: Tick) -> bool:
        ends.append(tick.end_ms)
        return len(ends) < 3

    replay = replay_of(SERVED_PLAN, recorded, store, ReplaySettings(1_000, 10**13))
    outcome: Outcome = replay.run_clocked(1_000, on_tick)
    assert ends == [1_001_000, 1_002_000, 1_003_000]
    assert outcome.counts["records"] == 30
    assert unmarked(store.rows) == final_rows(EVENTS[:30], SERVED_PLAN)


def test_a_plan_applies_from_the_offset_where_it_came_into_force() -> None:
    fewer = changed(SERVED_PLAN, activity=SERVED_PLAN.activity[:2])
    cut = 100
    store = MemoryRows()
    phases = [Phase(fewer, {}), Phase(SERVED_PLAN, {Place(1, 0): cut})]
    replay = Replay(listed(EVENTS), phases, store, ROUTED)
    replay.run()
    replay.finish()
    later = final_rows(EVENTS[cut:], SERVED_PLAN)
    (user,) = (v for v in SERVED_PLAN.activity if v.name == "user_activity")
    stamp = b"_ts:" + user.name.encode()
    found = {key: row for key, row in unmarked(store.rows).items() if stamp in row}
    counts = {key: {f: v for f, v in row.items() if f in later[key]} for key, row in found.items()}
    assert {k: r[stamp] for k, r in counts.items()} == {
        k: row[stamp] for k, row in later.items() if stamp in row
    }


def test_a_file_of_events_is_replayed_as_one_partition(tmp_path: Path) -> None:
    for name in ("events.jsonl", "events.jsonl.gz"):
        write_events(tmp_path / name, EVENTS)
        assert replayed_rows(SERVED_PLAN, FileEvents(tmp_path / name)) == ROWS


def test_an_archive_is_replayed_up_to_an_append_time(tmp_path: Path) -> None:
    records = {
        0: [Record(0, n, None, dump_event(e), 10**13 + n) for n, e in enumerate(EVENTS)],
    }
    recorded = archived(tmp_path, records, size=16)
    store = MemoryRows()
    until = ReplaySettings(1_000, 1_000, until_ms=10**13 + 50)
    replay = replay_of(SERVED_PLAN, recorded, store, until)
    replay.run()
    replay.finish()
    assert unmarked(store.rows) == final_rows(EVENTS[:50], SERVED_PLAN)
    assert replayed_rows(SERVED_PLAN, recorded) == ROWS


def test_the_plans_of_a_project_apply_from_where_its_store_says() -> None:
    fewer = changed(SERVED_PLAN, activity=SERVED_PLAN.activity[:2])
    store, place, late = MemoryRows(), Place(1, 0), Place(1, 1)
    assert phases_of(store, [place], SERVED_PLAN) == [Phase(SERVED_PLAN, {})]
    definitions = Definitions(store)
    definitions.define(fewer, 1)
    Activations(store, definitions, 1, 0).catch_up(40)
    definitions.define(SERVED_PLAN, 2)
    claim(store, 1, {0: 99})
    Activations(store, definitions, 1, 0).catch_up()
    assert phases_of(store, [place, late], SERVED_PLAN) == [
        Phase(fewer, {place: 40, late: 0}),
        Phase(SERVED_PLAN, {place: 100, late: 0}),
    ]
    # What replay filled was given everything, whatever its `route` began with.
    store.remember(REPLAYED, "life/0", "40")
    assert phases_of(store, [place], SERVED_PLAN)[0] == Phase(fewer, {})
