"""Every formula of an as-of read equals a slow account of it over the raw events."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

import mmh3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.as_of import Reader
from features.codec import STRING_TYPE
from features.events import EngagementEvent, Event, ItemEvent
from features.list_kernels import read_nearness
from features.marker import Marker
from features.spec import (
    AffinityFeature,
    AsOfView,
    CodeFeature,
    EntitySpec,
    Feature,
    NearRateFeature,
    SimilarityFeature,
    SinceFeature,
    ValueFeature,
)
from tests.plans import (
    ITEM_ACTIVITY,
    ITEM_FACTS,
    OWN,
    PLAN,
    POSITIVE,
    REQUEST_FACTS,
    USER_ACTIVITY,
    World,
    activity,
    changed,
    plan,
    rates,
)
from tests.slow import Candidate, Slow
from tests.strategies import CATEGORIES, ITEMS, USERS, histories

moments = st.one_of(st.integers(0, 300), st.integers(0, 1200), st.integers(10**12, 10**12 + 400))


def _read(
    world: World, now: int, user: str, items: Sequence[str] = ITEMS, **more: object
) -> dict[str, list[float]]:
    reader = Reader(world.plan, "feed", world.tables)
    matrix = reader.matrix(world.moment(now, user, items, **more))  # type: ignore[arg-type]
    return {name: matrix[:, i].tolist() for i, name in enumerate(reader.columns)}


def _same(found: float, expected: float) -> bool:
    return found == expected or (math.isnan(found) and math.isnan(expected))


CATEGORY = EntitySpec(name="category", join_key="category", value_type=STRING_TYPE)
SURFACE = EntitySpec(name="surface", join_key="surface", value_type=STRING_TYPE)
COUNTED = (
    *PLAN.activity,
    activity("category_activity", CATEGORY),
    activity("surface_activity", SURFACE),
)
DISLIKED = ("hide",)


def _of_lists() -> Iterator[Feature]:
    """Affinities, times since and similarities: every list, key, sign and reduction."""
    lists = (("recent", POSITIVE), ("recent", DISLIKED), ("shown", ("impression",)))
    for sequence, actions in lists:
        of = {"view": "user_activity", "sequence": sequence, "actions": actions}
        stem = f"{sequence}_{actions[0]}"
        for key in ("item", "author", "category"):
            yield AffinityFeature(name=f"{stem}_{key}", key=key, half_life_ms=40, **of)
            yield SinceFeature(name=f"{stem}_{key}_s", key=key, **of)
        for reduce in ("max", "mean"):
            yield SimilarityFeature(name=f"{stem}_{reduce}", reduce=reduce, newest=3, **of)
        for power, newest in ((1, 2), (3, 2), (1, 5)):
            yield NearRateFeature(
                name=f"{stem}_near_{power}_{newest}",
                per_sequence="shown",
                per_actions=("impression",),
                power=power,
                newest=newest,
                prior_of=0.3,
                prior_per=1.0,
                **of,
            )


def _of_profiles() -> Iterator[Feature]:
    profile = {"view": "item_profile"}
    yield from ITEM_FACTS.features
    yield CodeFeature(name="author", field="author_id", buckets=7, **profile)
    yield CodeFeature(name="degree", view="user_profile", field="degree", buckets=5)
    yield ValueFeature(name="created", field="created_at", **profile)


EVERYTHING = plan(
    activity=COUNTED,
    as_of=(
        *(rates(f"of_{view.name}", view.name) for view in COUNTED),
        AsOfView(name="lists", features=tuple(_of_lists())),
        AsOfView(name="profiles", features=tuple(_of_profiles())),
        REQUEST_FACTS,
        OWN,
    ),
    services={
        "all": (
            *(f"of_{view.name}" for view in COUNTED),
            *("lists", "profiles", "request_facts", "own"),
        )
    },
)
LATE = 10**12
edges = st.builds(
    lambda start, width, bucket, off: start + max(width * bucket + off, 0),
    st.sampled_from((0, LATE)),
    st.sampled_from((10, 50)),
    st.integers(0, 9),
    st.integers(-1, 1),
)
"""Instants on and beside the edges of buckets: at the first ones, and 31 years later."""


@st.composite
def reads(draw: st.DrawFn) -> tuple[list[Event], int]:
    """A history and an instant to read it at.

    In every other one all times lie within a few buckets of the instant, nearly all before it: a
    single later event would move the rings past what the windows hold. In the rest they lie
    anywhere, on edges and years apart.
    """
    now, events = draw(st.one_of(moments, edges)), draw(histories())
    before = st.builds(
        lambda width, buckets, off: max(now - width * buckets + off, 0),
        st.sampled_from((10, 50)),
        st.integers(0, 4),
        st.sampled_from((-1, 0, 0, 1)),
    )
    times = before if draw(st.booleans()) else st.one_of(edges, before, st.integers(0, 1000))
    return [event.model_copy(update={"event_time": draw(times)}) for event in events], now


def test_the_table_of_features_holds_every_kind_there_is() -> None:
    (kinds, _) = get_args(Feature)
    declared = {type(feature) for view in EVERYTHING.as_of for feature in view.features}
    assert declared == set(get_args(kinds))


@given(
    reads(),
    st.sampled_from((*USERS, "stranger")),
    st.sampled_from(("1", "22", None)),
    st.sampled_from((*CATEGORIES, None)),
    st.sampled_from(("home", None)),
)
def test_every_feature_equals_a_recount_from_the_raw_events(
    read: tuple[list[Event], int],
    user: str,
    author: str | None,
    category: str | None,
    surface: str | None,
) -> None:
    events, now = read
    world = World(EVERYTHING).fold(events)
    items = (*ITEMS, "unseen")
    many = [author] * len(items), [category] * len(items)
    moment = world.moment(now, user, items, surface, *many)
    named = {"author_id": author, "category": category, "surface": surface}
    rows = {key: world.tables[key].rows_of_ids([i or ""]) for key, i in named.items()}
    reader = Reader(EVERYTHING, "all", world.tables)
    matrix = reader.matrix(replace(moment, rows=moment.rows | rows))
    slow = Slow(EVERYTHING, events, now)
    columns = EVERYTHING.service_features("all")
    for row, item in zip(matrix.tolist(), items, strict=True):
        candidate = Candidate(user, item, author, category, surface)
        for found, (name, feature) in zip(row, columns, strict=True):
            expected = slow.feature(feature, candidate)
            if isinstance(feature, AffinityFeature):
                # Powers of two differ in the last bit between math libraries.
                assert found == pytest.approx(expected, rel=1e-12), name
            else:
                assert _same(found, expected), (name, found, expected)


def _clicks(*at: int) -> list[Event]:
    return [
        EngagementEvent(event_id=f"{n}", event_time=t, user_id="u0", item_id="i0", action="click")
        for n, t in enumerate(at)
    ]


@pytest.mark.parametrize(
    ("now", "clicks"), [(29, 2), (30, 1), (39, 1), (40, 0), (9, 1), (0, 1), (10_000, 0)]
)
def test_a_window_holds_its_whole_buckets_up_to_the_one_of_now(now: int, clicks: int) -> None:
    # Three buckets of 10 ms: the one of `now` and the two before it. Clicks lie in 0 and 1.
    found = _read(World().fold(_clicks(9, 10)), now, "u0")
    assert found["item_rates__clicks_short"][0] == clicks
    assert found["item_rates__clicks_all"][0] == 2


def test_now_before_the_newest_event_does_not_see_later_buckets() -> None:
    found = _read(World().fold(_clicks(5, 35)), 12, "u0")
    assert found["item_rates__clicks_short"][0] == 1
    assert found["item_rates__idle_s"][0] == -0.023
    assert found["item_rates__clicks_decayed"][0] == pytest.approx(2 ** (-10 / 17))


def test_what_nobody_ever_saw_has_counts_of_zero_priors_for_rates_and_nan_for_the_rest() -> None:
    found = _read(World(), 100, "stranger", ["new"], surface=None)
    assert found["item_rates__clicks_short"] == [0.0]
    assert found["item_rates__ctr_short"] == [0.3]
    assert found["user_rates__dwell_mean"] == [7.0 / 3.0]
    assert found["item_rates__clicks_decayed"] == [0.0]
    assert found["item_rates__trend"] == [1.0]
    assert found["user_item__author_affinity"] == [0.0]
    for name in (
        "item_rates__idle_s",
        "user_rates__known_s",
        "user_item__item_shown_s",
        "user_item__similarity_max",
        "item_facts__duration_ms",
        "item_facts__age_s",
        "item_facts__category",
        "request_facts__surface",
    ):
        assert math.isnan(found[name][0]), name


def test_no_candidates_give_a_matrix_without_rows() -> None:
    world = World().fold(_clicks(5))
    reader = Reader(PLAN, "feed", world.tables)
    assert reader.matrix(world.moment(9, "u0", [])).shape == (0, len(reader.columns))


@pytest.mark.parametrize(
    ("now", "hour"), [(0, 5.0), (18 * 3_600_000, 23.0), (18 * 3_600_000 + 1_800_000, 0.0)]
)
def test_the_hour_is_that_of_the_declared_offset(now: int, hour: float) -> None:
    assert _read(World(), now, "u0", ["i0"])["request_facts__hour"] == [hour]


def test_the_surface_is_a_stable_code() -> None:
    found = _read(World(), 0, "u0", ["i0"], surface="home")
    assert found["request_facts__surface"] == [float(mmh3.hash("home", signed=False) % 8)]


def test_items_known_by_their_counts_alone_have_no_profile_however_many_they_are() -> None:
    items = [f"i{n}" for n in range(200)]
    events: list[Event] = [ItemEvent(event_id="p", event_time=1, item_id="i0", created_at=1)]
    world = World().fold(events)
    assert _read(world, 9, "u0", ["i0"])["item_facts__age_s"] == [0.008]
    world.fold(
        EngagementEvent(event_id=i, event_time=2, user_id="u0", item_id=i, action="click")
        for i in items
    )
    found = _read(world, 9, "u0", items)
    assert found["item_facts__age_s"][0] == 0.008
    assert all(math.isnan(age) for age in found["item_facts__age_s"][1:])
    assert found["item_rates__clicks_all"] == [1.0] * 200


def test_a_window_is_read_from_a_ring_that_its_own_action_keeps() -> None:
    # Likes are kept longer than clicks at the same width; a click's window must not look there.
    kept = tuple(
        changed(r, buckets=9) if r.metric.action == "like" and r.width_ms == 10 else r
        for r in ITEM_ACTIVITY.rings
    )
    view = changed(ITEM_ACTIVITY, rings=sorted(kept, key=lambda ring: ring.metric.action != "like"))
    world = World(plan(activity=(*PLAN.activity[:1], view, *PLAN.activity[2:])))
    world.fold(_clicks(5, 15, 16))
    table = world.tables["item_id"]
    stored = dict(_written(world))
    table.load([0], [stored])
    assert _read(world, 19, "u0", ["i0"])["item_rates__clicks_short"] == [3.0]


def _written(world: World) -> Iterable[tuple[bytes, bytes]]:
    table = world.tables["item_id"]
    table.markers = [Marker(1, 0, 1)]
    (write,) = table.writes({"item_activity": np.array([0])})
    return zip(write.fields[::2], write.fields[1::2], strict=True)


def test_features_of_a_view_are_the_same_before_and_after_other_rows_arrive() -> None:
    world = World().fold(_clicks(5, 15))
    before = _read(world, 19, "u0", ["i0"])
    world.fold(
        EngagementEvent(
            event_id=f"x{n}", event_time=n, user_id=f"x{n}", item_id=f"x{n}", action="like"
        )
        for n in range(300)
    )
    assert repr(_read(world, 19, "u0", ["i0"])) == repr(before)


def test_a_view_may_keep_only_counts_or_only_lists() -> None:
    lists = changed(USER_ACTIVITY, rings=(), totals=(), first_seen=None, last_seen=None)
    only = plan(activity=(lists,), latest=PLAN.latest, services={"feed": ("user_item",)})
    found = _read(World(only).fold(_clicks(5)), 9, "u0", ["i0"])
    assert found["user_item__author_affinity"] == [0.0]
    counts = activity("item_activity", ITEM_ACTIVITY.entity)
    only = plan(activity=(counts,), latest=PLAN.latest, services={"feed": ("item_rates",)})
    assert _read(World(only).fold(_clicks(5)), 9, "u0", ["i0"])["item_rates__clicks_all"] == [1.0]


@pytest.mark.parametrize("tiny", ["candidate", "recent"])
def test_a_vector_without_length_in_single_precision_is_like_nothing(tiny: str) -> None:
    """2e-23 is a number there, and its square is 0."""
    whole, short = np.array([1.0, 0.0], np.float32), np.array([2e-23, 0.0], np.float32)
    candidate, recent = (short, whole) if tiny == "candidate" else (whole, short)
    near = np.empty((2, 1))
    read_nearness(recent[None, :], np.ascontiguousarray(candidate[:, None]), np.array([1, 3]), near)
    assert not near.any()
