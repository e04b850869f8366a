"""A small plan for tests, made without Feast, and a world of rows folded by it in memory."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from features.as_of import Moment, candidate_keys
from features.codec import INT64_TYPE, STRING_TYPE
from features.entities import EntityTable
from features.events import Event
from features.project import Projection
from features.spec import (
    ActivityView,
    AffinityFeature,
    AgeFeature,
    AsOfView,
    CodeFeature,
    ContextFeature,
    CountFeature,
    DecayedFeature,
    DotProductFeature,
    EntitySpec,
    LatestField,
    LatestView,
    Metric,
    NearRateFeature,
    Plan,
    RateFeature,
    RecencyFeature,
    RingSpec,
    SequenceSpec,
    SimilarityFeature,
    SinceFeature,
    Spec,
    TotalSpec,
    TrendFeature,
    ValueFeature,
    Window,
)
from features.strings import Strings

S = TypeVar("S", bound=Spec)

USER = EntitySpec(name="user", join_key="user_id", value_type=STRING_TYPE)
ITEM = EntitySpec(name="item", join_key="item_id", value_type=STRING_TYPE)
AUTHOR = EntitySpec(name="author", join_key="author_id", value_type=INT64_TYPE)

RINGS = ((10, 4), (50, 3))
"""Milliseconds and buckets: short, so that small times reach every edge."""
ACTIONS = ("click", "like", "hide")
POSITIVE = ("click", "like")
METRICS = (
    Metric(action="impression"),
    Metric(action="click"),
    Metric(action="like"),
    Metric(action="click", amount="value"),
)
RECENT = SequenceSpec(
    name="recent",
    actions=ACTIONS,
    length=6,
    columns=("item", "author", "category", "action", "value"),
)
SHOWN = SequenceSpec(
    name="shown", actions=("impression",), length=4, columns=("item", "author", "category")
)


def activity(name: str, entity: EntitySpec, **more: Any) -> ActivityView:
    """A view that counts METRICS in RINGS, with totals and first and last seen."""
    return ActivityView(
        name=name,
        entity=entity,
        rings=tuple(
            RingSpec(metric=m, width_ms=width, buckets=buckets)
            for m in METRICS
            for width, buckets in RINGS
        ),
        totals=tuple(TotalSpec(metric=m) for m in METRICS),
        first_seen="first_seen",
        last_seen="last_seen",
        **more,
    )


USER_ACTIVITY = activity("user_activity", USER, sequences=(RECENT, SHOWN))
ITEM_ACTIVITY = activity("item_activity", ITEM)
AUTHOR_ACTIVITY = activity("author_activity", AUTHOR)
ITEM_PROFILE = LatestView(
    name="item_profile",
    entity=ITEM,
    event="item",
    fields=(
        LatestField(name="author_id", path="author_id", dtype="String"),
        LatestField(name="categories", path="categories", dtype="Array(String)"),
        LatestField(name="created_at", path="created_at", dtype="Int64"),
        LatestField(name="duration_ms", path="attributes.duration_ms", dtype="Float64"),
    ),
    event_field="event_hash",
)
ITEM_EMBEDDING = LatestView(
    name="item_embedding",
    entity=ITEM,
    event="item",
    fields=(LatestField(name="embedding", path="embedding", dtype="Array(Float32)"),),
    event_field="event_hash",
)
USER_EMBEDDING = LatestView(
    name="user_embedding",
    entity=USER,
    event="user",
    fields=(LatestField(name="embedding", path="embedding", dtype="Array(Float32)"),),
    event_field="event_hash",
)
USER_PROFILE = LatestView(
    name="user_profile",
    entity=USER,
    event="user",
    fields=(LatestField(name="degree", path="attributes.degree", dtype="String"),),
    event_field="event_hash",
)

_SHORT, _LONG = Window(width_ms=10, buckets=3), Window(width_ms=50, buckets=3)
_CLICK, _SEEN, _DWELL = METRICS[1], METRICS[0], METRICS[3]


def rates(name: str, view: str) -> AsOfView:
    """Every formula over counts, read from one activity view."""
    return AsOfView(
        name=name,
        features=(
            CountFeature(name="clicks_all", view=view, metric=_CLICK, window=None),
            CountFeature(name="clicks_short", view=view, metric=_CLICK, window=_SHORT),
            CountFeature(name="dwell_long", view=view, metric=_DWELL, window=_LONG),
            RateFeature(
                name="ctr_short",
                view=view,
                metric=_CLICK,
                per=_SEEN,
                window=_SHORT,
                prior_of=0.3,
                prior_per=1.0,
            ),
            RateFeature(
                name="acted_short",
                view=view,
                metric=_CLICK,
                more_of=(METRICS[2],),
                per=_SEEN,
                more_per=(_CLICK, METRICS[2]),
                window=_SHORT,
                prior_of=0.3,
                prior_per=1.0,
            ),
            RateFeature(
                name="dwell_mean",
                view=view,
                metric=_DWELL,
                per=_CLICK,
                window=None,
                prior_of=7.0,
                prior_per=3.0,
            ),
            DecayedFeature(
                name="clicks_decayed", view=view, metric=_CLICK, window=_SHORT, half_life_ms=17
            ),
            TrendFeature(name="trend", view=view, metric=_CLICK, window=_SHORT, long=_LONG),
            RecencyFeature(name="idle_s", view=view, of="last"),
            RecencyFeature(name="known_s", view=view, of="first"),
        ),
    )


USER_ITEM = AsOfView(
    name="user_item",
    features=(
        AffinityFeature(
            name="author_affinity",
            view="user_activity",
            sequence="recent",
            actions=POSITIVE,
            key="author",
            half_life_ms=40,
        ),
        AffinityFeature(
            name="category_aversion",
            view="user_activity",
            sequence="recent",
            actions=("hide",),
            key="category",
            half_life_ms=40,
        ),
        SinceFeature(
            name="item_shown_s",
            view="user_activity",
            sequence="shown",
            actions=("impression",),
            key="item",
        ),
        SimilarityFeature(
            name="similarity_max",
            view="user_activity",
            sequence="recent",
            actions=POSITIVE,
            reduce="max",
            newest=3,
        ),
        SimilarityFeature(
            name="similarity_mean",
            view="user_activity",
            sequence="recent",
            actions=ACTIONS,
            reduce="mean",
            newest=5,
        ),
        NearRateFeature(
            name="near_rate",
            view="user_activity",
            sequence="recent",
            actions=POSITIVE,
            per_sequence="shown",
            per_actions=("impression",),
            power=3,
            newest=3,
            prior_of=0.3,
            prior_per=1.0,
        ),
    ),
)
OWN = AsOfView(
    name="own",
    features=(
        DotProductFeature(name="product", view="user_embedding"),
        DotProductFeature(name="cosine", view="user_embedding", normalize=True),
        DotProductFeature(
            name="product_and_bias",
            view="user_embedding",
            embedding="item_embedding",
            bias="duration_ms",
            bias_view="item_profile",
        ),
    ),
)
ITEM_FACTS = AsOfView(
    name="item_facts",
    features=(
        ValueFeature(name="duration_ms", view="item_profile", field="duration_ms"),
        AgeFeature(name="age_s", view="item_profile", field="created_at"),
        CodeFeature(name="category", view="item_profile", field="categories", buckets=16),
    ),
)
REQUEST_FACTS = AsOfView(
    name="request_facts",
    features=(
        ContextFeature(name="surface", view="", of="surface", buckets=8),
        ContextFeature(name="hour", view="", of="hour", utc_offset_hours=5.5),
    ),
)

PLAN = Plan(
    project="proj",
    topic="events",
    activity=(AUTHOR_ACTIVITY, ITEM_ACTIVITY, USER_ACTIVITY),
    latest=(ITEM_EMBEDDING, ITEM_PROFILE, USER_PROFILE, USER_EMBEDDING),
    as_of=(
        rates("item_rates", "item_activity"),
        rates("user_rates", "user_activity"),
        USER_ITEM,
        ITEM_FACTS,
        REQUEST_FACTS,
        OWN,
    ),
    services={
        "feed": ("item_rates", "user_rates", "user_item", "item_facts", "request_facts"),
        "lists": ("user_item",),
        "own": ("own",),
    },
)


def changed(spec: S, **changes: Any) -> S:
    """A spec with some of its parts replaced (`model_copy` would keep what it has cached)."""
    return type(spec)(**{name: getattr(spec, name) for name in type(spec).model_fields} | changes)


def plan(**changes: Any) -> Plan:
    """PLAN with some of its parts replaced."""
    return changed(PLAN, **changes)


class World:
    """Rows of a plan in memory, folded straight from events: no blocks, no store."""

    def __init__(self, of: Plan = PLAN) -> None:
        self.plan = of
        self.strings = Strings()
        self.tables = {e.join_key: EntityTable(of, e, self.strings) for e in of.entities}
        self._projection = Projection(of)

    def fold(self, events: Iterable[Event]) -> "World":
        """Fold events into their rows."""
        updates = self._projection.updates(enumerate(events))
        for number in np.unique(updates.view).tolist():
            view = self.plan.views[number]
            entity = self.tables[view.entity.join_key]
            chosen = np.flatnonzero(updates.view == number)
            keys = updates.key[chosen].tolist()
            rows = np.array([entity.row(updates.keys[key]) for key in keys], np.int64)
            entity.tables[view.name].folding(updates, chosen, rows)(0, len(chosen))
        return self

    def moment(
        self,
        now: int,
        user: str,
        items: Sequence[str],
        surface: str | None = "home",
        authors: Sequence[str | None] | None = None,
        categories: Sequence[str | None] | None = None,
    ) -> Moment:
        """One read for a user and candidates; entities nobody ever saw are −1."""
        none = [None] * len(items)
        return Moment(
            now=now,
            rows={
                "user_id": self.tables["user_id"].rows_of_ids([user]),
                "item_id": self.tables["item_id"].rows_of_ids(items),
            },
            keys=candidate_keys(
                self.strings.codes(items),
                self.strings.codes(authors or none),
                self.strings.codes(categories or none),
            ),
            surface=surface,
        )
