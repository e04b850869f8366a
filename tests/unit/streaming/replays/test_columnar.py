"""Replay's columns say what `route` says: the same repeats, the same updates, the same rows."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.codec import entity_key
from features.events import EngagementEvent, Event, ImpressionEvent, ShownItem, dump_event
from features.project import Projection
from features.spec import EntitySpec, Plan, RelationSpec, RelationsView
from features.updates import Columns
from streaming.logs.schema import event_batch
from streaming.replays.chunk import Chunk, chunk_of
from streaming.replays.columnar import ColumnarProjection, Projected
from streaming.replays.repeats import Repeats, as_dedup
from tests.pipeline import final_rows, new_router, records_of
from tests.plans import PLAN, USER, activity, plan
from tests.recordings import ListedEvents, listed, replay_of, replayed_rows
from tests.relating import RELATED_PLAN, act
from tests.serving import SERVED_PLAN
from tests.strategies import histories

CATEGORY = EntitySpec(name="category", join_key="category", value_type=2)
SURFACE = EntitySpec(name="surface", join_key="surface", value_type=2)
ALL_OWNERS = plan(
    activity=(
        *PLAN.activity,
        activity("category_activity", CATEGORY),
        activity("surface_activity", SURFACE),
    ),
    relations=(
        RelationsView(
            name="user_relations",
            entity=USER,
            relations=(
                RelationSpec(on="like", off="hide"),
                RelationSpec(on="impression", off="click"),
            ),
            target="category",
            limit=3,
        ),
    ),
)
"""Rows of every kind that a fact can change, and relations to what was shown."""

ids = st.integers(0, 6)
steps = st.integers(1, 4)


@given(st.lists(st.tuples(ids, steps), max_size=60), st.integers(0, 12), st.integers(1, 9))
def test_repeats_are_those_of_dedup(events: list[tuple[int, int]], horizon: int, size: int) -> None:
    hashes = np.array([one for one, _ in events], np.int64)
    offsets = np.cumsum(np.array([step for _, step in events], np.int64))
    repeats = Repeats(horizon)
    found = [
        again
        for start in range(0, len(events), size)
        for again in repeats.repeated(
            hashes[start : start + size], offsets[start : start + size]
        ).tolist()
    ]
    assert found == as_dedup(horizon, hashes, offsets)


def chunked(events: Sequence[Event]) -> Chunk:
    batch = event_batch(records_of([dump_event(event) for event in events]))
    return chunk_of(1, 0, pa.Table.from_batches([batch]))


Update = tuple[Any, ...]


def said(columns: Columns) -> Counter[Update]:
    """Every update in words, however they are numbered."""

    def text(code: int) -> str | None:
        return None if code < 0 else columns.texts[code]

    rows = zip(
        *(getattr(columns, n).tolist() for n in ("view", "key", "offset", "time", "event")),
        *(getattr(columns, n).tolist() for n in ("action", "value", "item", "author", "category")),
        strict=True,
    )
    return Counter(
        (view, columns.keys[key], *facts, *map(text, names), columns.payloads.get(place))
        for place, (view, key, *rest) in enumerate(rows)
        for facts, names in [(rest[:5], rest[5:])]
    )


def with_keys(of: Plan, projected: Projected) -> list[Columns]:
    """The updates of each view, with the keys that replay leaves to its tables."""
    found = [projected.latest]
    for updates in projected.views:
        entity = of.views[updates.view].entity
        part = projected.part(updates)
        used = {
            code: entity_key(entity.join_key, entity.value_type, projected.texts[code], of.project)
            for code in np.unique(updates.owner).tolist()
        }
        place = {code: number for number, code in enumerate(used)}
        key = np.array([place[code] for code in part.key.tolist()], np.int64)
        names = {n: getattr(part, n) for n in part.__dataclass_fields__}
        found.append(Columns(**names | {"keys": list(used.values()), "key": key}))
    return found


@settings(max_examples=80)
@given(histories(), st.sampled_from([PLAN, SERVED_PLAN, ALL_OWNERS]), st.data())
def test_updates_are_those_of_the_projection(
    events: list[Event], of: Plan, data: st.DataObject
) -> None:
    taken = data.draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    projected, refused = ColumnarProjection(of).updates(chunked(events), np.array(taken, np.bool_))
    chosen = [(n, e) for n, e in enumerate(events) if taken[n]]
    expected = said(Projection(of).updates(chosen))
    # Where relations do not ask which item of an impression it was, nobody tells.
    found = sum((said(columns) for columns in with_keys(of, projected)), Counter[Update]())
    if of is not ALL_OWNERS:
        found, expected = unnamed(of, found), unnamed(of, expected)
    assert (found, refused) == (expected, 0)


def unnamed(of: Plan, updates: Counter[Update]) -> Counter[Update]:
    shown = of.actions.index("impression")
    return Counter((*u[:4], None, *u[5:]) if u[5] == shown else u for u in updates.elements())


def test_a_fact_counts_in_its_first_distinct_categories_alone() -> None:
    names = [f"c{n % 9}" for n in range(30)]
    shown = ShownItem(item_id="i", categories=names)
    events: list[Event] = [
        EngagementEvent(
            event_id="a", event_time=5, user_id="u", item_id="i", action="click", categories=names
        ),
        ImpressionEvent(
            event_id="b",
            event_time=6,
            request_id="r",
            user_id="u",
            surface="home",
            items=[shown, ShownItem(item_id="j"), shown.model_copy(update={"item_id": "k"})],
        ),
    ]
    projected, _ = ColumnarProjection(ALL_OWNERS).updates(chunked(events), np.ones(2, np.bool_))
    found = sum((said(c) for c in with_keys(ALL_OWNERS, projected)), Counter[Update]())
    assert found == said(Projection(ALL_OWNERS).updates(enumerate(events)))
    per_fact = Counter(u[2:5] for u in found if ALL_OWNERS.views[u[0]].name == "category_activity")
    assert set(per_fact.values()) == {8}


@settings(max_examples=60)
@given(histories(), st.sampled_from([SERVED_PLAN, ALL_OWNERS]), st.integers(1, 9), st.data())
def test_rows_are_those_of_route_and_aggregate(
    events: list[Event], of: Plan, size: int, data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    all_events = [*events, *again]
    assert replayed_rows(of, listed(all_events, size)) == final_rows(all_events, of)


BAD: list[bytes | None] = [
    None,
    b"nonsense",
    b'{"type":"unheard_of"}',
    json.dumps(
        {
            "type": "engagement",
            "event_id": "x",
            "event_time": 5,
            "user_id": "u0",
            "item_id": "i0",
            "action": "click",
            "author_id": "not a number",
        }
    ).encode(),
    json.dumps(
        {
            "type": "impression",
            "event_id": "y",
            "event_time": 9 * 10**12 + 1_001,
            "request_id": "r",
            "user_id": "u0",
            "surface": "home",
            "items": [{"item_id": "i0"}],
        }
    ).encode(),
    json.dumps(
        {"type": "item", "event_id": "z", "event_time": 5, "item_id": "i0", "author_id": "1"}
    ).encode(),
    json.dumps({"type": "forget", "event_id": "f", "event_time": 5, "user_id": "u0"}).encode(),
]


@settings(max_examples=60)
@given(histories(max_size=20), st.lists(st.sampled_from(BAD), max_size=8), st.integers(0, 99))
def test_every_record_has_the_fate_it_has_in_route(
    events: list[Event], bad: list[bytes | None], seed: int
) -> None:
    values: list[bytes | None] = [*(dump_event(event) for event in events), *bad]
    random.Random(seed).shuffle(values)
    outcome = replay_of(SERVED_PLAN, ListedEvents({0: values}, 3)).run()
    routed = new_router().step({0: records_of(values)}, Projection(SERVED_PLAN)) if values else None
    expected = routed.counts if routed else Counter[str]()
    kinds = ("accepted", "repeated", "dead", "updates")
    assert {k: outcome.counts[k] for k in kinds} == {k: expected[k] for k in kinds}
    assert outcome.counts["records"] == len(values)


def test_relations_are_replayed_too() -> None:
    verbs = ("block", "unblock", "mute", "unmute", "hide", "unhide", "mute_category")
    rng = random.Random(4)
    events: list[Event] = [
        act(f"u{rng.randrange(3)}", rng.randrange(12), rng.choice(verbs), 100 + time)
        for time in range(200)
    ]
    found = replayed_rows(RELATED_PLAN, listed(events))
    assert found == final_rows(events, RELATED_PLAN)
    assert found
