"""The vocabulary of a feature repository: functions that return real Feast objects.

    user = entity("user", "user_id")
    user_activity = activity_view("user_activity", user, events, state=[counters("click"), ...])
    user_rates = as_of_view("user_rates", [user_activity], [rate("ctr_24h", "click", ...)])

Stored views are `StreamFeatureView`s whose `aggregations` and tags say how an event updates a
row; as-of views are `OnDemandFeatureView`s whose tags say how state is read at `now`. All of it
travels in the Feast registry, from which `features.plan` compiles the workers' plan.
"""

import json
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

from feast import (
    Entity,
    FeatureService,
    FeatureView,
    FileSource,
    KafkaSource,
    OnDemandFeatureView,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast import Field as FeastField
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, Bytes, FeastType, Float32, Float64, Int32, Int64, String

from features.layout import COUNTS_FIELD, LISTS_FIELD
from features.offline import APPENDED_AT, FOLDER
from features.on_demand import Declared
from features.plan import compile_view, entity_spec
from features.plan_check import bad_product
from features.reads import (
    affinity,
    age,
    code,
    count,
    decayed,
    dot_product,
    hour_of_day,
    mean,
    near_rate,
    placed,
    rate,
    recency,
    similarity,
    since,
    surface_code,
    trend,
    value,
)
from features.relations import RELATION_FIELDS
from features.spec import (
    SEQUENCE_COLUMNS,
    ActivityView,
    AsOfView,
    Compared,
    DotProductFeature,
    EntitySpec,
    Feature,
    LatestView,
    StoredView,
    embeddings_of,
)
from features.tags import (
    AS_OF_TAG,
    DIMENSION_TAG,
    EVENT_TAG,
    KIND_TAG,
    PATH_TAG,
    PRECISION_TAG,
    RELATIONS_TAG,
    RING,
    SEQUENCE,
    SEQUENCE_TAG,
    TOTAL,
    action_name,
    duration_ms,
)

Stored = tuple[list[Aggregation], list[FeastField], dict[str, str]]

__all__ = [
    "DEFAULT_RINGS",
    "EVENT_FIELD",
    "activity_view",
    "affinity",
    "age",
    "as_of_view",
    "code",
    "context",
    "count",
    "counters",
    "decayed",
    "dot_product",
    "embedded",
    "entity",
    "events_source",
    "feature_service",
    "first_seen",
    "hour_of_day",
    "last_seen",
    "latest_view",
    "mean",
    "near_rate",
    "newest",
    "now",
    "rate",
    "recency",
    "recent_vectors",
    "relations_view",
    "similarity",
    "since",
    "sums",
    "surface_code",
    "taken",
    "trend",
    "value",
]

_URI_AS_PATH: Final = re.compile(r"([a-z][a-z0-9+]+):/([^/].*)")
DEFAULT_RINGS: Final = (("5m", 12), ("1h", 24), ("6h", 28))
"""Bucket widths and how many of each are kept: an hour, a day, a week."""

EVENT_FIELD: Final = "event_hash"
"""The field of a newest-value view that breaks ties between events of one time."""

warnings.filterwarnings(
    "ignore", message="(Stream|On demand) feature view", category=RuntimeWarning
)

now = RequestSource(
    name="as_of",
    schema=[FeastField(name="now", dtype=Int64, description="read time, milliseconds UTC")],
)
"""The instant at which state is read, part of every request."""

context = RequestSource(
    name="request",
    schema=[
        FeastField(name="request_surface", dtype=String, description="where the feed is shown")
    ],
)
"""What a request says about itself. Not `surface`: Feast takes a name either as an entity's key or
as request data, and a service may read the surface's own row as well."""

recent_vectors = RequestSource(
    name="recent_items",
    schema=[
        FeastField(
            name="recent_vectors",
            dtype=Array(Float64),
            description="embeddings of the user's listed items, end to end, oldest first; list "
            "after list, as the view's features name them",
        )
    ],
)
"""Feast joins no rows for items inside a list; a Feast client that wants similarity sends them."""


def entity(name: str, join_key: str, value_type: ValueType = ValueType.STRING) -> Entity:
    """A thing that has rows. Ids are opaque strings unless the product says otherwise."""
    return Entity(name=name, join_keys=[join_key], value_type=value_type)


def events_source(
    name: str = "events", topic: str = "events", *, archive: Path | str
) -> KafkaSource:
    """The stream of events; below `archive` the archiver keeps what Feast's offline store reads.

    `archive` is a folder or a URI (`"s3://bucket/path"`). ValueError for a URI as a `Path`, which
    makes one slash of two.
    """
    if isinstance(archive, Path) and (found := _URI_AS_PATH.match(str(archive))):
        scheme, rest = found.groups()
        raise ValueError(
            f"events_source(archive=Path({str(archive)!r})): a Path keeps one slash of two; give "
            f'the URI as text: archive="{scheme}://{rest}"'
        )
    root = str(archive).rstrip("/")
    return KafkaSource(
        name=name,
        topic=topic,
        timestamp_field="event_time",
        message_format=JsonFormat(schema_json="event_id string, event_time long, type string"),
        batch_source=_versions(f"{name}_archive", f"{root}/{FOLDER}"),
    )


def _versions(name: str, path: str) -> FileSource:
    return FileSource(name=name, path=path, timestamp_field=APPENDED_AT)


def _archived(view: str, source: KafkaSource) -> KafkaSource:
    """The source as one view has it: with the folder of its own row versions."""
    everything = source.batch_source
    if not isinstance(everything, FileSource):
        return source
    own = copy(source)
    own.name = f"{view}_{source.name}"  # Feast knows a source by its name
    own.batch_source = _versions(f"{view}_versions", f"{everything.path}/{view}")
    return own


def counters(
    *actions: str, rings: Sequence[tuple[str, int]] = DEFAULT_RINGS, amount: str = "count"
) -> Stored:
    """Counts of actions (or sums of their values) in rings of buckets, and their totals.

    An event at time t counts in bucket ⌊t/width⌋ of every ring, and in the total for good. A ring
    keeps the newest `buckets` buckets of its row, counted back from the row's newest event.
    """
    aggregations = []
    for action in map(action_name, actions):
        column = action if amount == "count" else f"{action}.value"
        stem = action if amount == "count" else f"{action}_value"
        for width, buckets in rings:
            step = timedelta(milliseconds=duration_ms(width))
            aggregations.append(
                Aggregation(
                    column=column,
                    function=RING,
                    time_window=step * buckets,
                    slide_interval=step,
                    name=f"{stem}_{width}",
                )
            )
        aggregations.append(Aggregation(column=column, function=TOTAL, name=f"{stem}_total"))
    return aggregations, [], {}


def sums(*actions: str, rings: Sequence[tuple[str, int]] = DEFAULT_RINGS) -> Stored:
    """Sums of the values of actions (dwell ms and the like), like `counters`."""
    return counters(*actions, rings=rings, amount="value")


def newest(
    name: str, actions: Iterable[str], length: int, columns: Sequence[str] = SEQUENCE_COLUMNS
) -> Stored:
    """The newest `length` facts of some actions; facts alike in all columns are listed once."""
    listed = tuple(map(action_name, actions))
    tag = json.dumps({"length": length, "columns": list(columns)})
    return (
        [Aggregation(column=",".join(listed), function=SEQUENCE, name=name)],
        [],
        {f"{SEQUENCE_TAG}.{name}": tag},
    )


def last_seen(name: str = "last_seen") -> Stored:
    """The time of the newest fact of a row, ms."""
    return (
        [Aggregation(column="event_time", function="max", name=name)],
        [FeastField(name=name, dtype=Int64, description="newest event time, ms")],
        {},
    )


def first_seen(name: str = "first_seen") -> Stored:
    """The time of the oldest fact of a row, ms."""
    return (
        [Aggregation(column="event_time", function="min", name=name)],
        [FeastField(name=name, dtype=Int64, description="oldest event time, ms")],
        {},
    )


def activity_view(
    name: str, of: Entity, source: KafkaSource, state: Sequence[Stored], description: str = ""
) -> StreamFeatureView:
    """A stored view that counts and lists what happens to an entity.

    Counters and lists are packed into one field each, which `features.unpack` reads.
    """
    tags = {KIND_TAG: "activity"}
    aggregations = [a for found, _, _ in state for a in found]
    packs = [FeastField(name=COUNTS_FIELD, dtype=Bytes, description="counters, packed")]
    if any(a.function == SEQUENCE for a in aggregations):
        packs.append(FeastField(name=LISTS_FIELD, dtype=Bytes, description="lists, packed"))
    for _, _, more in state:
        tags |= more
    return StreamFeatureView(
        name=name,
        entities=[of],
        source=_archived(name, source),
        timestamp_field="event_time",
        schema=[_key_field(of), *packs, *(field for _, fields, _ in state for field in fields)],
        aggregations=aggregations,
        tags=tags,
        description=description,
        online=True,
    )


def latest_view(
    name: str,
    of: Entity,
    source: KafkaSource,
    event: Literal["item", "user"],
    fields: Sequence[FeastField],
    description: str = "",
) -> StreamFeatureView:
    """A stored view that keeps the newest `item` or `user` event about an entity."""
    tie = FeastField(name=EVENT_FIELD, dtype=Int64, description="hash of the event kept")
    return StreamFeatureView(
        name=name,
        entities=[of],
        source=_archived(name, source),
        timestamp_field="event_time",
        schema=[_key_field(of), *fields, tie],
        tags={KIND_TAG: "latest", EVENT_TAG: event},
        description=description,
        online=True,
    )


def relations_view(
    name: str,
    of: Entity,
    source: KafkaSource,
    relations: Mapping[str, str],
    target: Literal["author", "item", "category"] = "author",
    limit: int = 10_000,
    description: str = "",
) -> StreamFeatureView:
    """A stored view of durable relations between an entity and authors, items or categories.

    `relations` gives for each action that begins a relation the one that ends it: {"follow":
    "unfollow"}. Per (relation, target) the newest of the two by (event time, event id) stands, so
    a late "follow" never undoes the "unfollow" that came after it; an event that names no target
    says nothing, and one with several categories speaks of the first. A row keeps its newest
    `limit` pairs, ended ones too, as parallel lists: targets, actions, times (ms), events (hashes
    of event ids), oldest first.
    """
    opposites = {action_name(on): action_name(off) for on, off in relations.items()}
    tag = json.dumps({"relations": opposites, "target": target, "limit": limit})
    dtypes: dict[str, FeastType] = {"targets": Array(String), "actions": Array(String)}
    lists = [FeastField(name=f, dtype=dtypes.get(f, Array(Int64))) for f in RELATION_FIELDS]
    return StreamFeatureView(
        name=name,
        entities=[of],
        source=_archived(name, source),
        timestamp_field="event_time",
        schema=[_key_field(of), *lists],
        tags={KIND_TAG: "relations", RELATIONS_TAG: tag},
        description=description,
        online=True,
    )


def taken(name: str, dtype: FeastType, path: str = "", description: str = "") -> FeastField:
    """A field taken from an event: by its own name, or a path such as `attributes.duration_ms`."""
    return FeastField(
        name=name, dtype=dtype, tags={PATH_TAG: path or name}, description=description
    )


def embedded(
    name: str,
    dimension: int | None = None,
    version: str = "",
    precision: Literal["float32", "float16"] = "float32",
    description: str = "",
) -> FeastField:
    """An item's or a user's embedding: of the event's `embedding`, or of a version among its
    `embeddings`.

    An event with another number of components than `dimension` is a dead letter. float16 halves
    the ranker's memory of it; whoever reads the embedding rounds it alike, training as well.
    """
    tags = {PATH_TAG: f"embeddings.{version}" if version else "embedding", PRECISION_TAG: precision}
    if dimension is not None:
        tags[DIMENSION_TAG] = str(dimension)
    return FeastField(name=name, dtype=Array(Float32), tags=tags, description=description)


def as_of_view(
    name: str,
    sources: Sequence[StreamFeatureView],
    features: Sequence[Feature],
    description: str = "",
) -> OnDemandFeatureView:
    """Features computed at read from stored views and `now`; each names its view by `sources[0]`
    unless it says otherwise.

    The view's function holds no formula: it hands the declaration and Feast's inputs to the same
    kernels that serve, train and replay.
    """
    default = sources[0].name if sources else ""
    views = _compiled(sources)
    read = [_compared(placed(feature, default, views), views) for feature in features]
    for feature in read:
        wrong = bad_product(feature, views) if isinstance(feature, DotProductFeature) else None
        if wrong is not None:
            raise ValueError(f"feature {feature.name!r} of {name!r} {wrong}")
    if len({f.embedding for f in read if isinstance(f, Compared)}) > 1:
        raise ValueError(
            f"as-of view {name!r} compares embeddings of two views, and a Feast client can send "
            "those of one: declare an as-of view for each"
        )
    spec = json.dumps([f.model_dump() for f in read], sort_keys=True)
    declared = _declared(name, views.values(), read)
    source_text = (
        f"def {name}(inputs):\n"
        "    from features.on_demand import read\n"
        f"    return read({declared!r}, inputs)\n"
    )
    scope: dict[str, Any] = {}
    exec(source_text, scope)
    inputs: list[FeatureView | RequestSource] = [*sources, now]
    if any(f.kind == "context" for f in read):
        inputs.append(context)
    if any(isinstance(f, Compared) for f in read):
        inputs.append(recent_vectors)
    return OnDemandFeatureView(
        name=name,
        sources=inputs,  # type: ignore[arg-type]
        # Feast compares whole fields with the inferred ones: a description would not be found.
        schema=[FeastField(name=f.name, dtype=Float64) for f in read],
        mode="python",
        feature_transformation=PythonTransformation(udf=scope[name], udf_string=source_text),
        tags={AS_OF_TAG: spec},
        description=description,
    )


def feature_service(
    name: str, views: Sequence[OnDemandFeatureView], description: str = ""
) -> FeatureService:
    """The features one model reads, in order."""
    return FeatureService(name=name, features=list(views), description=description)


def _compared(feature: Feature, views: Mapping[str, StoredView]) -> Feature:
    """A similarity names the view whose embeddings it compares: a second one may be declared."""
    if not isinstance(feature, Compared | DotProductFeature) or feature.embedding:
        return feature
    latest = tuple(view for view in views.values() if isinstance(view, LatestView))
    found = next(iter(embeddings_of(latest)), "")
    return feature.model_copy(update={"embedding": found})


def _compiled(sources: Sequence[StreamFeatureView]) -> dict[str, StoredView]:
    """The stored views as the plan will have them, by name."""
    return {
        source.name: compile_view(source.to_proto().spec, _entities(source))  # type: ignore[no-untyped-call]
        for source in sources
    }


def _declared(name: str, views: Collection[StoredView], features: Sequence[Feature]) -> str:
    """The view's features and the stored views they read, for its function inside Feast."""
    return Declared(
        activity=tuple(v for v in views if isinstance(v, ActivityView)),
        latest=tuple(v for v in views if isinstance(v, LatestView)),
        as_of=AsOfView(name=name, features=tuple(features)),
    ).model_dump_json()


def _entities(view: StreamFeatureView) -> dict[str, EntitySpec]:
    """The entity of a declared view as the plan will have it."""
    found = view.entity_columns[0]
    kind = found.dtype.to_value_type()
    (entity_name,) = view.entities
    return {entity_name: entity_spec(entity_name, found.name, kind.value)}


def _key_field(of: Entity) -> FeastField:
    dtype = {ValueType.INT64: Int64, ValueType.INT32: Int32}.get(of.value_type, String)
    return FeastField(
        name=of.join_keys[0] if hasattr(of, "join_keys") else of.join_key, dtype=dtype
    )
