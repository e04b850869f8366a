"""As-of views inside stock Feast give the same bits as the matrix reader on the same rows."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.activity import ActivityTable
from features.as_of import Reader
from features.codec import decode_value
from features.errors import BadInput
from features.events import EngagementEvent, Event, ItemEvent
from features.on_demand import Declared, Inputs, read
from features.spec import AsOfView, Compared, DotProductFeature
from features.unpack import unpack_lists
from tests.facts import values
from tests.plans import PLAN, World
from tests.strategies import ITEMS, USERS, histories

moments = st.one_of(st.integers(0, 1200), st.integers(10**12, 10**12 + 400))


def _declared(view: AsOfView) -> str:
    """What the view's function carries: the view and the stored views it reads."""
    read_views = {feature.view for feature in view.features}
    if any(isinstance(feature, Compared) for feature in view.features):
        read_views |= {"item_profile", "item_embedding"}
    if any(isinstance(feature, DotProductFeature) for feature in view.features):
        read_views |= {"item_profile", "item_embedding"}
    return Declared(
        activity=tuple(v for v in PLAN.activity if v.name in read_views),
        latest=tuple(v for v in PLAN.latest if v.name in read_views),
        as_of=view,
    ).model_dump_json()


def _cells(world: World, join_key: str, identifier: str) -> dict[str, Any]:
    """What Feast would read of one entity, as `view__feature` cells."""
    table = world.tables[join_key]
    (row,) = table.rows_of_ids([identifier]).tolist()
    cells: dict[str, Any] = {}
    for name, view in table.tables.items():
        if row < 0:
            cells |= {f"{name}__{field}": None for field in view.fields}
        elif isinstance(view, ActivityTable):
            cells |= {f"{name}__{f}": decode_value(v) for f, v in values(view, row).items()}
        else:
            (stored,) = view.encoded(np.array([row]))
            plain = map(decode_value, stored.values)
            cells |= {f"{name}__{f}": v for f, v in zip(view.fields, plain, strict=True)}
    return cells


def _inputs(world: World, now: int, user: str) -> Inputs:
    rows = []
    for item in ITEMS:
        cells = _cells(world, "user_id", user) | _cells(world, "item_id", item)
        cells |= {"now": now, "request_surface": "home", "user_id": user, "item_id": item}
        listed = unpack_lists(cells["user_activity__lists"], ["recent", "shown"])
        vectors = [
            _vector(world, entry.item or "")
            for name in ("recent", "shown")
            for entry in listed.get(name, [])
        ]
        cells["recent_vectors"] = [x for vector in vectors for x in vector] or None
        rows.append(cells)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _vector(world: World, item: str) -> list[float]:
    embedding = _cells(world, "item_id", item)["item_embedding__embedding"]
    return embedding or [0.0, 0.0, 0.0]


def _profile_keys(inputs: Inputs) -> tuple[list[str | None], list[str | None]]:
    """The author and first category of each item, by its profile."""
    categories = inputs["item_profile__categories"]
    firsts = [listed[0] if listed else None for listed in categories]
    return inputs["item_profile__author_id"], firsts


@given(histories(), moments, st.sampled_from((*USERS, "stranger")))
def test_every_view_reads_the_same_bits_as_the_matrix(
    events: list[Event], now: int, user: str
) -> None:
    world = World().fold(events)
    inputs = _inputs(world, now, user)
    moment = world.moment(now, user, ITEMS, "home", *_profile_keys(inputs))
    for view in PLAN.as_of:
        reader = Reader(PLAN, "own" if view.name == "own" else "feed", world.tables)
        matrix = reader.matrix(moment)
        found = read(_declared(view), inputs)
        for feature in view.features:
            column = matrix[:, reader.columns.index(f"{view.name}__{feature.name}")]
            expected = column.astype(np.float64).tobytes()
            assert np.array(found[feature.name], np.float64).tobytes() == expected, feature.name


def test_a_profile_alone_is_read_without_the_time_it_was_stored_at() -> None:
    world = World().fold([ItemEvent(event_id="a", event_time=5, item_id="i0", created_at=2)])
    found = read(_declared(PLAN.as_of[3]), _inputs(world, 1002, "u0"))
    assert found["age_s"][0] == 1.0
    assert all(math.isnan(age) for age in found["age_s"][1:])


def test_arrays_read_like_lists() -> None:
    item = ItemEvent(
        event_id="a", event_time=5, item_id="i0", categories=["c0"], embedding=[1.0, 0.0, 0.0]
    )
    world = World().fold([item])
    inputs = _inputs(world, 10, "u0")
    arrays = {
        name: [np.array(v) if isinstance(v, list) else v for v in column]
        for name, column in inputs.items()
    }
    for view in PLAN.as_of:
        assert repr(read(_declared(view), arrays)) == repr(read(_declared(view), inputs))


def test_the_sample_that_feast_apply_calls_a_view_with_is_no_state() -> None:
    inputs: Inputs = {
        "now": [5],
        "user_activity__counts": [b"hello world"],
        "user_activity__lists": [b"hello world"],
        "user_activity__first_seen": [1],
        "user_activity__last_seen": [1],
    }
    found = read(_declared(PLAN.as_of[1]), inputs)
    assert found["clicks_all"] == [0.0]
    assert math.isnan(found["idle_s"][0])


def test_a_damaged_pack_says_so_instead_of_counting_nothing() -> None:
    world = World().fold([_click("u0", 5)])
    inputs = _inputs(world, 10, "u0")
    cut = [pack[:-1] for pack in inputs["user_activity__counts"]]
    with pytest.raises(BadInput, match="not in Headrace's layout"):
        read(_declared(PLAN.as_of[1]), inputs | {"user_activity__counts": cut})


def _click(user: str, at: int) -> EngagementEvent:
    return EngagementEvent(
        event_id=f"c{at}", event_time=at, user_id=user, item_id="i0", action="click"
    )
