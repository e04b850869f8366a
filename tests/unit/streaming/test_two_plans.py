"""Rows folded under two plans: each event counts under its own, whatever the order of blocks."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.codec import decode_value, entity_id, entity_key, field_name
from features.entities import EntityTable, Hash
from features.events import EngagementEvent, Event, dump_event
from features.marker import Marker
from features.project import Projection
from features.row_store import MemoryRows
from features.spec import Metric, RingSpec, TotalSpec
from features.strings import Strings
from features.unpack import Counted, unpack_counts
from streaming.aggregate import Aggregator
from streaming.plans import all_plans, load_plan, store_plan
from streaming.records import Outgoing
from tests.pipeline import GENERATION, blocks_by_target, new_router, records_of, unmarked
from tests.plans import ITEM, ITEM_ACTIVITY, RECENT, USER_ACTIVITY, changed, plan
from tests.strategies import ITEMS, USERS

VISIT = Metric(action="visit")
LISTS = (RECENT, changed(RECENT, name="bare", actions=("click",), columns=("item",)))
BEFORE = plan(
    activity=(changed(ITEM_ACTIVITY, sequences=LISTS), USER_ACTIVITY),
    latest=(),
    as_of=(),
    services={},
)
AFTER = plan(
    activity=(
        changed(
            ITEM_ACTIVITY,
            rings=(
                *(ring for ring in ITEM_ACTIVITY.rings if ring.metric.action != "like"),
                RingSpec(metric=VISIT, width_ms=10, buckets=4),
                RingSpec(metric=Metric(action="click"), width_ms=70, buckets=2),
            ),
            totals=(*ITEM_ACTIVITY.totals, TotalSpec(metric=VISIT)),
            sequences=(changed(RECENT, actions=("click", "hide", "visit")), LISTS[1]),
        ),
        USER_ACTIVITY,
    ),
    latest=(),
    as_of=(),
    services={},
)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Engagements whose ids no other history has."""
    run = draw(st.uuids())
    return [
        EngagementEvent(
            event_id=f"{run}-{number}",
            event_time=draw(st.integers(0, 150)),
            user_id=draw(st.sampled_from(USERS)),
            item_id=draw(st.sampled_from(ITEMS[:2])),
            action=draw(st.sampled_from(("click", "like", "hide", "visit"))),
            value=draw(st.integers(0, 9)),
        )
        for number in range(draw(st.integers(0, 12)))
    ]


def _sent(events: Sequence[Event], partition: int, change_at: int) -> list[Outgoing]:
    """What route sends for one partition whose plan changes at an offset, batch by batch."""
    router = new_router(incarnation=f"p{partition}", partition=partition)
    records = records_of([dump_event(event) for event in events], partition=partition)
    sent: list[Outgoing] = []
    for of, part in ((BEFORE, records[:change_at]), (AFTER, records[change_at:])):
        for start in range(0, len(part), 3):
            step = router.step({partition: part[start : start + 3]}, Projection(of))
            sent += step.outgoing
    return sent


def _rows(outgoing: Sequence[Outgoing]) -> dict[bytes, Hash]:
    """The rows of blocks in this order, folded as the worker does: each under its own plan."""
    store = _known()
    aggregator = Aggregator(BEFORE, store)
    for partition, blocks in sorted(blocks_by_target(outgoing).items()):
        aggregator.own(partition, GENERATION, 0)
        for offset, block in blocks:
            if aggregator.plan.version != block.header.plan:
                aggregator.use(load_plan(store, block.header.plan))
            aggregator.step({partition: [(offset, block)]})
    return _as_read(unmarked(store.rows))


def _as_read(rows: dict[bytes, Hash]) -> dict[bytes, Hash]:
    """The rows as whoever reads them by the newer plan has them.

    A ring that only the newer plan keeps is not trimmed by a fold under the older one: buckets that
    fell off since stand in the bytes until the next fold, and every reader drops them.
    """
    found: dict[bytes, Hash] = {}
    for entity in AFTER.entities:
        table = EntityTable(AFTER, entity, Strings(), all_plans(_known()))
        keys = [key for key in rows if entity_id(entity.join_key, key, AFTER.project) is not None]
        table.load([table.row(key) for key in keys], [rows[key] for key in keys])
        table.markers = [Marker(1, 0, 0)] * len(keys)
        touched = {name: np.flatnonzero(t.newest >= 0) for name, t in table.tables.items()}
        for write in table.writes(touched):
            found[write.key] = dict(zip(write.fields[::2], write.fields[1::2], strict=True))
    return found


def _known() -> MemoryRows:
    store = MemoryRows()
    for of in (BEFORE, AFTER):
        store_plan(store, of)
    return store


@settings(max_examples=60)
@given(histories(), histories(), st.integers(0, 12), st.integers(0, 12), st.randoms())
def test_rows_do_not_depend_on_how_blocks_of_two_plans_meet(
    one: list[Event], other: list[Event], first: int, second: int, rng: Any
) -> None:
    sent = [_sent(one, 0, first), _sent(other, 1, second)]
    in_turn = _rows([*sent[0], *sent[1]])
    mixed: list[Outgoing] = []
    waiting = [list(part) for part in sent]
    while any(waiting):
        mixed.append(rng.choice([part for part in waiting if part]).pop(0))
    rows = _rows(mixed)
    assert rows == in_turn
    counted = list(chain(one[first:], other[second:]))
    for item in ITEMS[:2]:
        row = rows.get(entity_key(ITEM.join_key, ITEM.value_type, item, BEFORE.project), {})
        visits = [e for e in counted if _is(e, item, "visit")]
        assert _counted(row, "visit").total == len(visits)
        clicks = [e for e in counted if _is(e, item, "click")]
        assert sum(_counted(row, "click").rings.get(70, {}).values()) <= len(clicks)
        # What both plans keep counts everything.
        likes = [e for e in (*one, *other) if _is(e, item, "like")]
        assert _counted(row, "like").total == len(likes)


def _is(event: Event, item: str, action: str) -> bool:
    return isinstance(event, EngagementEvent) and (event.item_id, event.action) == (item, action)


def _counted(row: Hash, metric: str) -> Counted:
    """One metric of a row."""
    pack = decode_value(row.get(field_name("item_activity", "counts")))
    assert isinstance(pack, bytes | None)
    return unpack_counts(pack, [metric]).get(metric, Counted(0))
