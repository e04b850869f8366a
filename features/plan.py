"""The plan: what the workers do, compiled from the Feast registry alone.

Reads the registry's protobufs and never executes a function stored there. Definitions that
Headrace cannot run are refused with the view's name and what to change.
"""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from feast.constants import FEAST_FS_YAML_FILE_PATH_ENV_NAME
from feast.infra.registry.registry import Registry
from feast.infra.registry.sql import FeastMetadataKeys, SqlRegistry, feast_metadata
from feast.repo_config import RegistryConfig, load_repo_config
from feast.value_type import ValueType
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from features.codec import INT32_TYPE, INT64_TYPE, STRING_TYPE, VALUE_TYPES
from features.errors import Refused, Unavailable
from features.offline import FOLDER
from features.plan_check import check_packs, check_plan
from features.plan_plain import check_together, compile_plain, runs_here
from features.project import JOIN_KEYS
from features.spec import (
    ActivityView,
    AsOfView,
    EntitySpec,
    Feature,
    LatestField,
    LatestView,
    Metric,
    PlainView,
    Plan,
    RelationSpec,
    RelationsView,
    RingSpec,
    SequenceSpec,
    StoredView,
    TotalSpec,
)
from features.tags import (
    AS_OF_TAG,
    DIMENSION_TAG,
    EVENT_TAG,
    KIND_TAG,
    NO_KIND,
    PATH_TAG,
    PRECISION_TAG,
    RELATIONS_TAG,
    RING,
    SEQUENCE,
    SEQUENCE_TAG,
    TOTAL,
)

REPO: Final = "HEADRACE_REPO"
"""The setting of every process that names its feature repository."""
SETTLED_S: Final = 2.0
"""A change of the registry and another of the same second are over so long after the first was
seen."""
REREAD_S: Final = 60.0
"""After so long it is read again whatever it says: clocks of those who change it may differ."""
_FEATURES: Final[TypeAdapter[tuple[Feature, ...]]] = TypeAdapter(tuple[Feature, ...])
_KEY_TYPES: Final = {
    ValueType.STRING.value: STRING_TYPE,
    ValueType.INT32.value: INT32_TYPE,
    ValueType.INT64.value: INT64_TYPE,
}
_DTYPES: Final = {
    ValueType.STRING: "String",
    ValueType.INT32: "Int32",
    ValueType.INT64: "Int64",
    ValueType.FLOAT: "Float32",
    ValueType.DOUBLE: "Float64",
    ValueType.BOOL: "Bool",
    ValueType.STRING_LIST: "Array(String)",
    ValueType.INT64_LIST: "Array(Int64)",
    ValueType.FLOAT_LIST: "Array(Float32)",
    ValueType.DOUBLE_LIST: "Array(Float64)",
}


@dataclass(frozen=True, slots=True)
class FeatureRepo:
    """A feature repository on disk: its folder and the `feature_store.yaml` in force.

    The environment variable FEAST_FS_YAML_FILE_PATH, which stock Feast honours, overrides the
    folder's own file; beside HEADRACE_REPO it is about that folder, and no other one.
    """

    folder: Path
    config: Path | None = None
    """The file that is in force whatever the environment says."""

    @property
    def config_file(self) -> Path:
        """The feature_store.yaml in force."""
        if self.config is not None:
            return self.config
        override, usual = os.environ.get(FEAST_FS_YAML_FILE_PATH_ENV_NAME), os.environ.get(REPO)
        if override and (usual is None or Path(usual).resolve() == self.folder.resolve()):
            return Path(override)
        return self.folder / "feature_store.yaml"

    def open(self) -> "PlanSource":
        """A reader of this repository's registry."""
        if not self.config_file.is_file():
            raise Refused(
                f"no feature_store.yaml at {self.config_file}: point HEADRACE_REPO at a feature "
                f"repository, or {FEAST_FS_YAML_FILE_PATH_ENV_NAME} at its configuration"
            )
        return PlanSource(self)


class PlanSource:
    """Compiles the plan of a repository, again each time it is asked."""

    def __init__(self, repo: FeatureRepo) -> None:
        config = load_repo_config(repo.folder, repo.config_file)
        registry_config = config.registry
        assert isinstance(registry_config, RegistryConfig)
        self.project: str = config.project
        self._config = config
        self._where, self._folder = repo.config_file, repo.folder
        path = _resolved(registry_config.path, repo.folder)
        registry_config = registry_config.model_copy(update={"path": path})
        self._registry: Registry | SqlRegistry = (
            SqlRegistry(registry_config, config.project, repo.folder)
            if registry_config.registry_type == "sql"
            else Registry(config.project, registry_config, repo.folder)
        )
        self._compiled: tuple[bytes, Plan] | None = None
        """What was compiled last, and of what."""
        self._changes = _Changes()

    def read(self) -> Plan:
        """The plan as the registry has it now."""
        began = time.monotonic()
        try:
            # To read it all takes some 5 ms, in which a ranker answers no request.
            if not self._changes.possible(self._changed_at(), began) and self._compiled is not None:
                return self._compiled[1]
            registry = self._whole()
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable(f"the Feast registry cannot be read: {error}") from error
        # To compile takes some 25 ms, which a worker that looks every other second would spend in
        # the way of its records.
        content = registry.SerializeToString(deterministic=True)
        if self._compiled is not None and self._compiled[0] == content:
            self._changes.read(began)
            return self._compiled[1]
        plan = compile_plan(registry, self.project)
        if not plan.views:
            raise Refused(
                f"the registry of project {self.project!r} ({self._where}) holds no view of "
                "Headrace: run `feast apply` in the feature repository"
            )
        self._compiled = content, plan
        self._changes.read(began)
        return plan

    def archive(self) -> str:
        """Where row versions go: the folder above those that the stored views' sources name."""
        folders = set()
        for view in self._whole().stream_feature_views:
            path = str(view.spec.batch_source.file_options.uri)
            root, _, name = path.rpartition(f"/{FOLDER}/")
            if view.spec.project == self.project and root and name == view.spec.name:
                folders.add(_resolved(root, self._folder))
        if len(folders) != 1:
            found = ", ".join(sorted(folders)) or "none"
            raise Refused(
                f"the stored views of project {self.project!r} name no common archive (found: "
                f"{found}): declare them over one events_source(archive=…), then `feast apply`"
            )
        return folders.pop()

    def _whole(self) -> Any:
        """The `feast.core.Registry` message as it is stored now."""
        if not isinstance(self._registry, SqlRegistry):
            self._registry.refresh()
        return self._registry.proto()  # of SQL it is read from the database each time

    def _changed_at(self) -> int | None:
        """When the registry says that it was changed last, in seconds; None when it does not."""
        if not isinstance(self._registry, SqlRegistry):
            return None
        asked = select(feast_metadata.c.last_updated_timestamp).where(
            feast_metadata.c.metadata_key == FeastMetadataKeys.LAST_UPDATED_TIMESTAMP.value,
            feast_metadata.c.project_id == self.project,
        )
        with self._registry.read_engine.begin() as connection:
            return connection.scalar(asked)

    def history(self, frame: pd.DataFrame, service: str) -> pa.Table:
        """The features of a service, `view__feature`, as Feast's own historical retrieval finds
        them for the rows of a frame, through the repository's offline store."""
        store = FeatureStore(config=self._config)
        features = store.get_feature_service(service)
        return store.get_historical_features(frame, features, full_feature_names=True).to_arrow()


class _Changes:
    """Whether a registry may have changed since it was read, by what it says of that itself.

    It says so in seconds: of several changes in one, the last ones cannot be told from the first.
    """

    def __init__(self) -> None:
        self._stamp: int | None = None
        self._seen_at = self._read_at = -math.inf

    def possible(self, stamp: int | None, now: float) -> bool:
        """Whether it has to be read, now that it says this."""
        if stamp != self._stamp:
            self._stamp, self._seen_at = stamp, now
        settled = self._read_at - self._seen_at > SETTLED_S
        return stamp is None or not settled or now - self._read_at > REREAD_S

    def read(self, began: float) -> None:
        """Note that it was read, and could be used; what fails is read again."""
        self._read_at = began


def compile_plan(registry: Any, project: str) -> Plan:
    """The plan of one project from a `feast.core.Registry` message."""
    streams = sorted(
        (v.spec for v in registry.stream_feature_views if v.spec.project == project),
        key=lambda spec: str(spec.name),
    )
    kinds = {str(spec.name): dict(spec.tags).get(KIND_TAG) for spec in streams}
    streams = [s for s in streams if kinds[s.name] != NO_KIND and (kinds[s.name] or runs_here(s))]
    used = {name for spec in streams if kinds[spec.name] for name in spec.entities}
    entities = {
        e.spec.name: entity_spec(e.spec.name, e.spec.join_key, e.spec.value_type)
        for e in registry.entities
        if e.spec.project == project and e.spec.name in used
    }
    all_entities = {e.spec.name: e.spec for e in registry.entities if e.spec.project == project}
    stored: list[StoredView] = []
    plain: list[PlainView] = []
    topics = set()
    for spec in streams:
        topics.add(str(spec.stream_source.kafka_options.topic))
        if kinds[spec.name] is None:
            plain.append(compile_plain(spec, all_entities))
        else:
            stored.append(compile_view(spec, entities))
    if len(topics) > 1:
        raise Refused(f"stream feature views read different topics ({', '.join(sorted(topics))})")
    if plain and stored:
        raise Refused(
            f"view {plain[0].name!r} is of plain records and others of Headrace's own events, all "
            f"from topic {min(topics)!r}: declare it with features.declare (activity_view, "
            "latest_view or relations_view), or keep it in another project with a topic of its own"
        )
    check_together(plain)
    demands = [v.spec for v in registry.on_demand_feature_views if v.spec.project == project]
    as_of = tuple(
        AsOfView(name=spec.name, features=_FEATURES.validate_json(spec.tags[AS_OF_TAG]))
        for spec in sorted(demands, key=lambda spec: str(spec.name))
        if AS_OF_TAG in spec.tags
    )
    known = {view.name for view in as_of}
    services = {
        s.spec.name: tuple(
            p.feature_view_name for p in s.spec.features if p.feature_view_name in known
        )
        for s in registry.feature_services
        if s.spec.project == project
    }
    plan = Plan(
        project=project,
        topic=next(iter(topics), "events"),
        activity=tuple(view for view in stored if isinstance(view, ActivityView)),
        latest=tuple(view for view in stored if isinstance(view, LatestView)),
        relations=tuple(view for view in stored if isinstance(view, RelationsView)),
        plain=tuple(plain),
        as_of=as_of,
        services=dict(sorted(services.items())),
    )
    check_plan(plan)
    check_packs(plan)
    return plan


def compile_view(spec: Any, entities: dict[str, EntitySpec]) -> StoredView:
    """One stored view from its registry message."""
    if spec.tags[KIND_TAG] == "activity":
        return _activity(spec, entities)
    if spec.tags[KIND_TAG] == "relations":
        return _relations(spec, entities)
    return _latest(spec, entities)


def entity_spec(name: str, join_key: str, value_type: int) -> EntitySpec:
    """An entity that events can name; `value_type` is Feast's number."""
    if value_type not in _KEY_TYPES:
        kind = ValueType(value_type).name
        raise Refused(f"entity {name!r}: value type {kind} is not STRING, INT32 or INT64")
    if join_key not in JOIN_KEYS:
        known = ", ".join(JOIN_KEYS)
        raise Refused(f"entity {name!r}: events carry no {join_key!r} (known: {known})")
    return EntitySpec(name=name, join_key=join_key, value_type=_KEY_TYPES[value_type])


def _entity_of(spec: Any, entities: dict[str, EntitySpec]) -> EntitySpec:
    if len(spec.entities) != 1:
        raise Refused(f"view {spec.name!r}: a stored view has exactly one entity")
    return entities[spec.entities[0]]


def _activity(spec: Any, entities: dict[str, EntitySpec]) -> ActivityView:
    first = last = None
    rings, totals, sequences = [], [], []
    for aggregation in spec.aggregations:
        column, name = aggregation.column, aggregation.name
        if aggregation.function == RING:
            width = _milliseconds(aggregation.slide_interval)
            buckets = _milliseconds(aggregation.time_window) // width
            metric = _metric(spec.name, column)
            rings.append(RingSpec(metric=metric, width_ms=width, buckets=buckets))
        elif aggregation.function == TOTAL:
            totals.append(TotalSpec(metric=_metric(spec.name, column)))
        elif aggregation.function == SEQUENCE:
            tag = json.loads(spec.tags[f"{SEQUENCE_TAG}.{name}"])
            actions = tuple(column.split(","))
            sequences.append(SequenceSpec(name=name, actions=actions, **tag))
        elif aggregation.function == "min" and column == "event_time":
            first = name
        elif aggregation.function == "max" and column == "event_time":
            last = name
        else:
            raise Refused(
                f"view {spec.name!r}: aggregation {name!r} uses function {aggregation.function!r} "
                "on an activity view, which knows ring, total, newest, min and max of event_time"
            )
    return ActivityView(
        name=spec.name,
        entity=_entity_of(spec, entities),
        rings=tuple(rings),
        totals=tuple(totals),
        sequences=tuple(sequences),
        first_seen=first,
        last_seen=last,
    )


def _latest(spec: Any, entities: dict[str, EntitySpec]) -> LatestView:
    fields, tie = [], None
    for feature in spec.features:
        path = dict(feature.tags).get(PATH_TAG)
        if path is None:
            tie = feature.name if feature.name == "event_hash" else tie
            continue
        dtype = _DTYPES.get(ValueType(feature.value_type))
        if dtype not in VALUE_TYPES:
            kind = ValueType(feature.value_type).name
            raise Refused(f"view {spec.name!r}: field {feature.name!r} has type {kind}")
        tags = dict(feature.tags)
        dimension = tags.get(DIMENSION_TAG)
        fields.append(
            LatestField(
                name=feature.name,
                path=path,
                dtype=dtype,
                dimension=None if dimension is None else int(dimension),
                precision=tags.get(PRECISION_TAG, "float32"),
            )
        )
    if tie is None:
        raise Refused(f"view {spec.name!r}: declare it with latest_view, which adds event_hash")
    return LatestView(
        name=spec.name,
        entity=_entity_of(spec, entities),
        event=spec.tags[EVENT_TAG],
        fields=tuple(sorted(fields, key=lambda field: field.name)),
        event_field=tie,
    )


def _relations(spec: Any, entities: dict[str, EntitySpec]) -> RelationsView:
    try:
        tag = json.loads(spec.tags[RELATIONS_TAG])
        relations = tuple(
            RelationSpec(on=on, off=off) for on, off in sorted(tag["relations"].items())
        )
        return RelationsView(
            name=spec.name,
            entity=_entity_of(spec, entities),
            relations=relations,
            target=tag["target"],
            limit=tag["limit"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"view {spec.name!r}: declare it with relations_view ({error})") from error


def _metric(view: str, column: str) -> Metric:
    action, _, value = column.partition(".")
    if value not in ("", "value"):
        raise Refused(f"view {view!r}: column {column!r} is neither an action nor its value")
    return Metric(action=action, amount="value" if value else "count")


def _milliseconds(duration: Any) -> int:
    return int(duration.seconds) * 1000 + int(duration.nanos) // 1_000_000


def _resolved(path: str, folder: Path) -> str:
    """A registry path as seen from anywhere: relative SQLite and file paths are the folder's."""
    sqlite = "sqlite:///"
    if path.startswith(sqlite):
        return sqlite + str((folder / path.removeprefix(sqlite)).resolve())
    return path if "://" in path else str((folder / path).resolve())
