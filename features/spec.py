"""What a plan is made of: the views and features of one Feast project, as plain frozen data.

`features.plan` compiles these from the Feast registry; nothing here knows Feast. They travel as
JSON (a plan is stored in Redis under the hash of its content) and hold no code.
"""

import hashlib
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

IMPRESSION = "impression"
"""The action that every shown item of an impression event counts as."""

SEQUENCE_COLUMNS = ("item", "author", "category", "action", "value")


class Spec(BaseModel):
    """Frozen plain data that ignores nothing it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EntitySpec(Spec):
    """A thing that has rows, found by one join key."""

    name: str
    join_key: str
    value_type: int


class Metric(Spec):
    """What one fact adds to a counter: 1, or its value (dwell ms and the like)."""

    action: str
    amount: Literal["count", "value"] = "count"


class RingSpec(Spec):
    """Counts of a metric in the newest `buckets` buckets of `width_ms`, by bucket index."""

    metric: Metric
    width_ms: int
    buckets: int


class TotalSpec(Spec):
    """The all-time total of a metric."""

    metric: Metric


class SequenceSpec(Spec):
    """The newest `length` facts of some actions, as a set of what the columns say of them.

    By time, then by a hash of the other columns; facts alike in all of them are listed once.
    """

    name: str
    actions: tuple[str, ...]
    length: int
    columns: tuple[str, ...]


class ActivityView(Spec):
    """A view whose rows count and list what happened to an entity."""

    name: str
    entity: EntitySpec
    rings: tuple[RingSpec, ...] = ()
    totals: tuple[TotalSpec, ...] = ()
    sequences: tuple[SequenceSpec, ...] = ()
    first_seen: str | None = None
    last_seen: str | None = None

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The distinct metrics of the view, in order of first use."""
        metrics = [ring.metric for ring in self.rings] + [total.metric for total in self.totals]
        return tuple(dict.fromkeys(metrics))

    @cached_property
    def actions(self) -> frozenset[str]:
        """The actions that change a row of this view."""
        counted = {m.action for m in self.metrics}
        return frozenset(counted.union(*(sequence.actions for sequence in self.sequences)))


class LatestField(Spec):
    """A stored field that keeps the newest value found at a path of an event."""

    name: str
    path: str
    dtype: str
    dimension: int | None = None
    """Of an embedding: how many numbers it has; an event with another number is refused."""
    precision: Literal["float32", "float16"] = "float32"
    """Of an embedding: what readers round it to."""


class LatestView(Spec):
    """A view whose rows hold the newest event of a type about an entity, by (time, event)."""

    name: str
    entity: EntitySpec
    event: Literal["item", "user"]
    fields: tuple[LatestField, ...]
    event_field: str


class RelationSpec(Spec):
    """A relation that one action begins and another ends; it is called by the first."""

    on: str
    off: str


class RelationsView(Spec):
    """A view whose rows hold, per relation and target, the newest of its two actions."""

    name: str
    entity: EntitySpec
    relations: tuple[RelationSpec, ...]
    target: Literal["author", "item", "category"]
    limit: int
    """Pairs of relation and target that a row keeps, the newest by (time, event)."""

    @cached_property
    def actions(self) -> frozenset[str]:
        """The actions that change a row of this view."""
        return frozenset(action for r in self.relations for action in (r.on, r.off))


class KeyColumn(Spec):
    """A column of a plain record that holds one join key of an entity."""

    join_key: str
    column: str
    value_type: int


class PlainField(Spec):
    """A stored field that keeps the newest value of a column of plain records."""

    name: str
    column: str
    dtype: str


class TileSpec(Spec):
    """Aggregates of one column per bucket of time, kept for the newest `buckets` of them.

    No column stands for every record; a width of 0 for one bucket that holds all time.
    """

    column: str
    width_ms: int
    buckets: int
    sums: bool
    extremes: bool


class WindowField(Spec):
    """A stored field: an aggregate over the newest `buckets` buckets of a tile."""

    name: str
    dtype: str
    function: Literal["count", "sum", "min", "max", "mean"]
    tile: int
    """Place of its tile in the view."""
    buckets: int


class PlainView(Spec):
    """A view of somebody's own JSON records: newest values by event time, and windows."""

    name: str
    entity: EntitySpec
    """Of several join keys: all their names with commas, and no value type."""
    keys: tuple[KeyColumn, ...]
    """In the order of their names."""
    time_column: str
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    created_column: str | None = None
    event_id_column: str | None = None
    fields: tuple[PlainField, ...] = ()
    tiles: tuple[TileSpec, ...] = ()
    windows: tuple[WindowField, ...] = ()

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The columns that are aggregated; an update carries one number for each."""
        return tuple(dict.fromkeys(tile.column for tile in self.tiles if tile.column))


StoredView: TypeAlias = ActivityView | LatestView | RelationsView | PlainView
"""Every kind of view that has rows."""


class Window(Spec):
    """A window of `buckets` buckets of a stored ring; None is the all-time total."""

    width_ms: int
    buckets: int


class _Feature(Spec):
    name: str
    view: str


class CountFeature(_Feature):
    """Sum of a metric over a window."""

    kind: Literal["count"] = "count"
    metric: Metric
    window: Window | None


class RateFeature(_Feature):
    """(Σ metrics + prior_of) / (Σ per + prior_per) over a window.

    `more_of` and `more_per` are what is added to the first metric of either.
    """

    kind: Literal["rate"] = "rate"
    metric: Metric
    more_of: tuple[Metric, ...] = ()
    per: Metric
    more_per: tuple[Metric, ...] = ()
    window: Window | None
    prior_of: float
    prior_per: float


class DecayedFeature(_Feature):
    """Σ over buckets of count · 2^(−age/half-life), age in whole buckets."""

    kind: Literal["decayed"] = "decayed"
    metric: Metric
    window: Window
    half_life_ms: int


class TrendFeature(_Feature):
    """Smoothed ratio of the rates per hour over a short and a long window."""

    kind: Literal["trend"] = "trend"
    metric: Metric
    window: Window
    long: Window


class RecencyFeature(_Feature):
    """Seconds from the first or the last fact of a row to `now`."""

    kind: Literal["recency"] = "recency"
    of: Literal["first", "last"]


class AffinityFeature(_Feature):
    """How much of a user's sequence shares a key with the candidate, decayed by age."""

    kind: Literal["affinity"] = "affinity"
    sequence: str
    actions: tuple[str, ...]
    key: Literal["item", "author", "category"]
    half_life_ms: int


class SinceFeature(_Feature):
    """Seconds since the newest entry of a sequence that shares a key with the candidate."""

    kind: Literal["since"] = "since"
    sequence: str
    actions: tuple[str, ...]
    key: Literal["item", "author", "category"]


class SimilarityFeature(_Feature):
    """Dot product of the candidate's embedding with those of a user's recent items."""

    kind: Literal["similarity"] = "similarity"
    sequence: str
    actions: tuple[str, ...]
    reduce: Literal["max", "mean"]
    newest: int
    embedding: str = ""
    """The view that keeps the embeddings; empty: the first one of the plan that keeps any."""


class NearRateFeature(_Feature):
    """(Σ nearness of listed events + prior_of) / (the same of other listed events + prior_per).

    The nearness of an event is the cosine between the embeddings of the candidate and of its item,
    none below 0, to a power.
    """

    kind: Literal["near_rate"] = "near_rate"
    sequence: str
    actions: tuple[str, ...]
    per_sequence: str
    per_actions: tuple[str, ...]
    power: int
    newest: int
    """How many events of `per` count at most; of the others, those since the oldest of them."""
    prior_of: float
    prior_per: float
    embedding: str = ""
    """As a similarity's."""


class DotProductFeature(_Feature):
    """Dot product of a user's own embedding, which `view` keeps, with that of the candidate."""

    kind: Literal["dot_product"] = "dot_product"
    normalize: bool = False
    """Of both brought to length 1: their cosine."""
    embedding: str = ""
    """As a similarity's."""
    bias: str = ""
    """A number of the candidate that is added; empty: none."""
    bias_view: str = ""
    """The view that keeps that number; empty: the one of the candidate's embedding."""


class ValueFeature(_Feature):
    """A stored number as it is."""

    kind: Literal["value"] = "value"
    field: str


class CodeFeature(_Feature):
    """A stored string as a stable category code: murmur3 modulo `buckets`."""

    kind: Literal["code"] = "code"
    field: str
    buckets: int


class AgeFeature(_Feature):
    """Seconds from a stored time in milliseconds to `now`."""

    kind: Literal["age"] = "age"
    field: str


class ContextFeature(_Feature):
    """Something of the request itself: a code of its surface, or the hour of its day."""

    kind: Literal["context"] = "context"
    of: Literal["surface", "hour"]
    buckets: int = 64
    utc_offset_hours: float = 0.0


Feature = Annotated[
    CountFeature
    | RateFeature
    | DecayedFeature
    | TrendFeature
    | RecencyFeature
    | AffinityFeature
    | SinceFeature
    | SimilarityFeature
    | NearRateFeature
    | DotProductFeature
    | ValueFeature
    | CodeFeature
    | AgeFeature
    | ContextFeature,
    Field(discriminator="kind"),
]


Compared = SimilarityFeature | NearRateFeature
"""Features that compare the embedding of the candidate with those of listed items."""


def lists_read(feature: Compared) -> list[tuple[str, tuple[str, ...]]]:
    """The sequences whose items a feature compares with the candidate, and which actions of each;
    the last says how far back all go."""
    found = [(feature.sequence, feature.actions)]
    if isinstance(feature, NearRateFeature):
        found.append((feature.per_sequence, feature.per_actions))
    return found


def summed(feature: Feature) -> tuple[Metric, ...]:
    """The metrics that a feature sums over its windows."""
    if isinstance(feature, CountFeature | DecayedFeature | TrendFeature):
        return (feature.metric,)
    if isinstance(feature, RateFeature):
        return feature.metric, *feature.more_of, feature.per, *feature.more_per
    return ()


def embeddings_of(
    views: tuple[LatestView, ...], event: Literal["item", "user"] = "item"
) -> dict[str, LatestField]:
    """The views that keep embeddings of items, or of users, with the field, by view name."""
    return {
        view.name: field
        for view in views
        for field in view.fields
        if view.event == event
        and (field.path == "embedding" or field.path.startswith("embeddings."))
    }


class AsOfView(Spec):
    """Features computed at read from stored state and `now`."""

    name: str
    features: tuple[Feature, ...]


class Plan(Spec):
    """Everything the workers need to know of a Feast project."""

    format_version: Literal[1] = 1
    project: str
    topic: str
    activity: tuple[ActivityView, ...]
    latest: tuple[LatestView, ...]
    relations: tuple[RelationsView, ...] = ()
    plain: tuple[PlainView, ...] = ()
    as_of: tuple[AsOfView, ...]
    services: dict[str, tuple[str, ...]]
    """Feature service → the names of its as-of views, in order."""

    @cached_property
    def version(self) -> str:
        """The hash of what decides state: plans that differ only in how it is read share it."""
        precision = {"__all__": {"fields": {"__all__": {"precision"}}}}
        reads: dict[str, Any] = {"as_of": True, "services": True, "latest": precision}
        state = self.model_dump_json(exclude=reads if self.plain else reads | {"plain": True})
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    @cached_property
    def entities(self) -> tuple[EntitySpec, ...]:
        """The entities that have rows, by join key."""
        found = {view.entity.join_key: view.entity for view in self.views}
        return tuple(found[key] for key in sorted(found))

    @cached_property
    def embeddings(self) -> dict[str, LatestField]:
        """The views that keep embeddings of items, with the field, by view name; first one first.

        A field is an embedding by its path: `embedding`, or `embeddings.<version>`.
        """
        return embeddings_of(self.latest)

    @cached_property
    def user_embeddings(self) -> dict[str, LatestField]:
        """The same of users."""
        return embeddings_of(self.latest, "user")

    @cached_property
    def views(self) -> tuple[StoredView, ...]:
        """All stored views; an update names its view by its place in this tuple."""
        return (*self.activity, *self.latest, *self.relations, *self.plain)

    @cached_property
    def actions(self) -> tuple[str, ...]:
        """All actions that change any row; an update names its action by its place here."""
        acted_upon: tuple[ActivityView | RelationsView, ...] = (*self.activity, *self.relations)
        return tuple(sorted(frozenset[str]().union(*(view.actions for view in acted_upon))))

    def service_features(self, service: str) -> tuple[tuple[str, Feature], ...]:
        """(column name, feature) of a feature service in order: `view__feature`."""
        views = {view.name: view for view in self.as_of}
        return tuple(
            (f"{name}__{feature.name}", feature)
            for name in self.services[service]
            for feature in views[name].features
        )
