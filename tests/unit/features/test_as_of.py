"""Every formula of an as-of read equals a slow account of it over the raw events."""

import math
from collections.abc import Iterable, Sequence

import mmh3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.as_of import Reader
from features.events import EngagementEvent, Event, ItemEvent
from features.marker import Marker
from features.project import facts_of
from features.spec import (
    ActivityView,
    AffinityFeature,
    CountFeature,
    DecayedFeature,
    Feature,
    Metric,
    RateFeature,
    RecencyFeature,
    SimilarityFeature,
    SinceFeature,
    TrendFeature,
    Window,
)
from features.updates import event_hash
from tests.facts import Fact, newest_entries
from tests.plans import (
    ITEM_ACTIVITY,
    PLAN,
    RECENT,
    RINGS,
    SHOWN,
    USER_ACTIVITY,
    World,
    activity,
    changed,
    plan,
    rates,
)
from tests.strategies import ITEMS, USERS, histories

NAN = float("nan")
moments = st.one_of(st.integers(0, 300), st.integers(0, 1200), st.integers(10**12, 10**12 + 400))


class Slow:
    """Features from raw events: every read walks the whole history."""

    def __init__(self, events: Sequence[Event], now: int) -> None:
        self._now = now
        self._facts: dict[tuple[str, str], list[Fact]] = {}
        self._items: dict[str, list[ItemEvent]] = {}
        for event in events:
            if isinstance(event, ItemEvent):
                self._items.setdefault(event.item_id, []).append(event)
            for fact in facts_of(event):
                user, item, author, category, _ = fact.ids
                row = Fact(
                    event.event_time, fact.event, fact.action, item, author, category, fact.value
                )
                self._facts.setdefault(("user", str(user)), []).append(row)
                self._facts.setdefault(("item", str(item)), []).append(row)

    def count(self, view: ActivityView, row: str, feature: Feature) -> float:
        """One feature of an activity view's row."""
        facts = [
            fact
            for fact in self._facts.get((view.entity.name, row), [])
            if fact.action in view.actions
        ]
        now = self._now
        match feature:
            case RecencyFeature():
                times = [fact.time for fact in facts]
                chosen = (
                    min(times, default=NAN) if feature.of == "first" else max(times, default=NAN)
                )
                return (now - chosen) / 1000.0
            case CountFeature():
                return self._sum(facts, feature.metric, feature.window)
            case RateFeature():
                of = self._sum(facts, feature.metric, feature.window)
                per = self._sum(facts, feature.per, feature.window)
                return (of + feature.prior_of) / (per + feature.prior_per)
            case TrendFeature():
                short, long = feature.window, feature.long
                share = (short.width_ms * short.buckets) / (long.width_ms * long.buckets)
                of = self._sum(facts, feature.metric, short)
                return (of + 1.0) / (self._sum(facts, feature.metric, long) * share + 1.0)
            case DecayedFeature():
                width = feature.window.width_ms
                total = 0.0
                for bucket, amount in sorted(self._buckets(facts, feature.metric, feature.window)):
                    age = now // width - bucket
                    total += amount * 2.0 ** (-age * (width / feature.half_life_ms))
                return total
        raise AssertionError(feature)

    def _sum(self, facts: list[Fact], metric: Metric, window: Window | None) -> float:
        if window is None:
            return float(min(sum(_amounts(facts, metric)), 2**53))
        return float(sum(amount for _, amount in self._buckets(facts, metric, window)))

    def _buckets(
        self, facts: list[Fact], metric: Metric, window: Window
    ) -> Iterable[tuple[int, int]]:
        """(bucket, amount) of what is kept and lies in the window as of now."""
        width = window.width_ms
        kept = dict(RINGS)[width]
        newest = max((fact.time for fact in facts), default=0) // width
        for bucket in {fact.time // width for fact in facts}:
            inside = self._now // width - window.buckets < bucket <= self._now // width
            if inside and bucket > newest - kept:
                listed = [fact for fact in facts if fact.time // width == bucket]
                if amount := min(sum(_amounts(listed, metric)), 2**53):
                    yield bucket, amount

    def entries(
        self, user: str, feature: AffinityFeature | SinceFeature | SimilarityFeature
    ) -> list[Fact]:
        """What a user's list holds that the feature counts, oldest first."""
        sequence = RECENT if feature.sequence == "recent" else SHOWN
        listed = newest_entries(sequence, self._facts.get(("user", user), []))
        return [
            fact for fact in listed if fact.action in feature.actions and fact.time <= self._now
        ]

    def listed(self, user: str, key: str | None, feature: AffinityFeature | SinceFeature) -> float:
        """One feature of a user's list against one candidate's key."""
        found = [
            fact
            for fact in self.entries(user, feature)
            if key is not None and getattr(fact, feature.key) == key
        ]
        if isinstance(feature, SinceFeature):
            return (self._now - found[-1].time) / 1000.0 if found else NAN
        weights: list[float] = [
            2.0 ** (-(self._now - f.time) / feature.half_life_ms) for f in found
        ]
        return sum(weights)

    def profile(self, item: str) -> ItemEvent | None:
        """The newest event about an item."""
        known = self._items.get(item, [])
        return max(known, key=lambda e: (e.event_time, event_hash(e.event_id)), default=None)

    def similarity(self, user: str, item: str, feature: SimilarityFeature) -> float:
        """One similarity, in single precision, component after component."""
        candidate = self._embedding(item)
        chosen = self.entries(user, feature)[-feature.newest :]
        recent = [v for fact in chosen if (v := self._embedding(str(fact.item))) is not None]
        if candidate is None or not recent:
            return NAN
        products = []
        for vector in recent:
            product = np.float32(0.0)
            for a, b in zip(candidate, vector, strict=True):
                product = np.float32(product + a * b)
            products.append(float(product))
        return max(products) if feature.reduce == "max" else sum(products) / len(products)

    def _embedding(self, item: str) -> list[np.float32] | None:
        known = [e for e in self._items.get(item, []) if e.embedding]
        if not known:
            return None
        newest = max(known, key=lambda e: (e.event_time, event_hash(e.event_id)))
        vector = [np.float32(x) for x in newest.embedding or []]
        return vector if any(vector) else None


def _amounts(facts: Iterable[Fact], metric: Metric) -> list[int]:
    return [
        fact.value if metric.amount == "value" else 1
        for fact in facts
        if fact.action == metric.action
    ]


def _read(
    world: World, now: int, user: str, items: Sequence[str] = ITEMS, **more: object
) -> dict[str, list[float]]:
    reader = Reader(world.plan, "feed", world.tables)
    matrix = reader.matrix(world.moment(now, user, items, **more))  # type: ignore[arg-type]
    return {name: matrix[:, i].tolist() for i, name in enumerate(reader.columns)}


def _same(found: float, expected: float) -> bool:
    return found == expected or (math.isnan(found) and math.isnan(expected))


@given(histories(), moments, st.sampled_from((*USERS, "stranger")))
def test_counts_rates_decays_trends_and_recency_equal_a_recount(
    events: list[Event], now: int, user: str
) -> None:
    found, slow = _read(World().fold(events), now, user), Slow(events, now)
    for feature in rates("", "").features:
        for place, item in enumerate(ITEMS):
            name = f"item_rates__{feature.name}"
            assert _same(found[name][place], slow.count(ITEM_ACTIVITY, item, feature)), name
            name = f"user_rates__{feature.name}"
            assert _same(found[name][place], slow.count(USER_ACTIVITY, user, feature)), name


@given(histories(), moments, st.sampled_from(USERS))
def test_affinities_and_similarities_equal_a_walk_over_the_list(
    events: list[Event], now: int, user: str
) -> None:
    world, slow = World().fold(events), Slow(events, now)
    authors, categories = ("1", "22", None, "1"), ("c0", None, "ć1", "c0")
    found = _read(world, now, user, authors=authors, categories=categories)
    keys = {"item": ITEMS, "author": authors, "category": categories}
    for feature in PLAN.as_of[2].features:
        column = found[f"user_item__{feature.name}"]
        for place, item in enumerate(ITEMS):
            if isinstance(feature, SimilarityFeature):
                assert _same(column[place], slow.similarity(user, item, feature)), feature.name
            else:
                assert isinstance(feature, AffinityFeature | SinceFeature)
                expected = slow.listed(user, keys[feature.key][place], feature)
                assert column[place] == pytest.approx(expected, rel=1e-12, nan_ok=True)


@given(histories(), moments)
def test_stored_values_ages_and_codes_equal_the_newest_item_event(
    events: list[Event], now: int
) -> None:
    found, slow = _read(World().fold(events), now, "u0"), Slow(events, now)
    for place, item in enumerate(ITEMS):
        profile = slow.profile(item)
        duration, age, code = NAN, NAN, NAN
        if profile is not None:
            duration = float(profile.attributes["duration_ms"])
            if profile.created_at is not None:
                age = (now - profile.created_at) / 1000.0
            if profile.categories:
                code = float(mmh3.hash(profile.categories[0], signed=False) % 16)
        assert _same(found["item_facts__duration_ms"][place], duration)
        assert _same(found["item_facts__age_s"][place], age)
        assert _same(found["item_facts__category"][place], code)


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
    longer = tuple(
        changed(ring, field=f"{ring.field}_long", buckets=9)
        for ring in ITEM_ACTIVITY.rings
        if ring.metric.action == "like" and ring.width_ms == 10
    )
    view = changed(ITEM_ACTIVITY, rings=(*longer, *ITEM_ACTIVITY.rings))
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
