"""The yardsticks of `rank` and `ingest`: stock Feast, used as its own documentation says."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import lightgbm
import numpy as np
import pandas as pd
from feast import FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.types import Array, FeastType, Int64, String
from redis import Redis

from deploy.feature_store import SETTINGS
from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY, USER_KEY
from features.codec import decode_value, entity_id, field_name
from features.entities import Hash
from features.layout import stored_fields
from features.spec import (
    ActivityView,
    AffinityFeature,
    AgeFeature,
    CodeFeature,
    Compared,
    ContextFeature,
    CountFeature,
    DecayedFeature,
    DotProductFeature,
    Feature,
    LatestView,
    Metric,
    PlainView,
    Plan,
    RateFeature,
    RecencyFeature,
    SinceFeature,
    StoredView,
    TrendFeature,
    ValueFeature,
    Window,
    lists_read,
)
from tests.benchmarks.typed_rows import (
    list_field,
    ring_field,
    schema,
    total_field,
    typed_fields,
)
from tests.facts import plain
from tests.stock_feast import stock_store

ListFeature = AffinityFeature | SinceFeature | Compared
TYPED_PROJECT = "typed"
FIELDS_PER_CANDIDATE = 40
REQUEST_KEYS = (USER_KEY, "surface")
"""Entities of which a request has one; of the others it has one for each candidate."""


class StockRanker:
    """`get_online_features` of what our features read, then `Booster.predict`.

    One call for the candidates asks FIELDS_PER_CANDIDATE of each: those of the item with its
    embedding, its author and its category, and the user's and the surface's single numbers, which
    a model's row repeats. A second one asks the user's lists and rings, once: to repeat those for
    every candidate would cost Feast much more. Ids of authors and categories are given to it,
    which we look up. No feature is computed from what comes back: that too is given, as a matrix.
    """

    def __init__(
        self,
        store: FeatureStore,
        plan: Plan,
        service: str,
        booster: lightgbm.Booster,
        matrix: Floats,
    ) -> None:
        self._store = store
        self._booster = booster
        self._matrix = matrix
        views = {view.name: view for view in plan.views}
        read = fields_read(plan, service)
        of_request, of_candidate = (
            [
                (f"{view}:{field}", _types(views[view])[field])
                for view, fields in read.items()
                if (views[view].entity.join_key in REQUEST_KEYS) == once
                for field in fields
            ]
            for once in (True, False)
        )
        numbers = [name for name, dtype in of_request if not dtype.startswith("Array")]
        repeated = numbers[: FIELDS_PER_CANDIDATE - len(of_candidate)]
        self.of_request = [name for name, _ in of_request if name not in repeated]
        self.of_candidate = [name for name, _ in of_candidate] + repeated

    def rank(self, user_id: str, surface: str, candidates: Sequence[Mapping[str, str]]) -> Any:
        """Scores of candidates, each given as its ids by join key."""
        once = {USER_KEY: user_id, "surface": surface}
        for fields, entities in (
            (self.of_request, [once]),
            (self.of_candidate, [{**once, **ids} for ids in candidates]),
        ):
            self._store.get_online_features(fields, entities, full_feature_names=True)
        return self._booster.predict(self._matrix)

    def found(self, candidates: Sequence[Mapping[str, str]]) -> int:
        """How many of the candidates Feast finds an impression count for: all, if all is well."""
        (total,) = (f for f in self.of_candidate if f == "item_activity:impression_total")
        answer = self._store.get_online_features([total], [dict(ids) for ids in candidates])
        return sum(value is not None for value in answer.to_dict()["impression_total"])


def fields_read(plan: Plan, service: str) -> dict[str, list[str]]:
    """View → the typed fields that the features of a service are computed from."""
    views = {view.name: view for view in plan.views}
    found: dict[str, dict[str, None]] = {}
    for _, feature in plan.service_features(service):
        if isinstance(feature, ContextFeature):
            continue
        view = views[feature.view]
        assert not isinstance(view, PlainView)
        fields = found.setdefault(view.name, {})
        if isinstance(feature, DotProductFeature):
            other = feature.embedding or next(iter(plan.embeddings))
            fields[plan.user_embeddings[view.name].name] = None
            found.setdefault(other, {})[plan.embeddings[other].name] = None
            if feature.bias:
                found.setdefault(feature.bias_view or other, {})[feature.bias] = None
            continue
        if isinstance(view, LatestView):
            assert isinstance(feature, ValueFeature | CodeFeature | AgeFeature)
            fields[feature.field] = None
            continue
        assert isinstance(view, ActivityView)
        fields |= dict.fromkeys(_fields_of(view, feature))
        if isinstance(feature, ListFeature):
            for profile in plan.latest:
                if profile.entity.join_key == ITEM_KEY:
                    wanted = ("embedding", "author_id", "categories")
                    named = [f.name for f in profile.fields if f.path in wanted]
                    found.setdefault(profile.name, {}).update(dict.fromkeys(named))
    return {view: list(fields) for view, fields in found.items()}


def _types(view: StoredView) -> dict[str, str]:
    """The type of each typed field of a view."""
    if isinstance(view, ActivityView):
        return schema(view)
    assert isinstance(view, LatestView)
    return {field.name: field.dtype for field in view.fields}


def _fields_of(view: ActivityView, feature: Feature) -> list[str]:
    """The stored fields that one feature of an activity view reads."""
    if isinstance(feature, RecencyFeature):
        name = view.first_seen if feature.of == "first" else view.last_seen
        return [name] if name else []
    if isinstance(feature, ListFeature):
        listed = lists_read(feature) if isinstance(feature, Compared) else [(feature.sequence, ())]
        names = [name for name, _ in listed]
        key = "item" if isinstance(feature, Compared) else feature.key
        return [
            list_field(sequence, column)
            for sequence in view.sequences
            if sequence.name in names
            for column in ("time", "action", key)
            if column == "time" or column in sequence.columns
        ]
    assert isinstance(feature, CountFeature | RateFeature | DecayedFeature | TrendFeature)
    pairs: list[tuple[Metric, Window | None]] = [(feature.metric, feature.window)]
    if isinstance(feature, RateFeature):
        added = (*feature.more_of, feature.per, *feature.more_per)
        pairs += [(metric, feature.window) for metric in added]
    if isinstance(feature, TrendFeature):
        pairs.append((feature.metric, feature.long))
    return [
        total_field(metric) if window is None else ring_field(metric, window.width_ms)
        for metric, window in pairs
    ]


def typed_project(repo: Path, folder: Path, plan: Plan, client: Redis) -> FeatureStore:
    """The stored rows once more, in a project of its own, as a user of stock Feast has them.

    Plain `FeatureView`s with the same entities; counters and lists are typed fields, one for each
    ring, total and column (`typed_rows`), of which a request reads those it needs.
    """
    ours = stock_store(repo / SETTINGS)
    config = ours.config.model_copy(deep=True)
    config.project = TYPED_PROJECT
    config.registry.path = f"sqlite:///{folder}/typed.db"
    store = FeatureStore(config=config)
    entities = {entity.name: entity for entity in ours.list_entities()}
    archive = FileSource(path=str(folder / "typed.parquet"), timestamp_field="event_time")
    registered = {view.name: view for view in ours.list_stream_feature_views()}
    views = [
        FeatureView(
            name=view.name,
            entities=[entities[view.entity.name]],
            schema=_typed_schema(registered[view.name], view),
            source=archive,
        )
        for view in plan.views
    ]
    store.apply([*entities.values(), *views])
    for key in list(client.scan_iter(count=10_000)):
        if any(entity_id(e.join_key, key, plan.project) is not None for e in plan.entities):
            copy = _typed_copy(plan, key, cast(Hash, client.hgetall(key)))
            client.hset(
                key.removesuffix(plan.project.encode()) + TYPED_PROJECT.encode(), mapping=copy
            )
    return store


def _typed_schema(registered: FeatureView, view: StoredView) -> list[Field]:
    if not isinstance(view, ActivityView):
        return registered.schema
    types: dict[str, FeastType] = {
        "Int64": Int64,
        "Array(Int64)": Array(Int64),
        "Array(String)": Array(String),
    }
    key = [f for f in registered.schema if f.name == view.entity.join_key]
    return [*key, *(Field(name=n, dtype=types[dtype]) for n, dtype in schema(view).items())]


def _typed_copy(plan: Plan, key: bytes, content: Hash) -> Hash:
    """A row with typed fields in the place of its packs."""
    out = dict(content)
    for view in plan.activity:
        if view.entity.join_key.encode() in key:
            names = [name for name, _ in stored_fields(view)]
            values = {n: decode_value(out.pop(field_name(view.name, n), None)) for n in names}
            out |= typed_fields(view, plain(view, values))
    return out


class StockWriter:
    """`FeatureStore.push` of final rows, a batch of one view at a time.

    Stock Feast pushes to views whose stream is a `PushSource`. So the views are declared once
    more, as plain `FeatureView`s in a project of their own, with what our rows hold as typed
    fields, as a user of stock Feast has them (`typed_rows`); the values are those of our rows.
    """

    PROJECT = "pushed"

    def __init__(self, repo: Path, folder: Path, plan: Plan) -> None:
        self._ours = stock_store(repo / SETTINGS)
        self._activity = {view.name: view for view in plan.activity}
        declared = {view.name: view for view in plan.views}
        config = self._ours.config.model_copy(deep=True)
        config.project = self.PROJECT
        config.registry.path = f"sqlite:///{folder}/pushed.db"
        self._stock = FeatureStore(config=config)
        entities = {entity.name: entity for entity in self._ours.list_entities()}
        views = []
        for view in self._ours.list_stream_feature_views():
            archive = FileSource(
                name=f"{view.name}_archive",
                path=str(folder / "archive.parquet"),
                timestamp_field="event_time",
            )
            views.append(
                FeatureView(
                    name=view.name,
                    entities=[entities[name] for name in view.entities],
                    schema=_typed_schema(view, declared[view.name]),
                    source=PushSource(name=f"{view.name}_push", batch_source=archive),
                )
            )
        self._stock.apply([*entities.values(), *views])
        self._fields = {view.name: [field.name for field in view.features] for view in views}

    def rows(self, view: str, join_key: str, ids: Sequence[str]) -> pd.DataFrame:
        """Stored rows of a view, as they are to be pushed."""
        activity = self._activity.get(view)
        stored = self._fields[view] if activity is None else [n for n, _ in stored_fields(activity)]
        fields = [f"{view}:{field}" for field in stored]
        answer = self._ours.get_online_features(fields, [{join_key: i} for i in ids])
        found = answer.to_dict()
        if activity is not None:
            found = {join_key: found[join_key]} | self._typed(activity, found, len(ids))
        frame = pd.DataFrame(found)
        frame["event_time"] = datetime.now(UTC)
        return frame

    def _typed(
        self, view: ActivityView, packed: Mapping[str, Sequence[Any]], count: int
    ) -> dict[str, list[Any]]:
        """The columns of typed fields that packed ones hold."""
        out: dict[str, list[Any]] = {name: [] for name in self._fields[view.name]}
        for place in range(count):
            row = {name: values[place] for name, values in packed.items()}
            typed = typed_fields(view, plain(view, row))
            for name, column in out.items():
                column.append(decode_value(typed.get(field_name(view.name, name))))
        return out

    def push(self, view: str, frame: pd.DataFrame, batch_rows: int) -> float:
        """Seconds it takes to push the rows in batches."""
        batches = [frame[at : at + batch_rows] for at in range(0, len(frame), batch_rows)]
        began = time.perf_counter()
        for batch in batches:
            self._stock.push(f"{view}_push", batch)
        return time.perf_counter() - began

    def differs(self, view: str, join_key: str, frame: pd.DataFrame) -> int:
        """How many pushed rows read back otherwise than they were: none, if all is well."""
        fields = [f"{view}:{field}" for field in self._fields[view]]
        keys = [{join_key: i} for i in frame[join_key]]
        answer = self._stock.get_online_features(fields, keys)
        back = pd.DataFrame(answer.to_dict())[[join_key, *self._fields[view]]]
        sent, found = (
            [[_plain(value) for value in row] for row in one[back.columns].to_numpy().tolist()]
            for one in (frame, back)
        )
        return sum(a != b for a, b in zip(sent, found, strict=True))


def _plain(value: Any) -> Any:
    """A value as it compares: pandas says NaN, or nothing, where Feast says None."""
    if isinstance(value, list | np.ndarray):
        return list(value) or None
    return None if value is None or value != value else value
