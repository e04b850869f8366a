"""Each update is folded once: whatever is sent twice, read twice, or written by two."""

import dataclasses
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.entities import RowWrite
from features.events import EngagementEvent, Event, dump_event
from features.marker import Marker
from features.project import Projection
from features.row_store import Checkpoint, MemoryRows
from streaming.aggregate import Aggregator, Fenced
from streaming.blocks import Block
from tests.pipeline import (
    GENERATION,
    SETTINGS,
    blocks_by_target,
    final_rows,
    fold_logs,
    new_router,
    records_of,
    routed,
    unmarked,
)
from tests.plans import PLAN, World
from tests.stored import writes_of
from tests.strategies import histories

Log = list[tuple[int, Block]]


def _clicks(count: int) -> list[Event]:
    return [
        EngagementEvent(
            event_id=f"e{n}", event_time=n, user_id=f"u{n % 5}", item_id=f"i{n % 7}", action="click"
        )
        for n in range(count)
    ]


def _renumbered(blocks: Sequence[Block]) -> Log:
    return list(enumerate(blocks))


@given(histories(), st.integers(1, 20), st.integers(1, 9))
def test_rows_do_not_depend_on_how_the_stream_was_cut(
    events: list[Event], polled: int, folded: int
) -> None:
    store = MemoryRows()
    fold_logs(blocks_by_target(routed(events, PLAN, batch=polled)), PLAN, store, batch=folded)
    assert unmarked(store.rows) == final_rows(events, PLAN)


@given(histories())
def test_rows_equal_those_folded_without_any_stream(events: list[Event]) -> None:
    folded = MemoryRows()
    folded.write(writes_of(World().fold(events), offset=1))
    assert unmarked(folded.rows) == final_rows(events, PLAN)


@given(histories(), st.integers(1, 9), st.data())
def test_rows_and_markers_do_not_depend_on_what_is_folded_at_once(
    events: list[Event], polled: int, data: st.DataObject
) -> None:
    logs = blocks_by_target(routed(events, PLAN, batch=polled))
    single, store = MemoryRows(), MemoryRows()
    fold_logs(logs, PLAN, single, batch=1)
    aggregator = Aggregator(PLAN, store)
    left = {partition: list(blocks) for partition, blocks in logs.items()}
    for partition in logs:
        aggregator.own(partition, GENERATION, 0)
    while any(left.values()):
        sizes = {p: data.draw(st.integers(0, len(blocks))) for p, blocks in left.items()}
        assert not aggregator.step({p: left[p][:size] for p, size in sizes.items()})
        left = {p: blocks[sizes[p] :] for p, blocks in left.items()}
    assert store.rows == single.rows


@given(histories(), st.data())
def test_what_a_restarted_or_zombie_route_repeats_is_dropped(
    events: list[Event], data: st.DataObject
) -> None:
    """Rule 1: the log holds the work of several incarnations, each from an older offset."""
    projection = Projection(PLAN)
    records = records_of([dump_event(event) for event in events])
    outgoing = []
    for incarnation in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(records))) if incarnation else 0
        router = new_router(incarnation=str(incarnation))
        at = router.own(0, start)
        size = data.draw(st.integers(1, 15))
        for first in range(at, len(records), size):
            outgoing += router.step({0: records[first : first + size]}, projection).outgoing
    store = MemoryRows()
    fold_logs(blocks_by_target(outgoing), PLAN, store)
    assert unmarked(store.rows) == final_rows(events, PLAN)


@settings(max_examples=60)
@given(histories(), st.data())
def test_a_restart_from_any_checkpoint_gives_identical_rows(
    events: list[Event], data: st.DataObject
) -> None:
    """Rule 2: rows are ahead of the checkpoint; what is read again is skipped row by row."""
    logs = blocks_by_target(routed(events, PLAN, batch=3))
    whole, store = MemoryRows(), MemoryRows()
    fold_logs(logs, PLAN, whole, batch=2)
    for partition, blocks in sorted(logs.items()):
        for _ in range(data.draw(st.integers(1, 4))):
            aggregator = Aggregator(PLAN, store)
            start = aggregator.own(partition, GENERATION, 0)
            stop = data.draw(st.integers(start, len(blocks)))
            saved = data.draw(st.integers(start, stop))
            for at in range(start, stop):
                aggregator.step({partition: blocks[at : at + 1]})
                if at + 1 == saved:
                    store.save_checkpoint(partition, aggregator.checkpoints()[partition])
    fold_logs(logs, PLAN, store, batch=3)
    assert store.rows == whole.rows


def test_a_crash_between_the_rows_of_one_batch_is_made_good() -> None:
    logs = blocks_by_target(routed(_clicks(60), PLAN, batch=5))
    whole = MemoryRows()
    fold_logs(logs, PLAN, whole)
    rng = random.Random(1)
    for partition, blocks in logs.items():
        torn = _TornRows(rng)
        aggregator = Aggregator(PLAN, torn)
        aggregator.own(partition, GENERATION, 0)
        for at in range(len(blocks)):
            try:
                aggregator.step({partition: blocks[at : at + 1]})
            except _Torn:
                aggregator = _restarted(torn, partition, blocks[: at + 1])
        assert torn.rows == {key: whole.rows[key] for key in torn.rows}
        assert torn.torn > 0


def _restarted(store: "_TornRows", partition: int, blocks: Log) -> Aggregator:
    """An aggregator that read everything again, however often the store died meanwhile."""
    while True:
        aggregator = Aggregator(PLAN, store)
        assert aggregator.own(partition, GENERATION, 0) == 0
        try:
            aggregator.step({partition: blocks})
        except _Torn:
            continue
        return aggregator


class _Torn(Exception):
    pass


class _TornRows(MemoryRows):
    """A store that dies after some rows of a batch, now and then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.torn = 0

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        whole = self._rng.random() < 0.6 or self.torn > 5
        done = super().write(writes if whole else writes[: len(writes) // 2])
        if whole:
            return done
        self.torn += 1
        raise _Torn


def test_a_fenced_writer_stops_and_overwrites_nothing() -> None:
    """Rule 3: a newer owner wrote the row after this one had read it."""
    logs = blocks_by_target(routed(_clicks(60), PLAN, batch=5))
    partition, blocks = next(iter(logs.items()))
    store = MemoryRows()
    zombie, owner = Aggregator(PLAN, store), Aggregator(PLAN, store)
    zombie.own(partition, GENERATION, 0)
    zombie.step({partition: blocks[:2]})
    owner.own(partition, GENERATION, 0)
    owner.step({partition: blocks})
    rows = {key: dict(row) for key, row in store.rows.items()}
    with pytest.raises(Fenced):
        zombie.step({partition: blocks[2:4]})
    assert store.rows == rows


def test_a_change_on_top_of_another_version_than_was_read_is_refused() -> None:
    """Rule 3: a zombie writes between the owner's read and its write.

    The zombie's version has counts in a ring that the owner's lacks: the owner read before they
    came, and its change is past them. It would not know to delete them.
    """
    clicks = [e.model_copy(update={"user_id": "u", "item_id": "i"}) for e in _clicks(3)]
    hide, last = clicks[0].model_copy(update={"action": "hide"}), {"event_time": 10**6}
    events: list[Event] = [hide, clicks[1], clicks[2].model_copy(update=last | {"action": "hide"})]
    one = dataclasses.replace(SETTINGS, targets=1)
    (blocks,) = blocks_by_target(routed(events, PLAN, batch=1, settings=one)).values()
    store = _InterruptedRows()
    zombie, owner = Aggregator(PLAN, store), Aggregator(PLAN, store)
    for aggregator in (zombie, owner):
        aggregator.own(0, GENERATION, 0)
        aggregator.step({0: blocks[:1]})
    store.interruption = lambda: zombie.step({0: blocks[1:2]})
    with pytest.raises(Fenced):
        owner.step({0: blocks[1:]})
    assert owner.own(0, GENERATION, 0) == 0
    owner.step({0: blocks})
    assert unmarked(store.rows) == final_rows(events, PLAN)


class _InterruptedRows(MemoryRows):
    """A store where something happens just before the next write."""

    interruption: Callable[[], object] | None = None

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        happens, self.interruption = self.interruption, None
        if happens is not None:
            happens()
        return super().write(writes)


def test_a_gap_in_the_blocks_of_an_incarnation_is_a_fault_that_says_which() -> None:
    logs = blocks_by_target(routed(_clicks(60), PLAN, batch=5))
    partition, blocks = next(iter(logs.items()))
    aggregator = Aggregator(PLAN, MemoryRows())
    aggregator.own(partition, GENERATION, 0)
    gaps = aggregator.step({partition: [*blocks[:2], *blocks[3:]]})
    assert gaps.keys() == {partition}
    assert "sent block 3 of source 1/0 after 1: blocks between them" in gaps[partition]


def _one_log(batch: int = 5) -> tuple[int, Log]:
    return next(iter(blocks_by_target(routed(_clicks(60), PLAN, batch=batch)).items()))


def test_what_comes_before_a_gap_is_folded() -> None:
    partition, blocks = _one_log()
    store, whole = MemoryRows(), MemoryRows()
    aggregator = Aggregator(PLAN, store)
    aggregator.own(partition, GENERATION, 0)
    assert aggregator.step({partition: [*blocks[:2], *blocks[3:]]})
    fold_logs({partition: blocks[:2]}, PLAN, whole)
    assert store.rows == whole.rows


def test_a_gap_is_still_known_after_a_restart() -> None:
    partition, blocks = _one_log()
    store = MemoryRows()
    aggregator = Aggregator(PLAN, store)
    aggregator.own(partition, GENERATION, 0)
    aggregator.step({partition: blocks[:2]})
    store.save_checkpoint(partition, aggregator.checkpoints()[partition])
    again = Aggregator(PLAN, store)
    assert again.own(partition, GENERATION, 0) == 2
    assert "block 3 of source 1/0 after 1" in again.step({partition: blocks[3:4]})[partition]


def test_an_incarnation_whose_first_block_is_missing_is_a_gap() -> None:
    partition, blocks = _one_log()
    aggregator = Aggregator(PLAN, MemoryRows())
    aggregator.own(partition, GENERATION, 0)
    assert "after none" in aggregator.step({partition: blocks[1:]})[partition]


def test_where_the_numbers_were_not_kept_from_the_start_they_may_begin_anywhere() -> None:
    """A checkpoint of an older version, or a new life of `updates`."""
    partition, blocks = _one_log()
    old = Checkpoint.model_validate_json('{"generation": 1, "offset": 3, "high_water": {"1/0": 1}}')
    for generation in (GENERATION, GENERATION + 1):
        store = MemoryRows()
        store.save_checkpoint(partition, old)
        aggregator = Aggregator(PLAN, store)
        aggregator.own(partition, generation, 0)
        assert not aggregator.step({partition: blocks[3:5]})
        assert aggregator.step({partition: blocks[6:]})


def test_block_numbers_of_few_incarnations_are_kept() -> None:
    partition, blocks = _one_log()
    aggregator = Aggregator(PLAN, MemoryRows())
    aggregator.own(partition, GENERATION, 0)
    first = blocks[0][1]
    for number in range(30):
        header = dataclasses.replace(first.header, incarnation=f"r{number}")
        aggregator.step({partition: [(number, Block(header, first.updates))]})
    kept = aggregator.checkpoints()[partition].sequences["1/0"]
    assert list(kept) == [f"r{number}" for number in range(22, 30)]


def test_blocks_of_several_incarnations_may_interleave() -> None:
    (blocks,) = [
        [b for _, b in blocks]
        for blocks in blocks_by_target(
            routed(_clicks(60), PLAN, batch=5, settings=dataclasses.replace(SETTINGS, targets=1))
        ).values()
    ]
    zombie = [
        Block(dataclasses.replace(b.header, incarnation="zombie"), b.updates) for b in blocks[:6]
    ]
    mixed = [b for pair in zip(blocks[:6], zombie, strict=True) for b in pair] + blocks[6:]
    store = MemoryRows()
    aggregator = Aggregator(PLAN, store)
    aggregator.own(0, GENERATION, 0)
    aggregator.step({0: _renumbered(mixed)})
    assert unmarked(store.rows) == final_rows(_clicks(60), PLAN)
    assert aggregator.counts["repeated_updates"] > 0


def test_cached_rows_are_bounded() -> None:
    events = [e.model_copy(update={"user_id": f"u{n}"}) for n, e in enumerate(_clicks(400))]
    logs = blocks_by_target(routed(events, PLAN, batch=10))
    store = MemoryRows()
    reads = {}
    for limit in (20, 100_000):
        store = MemoryRows()
        aggregator = Aggregator(PLAN, store, rows_max=limit)
        for partition, blocks in sorted(logs.items()):
            aggregator.own(partition, GENERATION, 0)
            for at in range(len(blocks)):
                aggregator.step({partition: blocks[at : at + 1]})
        reads[limit] = aggregator.counts["rows_read"]
        assert unmarked(store.rows) == final_rows(events, PLAN)
    assert reads[20] > reads[100_000]


def test_a_new_life_of_updates_starts_at_its_beginning_and_folds_into_the_old_rows() -> None:
    first, second = _clicks(60)[:30], _clicks(60)[30:]
    store = MemoryRows()
    fold_logs(blocks_by_target(routed(first, PLAN)), PLAN, store)
    settings_ = dataclasses.replace(SETTINGS)
    router = new_router(settings_, incarnation="b", at=30)
    records = records_of([dump_event(e) for e in second], start=30)
    logs = blocks_by_target(router.step({0: records}, Projection(PLAN)).outgoing)
    aggregator = Aggregator(PLAN, store)
    for partition, blocks in logs.items():
        assert aggregator.own(partition, GENERATION + 1, 0) == 0
        aggregator.step({partition: blocks})
    assert unmarked(store.rows) == final_rows(_clicks(60), PLAN)


def test_what_a_checkpoint_covers_is_not_folded_again_in_a_new_life_of_updates() -> None:
    logs = blocks_by_target(routed(_clicks(60), PLAN))
    store = MemoryRows()
    aggregator = Aggregator(PLAN, store)
    for partition, blocks in logs.items():
        aggregator.own(partition, GENERATION, 0)
        aggregator.step({partition: blocks})
        store.save_checkpoint(partition, aggregator.checkpoints()[partition])
    rows = unmarked(store.rows)
    again = Aggregator(PLAN, store)
    for partition, blocks in logs.items():  # a restarted route sends them into the new topic
        again.own(partition, GENERATION + 1, 0)
        again.step({partition: blocks})
    assert unmarked(store.rows) == rows


def test_a_checkpoint_says_how_far_and_from_which_sources() -> None:
    logs = blocks_by_target(routed(_clicks(60), PLAN, batch=20))
    partition, blocks = next(iter(logs.items()))
    aggregator = Aggregator(PLAN, MemoryRows())
    assert aggregator.own(partition, GENERATION, 0) == 0
    aggregator.step({partition: blocks})
    assert aggregator.checkpoints() == {
        partition: Checkpoint(
            generation=GENERATION,
            offset=len(blocks),
            high_water={"1/0": blocks[-1][1].header.spans[0].last},
            sequences={"1/0": {"a": len(blocks) - 1}},
            whole=True,
        )
    }
    aggregator.disown(partition)
    assert aggregator.checkpoints() == {}


def test_a_row_is_marked_with_the_last_block_that_changed_it() -> None:
    logs = blocks_by_target(routed(_clicks(60), PLAN, batch=5))
    store = MemoryRows()
    fold_logs(logs, PLAN, store)
    for partition, blocks in logs.items():
        last: dict[bytes, int] = {}
        for offset, block in blocks:
            last |= dict.fromkeys(block.updates.keys, offset)
        for key, offset in last.items():
            assert Marker.decode(store.rows[key][b"_m"]) == Marker(GENERATION, partition, offset)
