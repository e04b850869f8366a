"""What a router sends is a function of the log: blocks for the good, dead letters for the bad."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.events import EngagementEvent, Event, ImpressionEvent, ShownItem, dump_event
from features.project import Projection
from features.updates import event_hash, partition_of
from streaming.dead_letters import read_dead_letter
from streaming.kafka import RECORD_BYTES_MAX
from streaming.records import Outgoing, Record
from streaming.route import BLOCK_BYTES
from tests.pipeline import LONG_AFTER, SETTINGS, blocks_by_target, new_router, records_of, routed
from tests.plans import PLAN
from tests.records import bad_records, far_future_records
from tests.strategies import histories

PROJECTION = Projection(PLAN)
NOW = 1_000_000


def _click(number: int, user: str = "u", **more: object) -> bytes:
    return dump_event(
        EngagementEvent(
            event_id=f"e{number}", event_time=number, user_id=user, item_id="i", action="click"
        ).model_copy(update=more)
    )


def _dead(outgoing: list[Outgoing]) -> list[tuple[int, str]]:
    records = [
        Record(0, n, o.key, o.value, 0, o.headers)
        for n, o in enumerate(outgoing)
        if o.topic == SETTINGS.dead_letters
    ]
    return [(letter.offset, letter.reason) for letter in map(read_dead_letter, records)]


def test_updates_go_to_the_partition_of_their_key() -> None:
    records = records_of([_click(n, user=f"u{n}") for n in range(50)])
    logs = blocks_by_target(new_router().step({0: records}, PROJECTION).outgoing)
    assert set(logs) == {0, 1, 2}
    for target, blocks in logs.items():
        for _, block in blocks:
            assert {partition_of(key, SETTINGS.targets) for key in block.updates.keys} == {target}


def test_a_block_names_its_plan_its_source_and_what_it_covers() -> None:
    router = new_router(at=40, incarnation="xyz")
    records = records_of([_click(n) for n in range(10)], start=40)
    ((_, block),) = blocks_by_target(router.step({0: records}, PROJECTION).outgoing)[
        partition_of(PROJECTION_KEY, SETTINGS.targets)
    ]
    header = block.header
    assert header.plan == PLAN.version
    (span,) = header.spans
    assert (header.source_name(span), span.first, span.last) == ("1/0", 40, 49)
    assert span.updates == len(block.updates)
    assert header.incarnation == "xyz"


PROJECTION_KEY = PROJECTION.updates(
    [(0, EngagementEvent(event_id="e", event_time=1, user_id="u", item_id="i", action="hide"))]
).keys[0]


def test_blocks_to_one_target_are_counted_without_a_gap() -> None:
    router = new_router()
    outgoing = [
        o
        for start in range(0, 50, 10)
        for o in router.step(
            {0: records_of([_click(start + n) for n in range(10)], start=start)}, PROJECTION
        ).outgoing
    ]
    for blocks in blocks_by_target(outgoing).values():
        assert [block.header.spans[0].sequence for _, block in blocks] == list(range(len(blocks)))


def test_what_several_sources_bring_in_one_step_shares_blocks_and_says_what_is_whose() -> None:
    router = new_router(partition=4)
    router.own(7, 0)
    users = {4: ["a", "b", "b"], 7: ["b", "c"]}
    arrived = {
        source: records_of(
            [_click(10 * source + n, user=user) for n, user in enumerate(users)], partition=source
        )
        for source, users in users.items()
    }
    for _, block in itertools.chain(
        *blocks_by_target(router.step(arrived, PROJECTION).outgoing).values()
    ):
        events = block.updates.event.tolist()
        sources = [span.source for span in block.header.spans for _ in range(span.updates)]
        for source, offset, event in zip(sources, block.updates.offset, events, strict=True):
            assert event == event_hash(f"e{10 * source + offset}")
        assert len(sources) == len(events)
        assert all((s.first, s.last) == (0, len(users[s.source]) - 1) for s in block.header.spans)
        assert all(span.updates for span in block.header.spans)
        assert all(span.sequence == 0 for span in block.header.spans)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_repeats_are_dropped_within_and_across_polls(batch: int) -> None:
    events = [_click(n % 7) for n in range(20)]
    router, accepted, repeated = new_router(), 0, 0
    records = records_of(events)
    for start in range(0, 20, batch):
        counts = router.step({0: records[start : start + batch]}, PROJECTION).counts
        accepted, repeated = accepted + counts["accepted"], repeated + counts["repeated"]
    assert (accepted, repeated) == (7, 13)


def test_a_restart_decides_the_same_about_repeats_and_sends_nothing_of_the_past() -> None:
    settings = dataclasses.replace(SETTINGS, horizon=10)
    records = records_of([_click(n % 13) for n in range(40)] + [b"bad"])
    whole = new_router(settings).step({0: records}, PROJECTION)
    for at in range(len(records)):
        router = new_router(settings)
        read_from = router.own(0, at)
        assert read_from == max(0, at - 10)
        again = router.step({0: records[read_from:]}, PROJECTION)
        assert _offsets(again.outgoing) == {o for o in _offsets(whole.outgoing) if o >= at}


def _offsets(outgoing: list[Outgoing]) -> set[int]:
    """Source offsets of all updates and dead letters."""
    logs = blocks_by_target(outgoing).values()
    found = {o for blocks in logs for _, b in blocks for o in b.updates.offset.tolist()}
    return found | {offset for offset, _ in _dead(outgoing)}


def test_bad_records_are_buried_with_reasons_and_the_good_ones_around_them_go_on() -> None:
    bad = bad_records(5, 300)
    values = [v for n, (_, b) in enumerate(bad) for v in (b, _click(n))]
    done = new_router().step({0: records_of(values)}, PROJECTION)
    assert done.counts["accepted"] == done.counts["dead"] == 300
    assert [offset for offset, _ in _dead(done.outgoing)] == list(range(0, 600, 2))
    assert all(reason for _, reason in _dead(done.outgoing))
    letters = [o.value for o in done.outgoing if o.topic == SETTINGS.dead_letters]
    assert letters == [content for _, content in bad]


def test_an_event_far_ahead_of_its_append_time_is_a_dead_letter_whatever_the_clock_says() -> None:
    values = far_future_records(3, 20, NOW, SETTINGS.max_ahead_ms)
    done = new_router().step({0: records_of(values, append_time=NOW)}, PROJECTION)
    assert done.counts == {"dead": 20, "accepted": 0}
    assert all("ahead of its append time" in reason for _, reason in _dead(done.outgoing))


@pytest.mark.parametrize(("ahead", "dead"), [(1000, 0), (1001, 1)])
def test_the_limit_of_being_ahead_is_the_last_time_allowed(ahead: int, dead: int) -> None:
    records = records_of([_click(NOW + ahead)], append_time=NOW)
    assert new_router().step({0: records}, PROJECTION).counts["dead"] == dead


def test_a_refused_event_still_counts_as_having_occurred() -> None:
    early = records_of([_click(NOW + 5000)], append_time=NOW)
    late = records_of([_click(NOW + 5000)], start=1, append_time=LONG_AFTER)
    done = new_router().step({0: early + late}, PROJECTION)
    assert (done.counts["dead"], done.counts["repeated"], done.counts["accepted"]) == (1, 1, 0)


def test_an_id_no_row_can_have_is_a_dead_letter_that_names_it() -> None:
    done = new_router().step({0: records_of([_click(1, author_id="not a number")])}, PROJECTION)
    ((_, reason),) = _dead(done.outgoing)
    assert "author_id: 'not a number' is not a number" in reason


@pytest.mark.parametrize("value", [None, b""])
def test_a_record_without_a_value_is_a_dead_letter(value: bytes | None) -> None:
    done = new_router().step({0: records_of([value])}, PROJECTION)
    assert done.counts["dead"] == 1


def test_a_large_poll_is_cut_into_blocks_a_broker_takes() -> None:
    shown = [ShownItem(item_id=f"item-{'x' * 60}{n}", author_id=str(n)) for n in range(200)]
    events: list[Event] = [
        ImpressionEvent(
            event_id=f"e{n}", event_time=n, request_id="r", user_id="u", surface="s", items=shown
        )
        for n in range(400)
    ]
    one_target = dataclasses.replace(SETTINGS, targets=1)
    outgoing = routed(events, PLAN, batch=5000, settings=one_target)
    assert max(len(o.value) for o in outgoing) < RECORD_BYTES_MAX
    assert sum(len(o.value) for o in outgoing) > BLOCK_BYTES
    (blocks,) = blocks_by_target(outgoing).values()
    assert len(blocks) > 1
    spans = [(span.first, span.last) for _, b in blocks for span in b.header.spans]
    assert spans[0][0] == 0
    assert spans[-1][1] == 399
    assert all(b[0] == a[1] + 1 for a, b in itertools.pairwise(spans))
    assert all(
        set(b.updates.offset) == set(range(start, stop + 1))
        for (start, stop), (_, b) in zip(spans, blocks, strict=True)
    )


@given(histories(), st.integers(1, 40))
def test_the_size_of_polls_does_not_show_in_the_updates(events: list[Event], batch: int) -> None:
    def all_updates(size: int) -> list[tuple[int, ...]]:
        logs = blocks_by_target(routed(events, PLAN, batch=size)).values()
        return sorted(
            tuple(getattr(b.updates, c)[i] for c in ("offset", "view", "time", "event", "action"))
            for blocks in logs
            for _, b in blocks
            for i in range(len(b.updates))
        )

    assert all_updates(batch) == all_updates(10_000)
