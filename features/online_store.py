"""Feast's Redis online store without its faults: `type: features.online_store.HeadraceOnlineStore`.

It keeps the stock store's bytes, so each reads what the other wrote, and its settings. What is
different: rows are compared and set on the server, so the newer event time wins whoever writes
last (`features.online_writes` has the rule); deletes touch exactly the rows of their view and
project; reads ask for all views of an entity at once and pass stored bytes through; the async
client follows the running event loop; views that the stream writes take no write from the SDK.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from feast import Entity, FeatureService, FeatureStore, FeatureView, RepoConfig, utils
from feast.errors import FeastObjectNotFoundException
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
)
from feast.metrics import track_feature_statuses
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field
from redis.exceptions import NoScriptError

from features import responses
from features.codec import field_name, updated_at_field
from features.errors import BadInput, Refused
from features.matrix_column import Column, JoinKey
from features.online_writes import (
    ROWS_PER_CALL,
    Call,
    Moment,
    OnlineRow,
    delete_calls,
    trips,
    write_calls,
)
from features.row_keys import is_row, pattern
from features.tags import KIND_TAG

Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Progress = Callable[[int], Any] | None

_LOG: Final = logging.getLogger(__name__)
_TYPE: Final = "features.online_store.HeadraceOnlineStore"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS_PER_SCAN: Final = 10_000


class HeadraceOnlineStoreConfig(RedisOnlineStoreConfig):
    """Settings of the store: those of Feast's Redis store, and how far ahead a row may be."""

    type: Literal["features.online_store.HeadraceOnlineStore"] = _TYPE  # type: ignore[assignment]
    max_ahead_s: int = Field(86_400, ge=0)
    """Seconds by which an event time may lie ahead of the clock. A day allows for daily rows that
    are stamped with the end of their day, and for local times that were taken for UTC. A write
    with a later one is refused whole; a later one that is stored already blocks no write."""


class HeadraceOnlineStore(RedisOnlineStore):
    """Rows of Feast views in Redis, Redis Cluster or behind Sentinel, in the stock layout."""

    def __init__(self) -> None:
        super().__init__()
        self._clients_async: dict[asyncio.AbstractEventLoop, Any] = {}

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Written], progress: Progress
    ) -> None:
        """Write rows of a view; each lands unless the stored one is newer.

        Raises Refused for a view that the stream writes, BadInput for an event time too far
        ahead; nothing is written then.
        """
        refuse_stream_view(table)
        if config.online_store.skip_dedup:
            super().online_write_batch(config, table, data, progress)
            return
        client = self._get_client(config.online_store)
        for calls in trips(_writes(config, table, data)):
            answers = _run(client, calls)
            if progress:
                progress(sum(len(answer) for answer in answers))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Written], progress: Progress
    ) -> None:
        """`online_write_batch`, without blocking the event loop."""
        refuse_stream_view(table)
        if config.online_store.skip_dedup:
            await super().online_write_batch_async(config, table, data, progress)
            return
        client = await self._get_client_async(config.online_store)
        for calls in trips(_writes(config, table, data)):
            answers = await _run_async(client, calls)
            if progress:
                progress(sum(len(answer) for answer in answers))

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete all rows of one view; those of other views and projects stay."""
        self._delete(config, table, self._keys(config, table.join_keys))

    def delete_rows(
        self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKey]
    ) -> int:
        """Delete one view's rows of some entities; returns how many there were.

        Feast has no such call of its own. Raises Refused for a view that the stream writes: there
        a `forget` event does it, for good.
        """
        refuse_stream_view(table)
        return self._delete(config, table, [_key(config, key) for key in entity_keys])

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Delete all rows of an entity in this project, of every view."""
        client = self._get_client(config.online_store)
        for keys in _chunks(list(self._keys(config, join_keys)), _KEYS_PER_SCAN):
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.delete(key)
                pipe.execute()

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """What `feast apply` calls: deletes the rows of views that are gone.

        Raises Refused when rows of the stream would expire.
        """
        if config.materialization_config.online_write_batch_size is None:
            _LOG.warning(
                "feast materialize writes only the first chunk of a chunked table: set "
                "materialization.online_write_batch_size (10000, say) in feature_store.yaml"
            )
        streamed = [table.name for table in tables_to_keep if KIND_TAG in (table.tags or {})]
        if config.online_store.key_ttl_seconds and streamed:
            raise Refused(
                f"key_ttl_seconds would let rows of {', '.join(streamed)} expire, and with them "
                "how far the stream was folded: leave it out of feature_store.yaml, or keep "
                "these views in a project of their own"
            )
        super().update(
            config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial
        )

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """What `feast teardown` calls: deletes all rows of the project.

        With rows of the stream goes what the workers keep beside them: a checkpoint without its
        rows would let them go on as if all they ever folded were still there.
        """
        super().teardown(config, tables, entities)
        if any(KIND_TAG in (table.tags or {}) for table in tables):
            client = self._get_client(config.online_store)
            for key in list(client.scan_iter(f"headrace:{config.project}:*")):
                client.delete(key)

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients_async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        """A client of the running event loop: the stock one stays with the first loop it met."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients_async:
            for ended in [known for known in self._clients_async if known.is_closed()]:
                del self._clients_async[ended]
            self._client_async = None
            self._clients_async[loop] = await super()._get_client_async(online_store_config)
        return self._clients_async[loop]

    def _keys(self, config: RepoConfig, join_keys: Sequence[str]) -> Iterator[bytes]:
        found = self._get_client(config.online_store).scan_iter(
            pattern(join_keys, config.project), count=_KEYS_PER_SCAN
        )
        return (key for key in found if is_row(key, join_keys, config.project))

    def _delete(
        self, config: RepoConfig, table: FeatureView, keys: Iterator[bytes] | list[bytes]
    ) -> int:
        client, view = self._get_client(config.online_store), _view(config, table)
        fields = [field_name(view, feature.name) for feature in table.features]
        calls = delete_calls(view, fields, list(keys), _rows_per_call(config))
        return sum(sum(_run(client, group)) for group in trips(calls))

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """All views of a request in one trip, one command an entity; the stock store's answer."""
        if include_feature_view_version_metadata:
            super()._read_features_per_fv(
                config,
                grouped_refs,
                join_key_values,
                entity_name_to_join_key_map,
                online_features_response,
                full_feature_names,
                include_feature_view_version_metadata,
            )
            return
        reads = _Reads(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        found = self._read_hash_fields(config, reads.commands) if reads.commands else []
        reads.answer(found, online_features_response, full_feature_names)

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        if include_feature_view_version_metadata:
            await super()._read_features_per_fv_async(
                config,
                grouped_refs,
                join_key_values,
                entity_name_to_join_key_map,
                online_features_response,
                full_feature_names,
                include_feature_view_version_metadata,
            )
            return
        reads = _Reads(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        found: Any = []
        if reads.commands:
            client = await self._get_client_async(config.online_store)
            async with client.pipeline(transaction=False) as pipe:
                for key, fields in reads.commands:
                    pipe.hmget(key, fields)
                found = await pipe.execute()
        reads.answer(found, online_features_response, full_feature_names)


def refuse_stream_view(table: FeatureView) -> None:
    """Raises Refused when a view's rows are written by the stream alone."""
    if KIND_TAG in (table.tags or {}):
        raise Refused(
            f"view {table.name!r} is written by the stream alone, so the SDK may not write to it: "
            "send events, or name only other views (`feast materialize --views ...`)"
        )


def matrix_columns(
    store: FeatureStore, features: Sequence[str] | FeatureService, full_feature_names: bool = False
) -> list[Column]:
    """What a `MatrixReader` is told to read `view:feature` names, or a service of stored features.

    Columns are named as `get_online_features` would name them. Raises BadInput for an unknown
    feature or one that is computed at read.
    """
    wanted = features if isinstance(features, FeatureService) else list(features)
    try:
        _, computed, _, _, _, grouped, *_ = utils._get_online_request_context(  # noqa: SLF001
            store.registry, store.project, wanted, full_feature_names
        )
    except (KeyError, FeastObjectNotFoundException) as error:
        raise BadInput(f"the registry does not have what is asked: {error}") from error
    if computed:
        views = ", ".join(view.name for view in computed)
        raise BadInput(f"{views}: computed at read, not stored; name the stored features instead")
    columns: dict[str, Column] = {}
    for table, names in grouped:
        aliases = table.projection.join_key_map
        keys = tuple(
            JoinKey(key.name, key.dtype.to_value_type().value, aliases.get(key.name, ""))
            for key in table.entity_columns
        )
        types = {feature.name: feature.dtype for feature in table.features}
        for name in names:
            asked = f"{table.projection.name_to_use()}__{name}" if full_feature_names else name
            column = Column(asked, _view(store.config, table), name, str(types[name]), keys)
            columns[f"{table.projection.name_to_use()}:{name}"] = column
    # Feast groups what is asked by way of sets; columns stand in the order that was asked.
    order = wanted if isinstance(wanted, list) else _references(wanted)
    return [columns.pop(reference) for reference in order if reference in columns] + [
        *columns.values()
    ]


def _references(service: FeatureService) -> list[str]:
    projections = service.feature_view_projections
    return [f"{p.name_to_use()}:{f.name}" for p in projections for f in p.features]  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class _Group:
    """What a request reads of one entity: all views over it share a hash."""

    keys: list[bytes]
    places: list[int]
    """For each row of the request, which of the keys is its."""
    start: int = 0
    fields: list[bytes] = field(default_factory=list)


class _Reads:
    """One request: its commands, and the response made from their answers."""

    def __init__(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
    ) -> None:
        groups: dict[object, _Group] = {}
        self._views: list[tuple[FeatureView, list[str], _Group, int]] = []
        for table, features in grouped_refs:
            joined = tuple(sorted(table.projection.join_key_map.items()))
            group = groups.get((*table.entities, joined))
            if group is None:
                entities, rows_of, rows = utils._get_unique_entities(  # noqa: SLF001
                    table, join_key_values, entity_name_to_join_key_map
                )
                keys = [
                    _key(config, key)
                    for key in utils._get_entity_key_protos(entities)  # noqa: SLF001
                ]
                group = groups[(*table.entities, joined)] = _Group(keys, [0] * rows)
                for place, its_rows in enumerate(rows_of):
                    for row in its_rows:
                        group.places[row] = place
            view = _view(config, table)
            self._views.append((table, features, group, len(group.fields)))
            group.fields += [updated_at_field(view), *(field_name(view, f) for f in features)]
        self.commands: list[tuple[bytes, list[str | bytes]]] = []
        for group in groups.values():
            group.start = len(self.commands)
            self.commands += [(key, list(group.fields)) for key in group.keys]

    def answer(
        self,
        found: Sequence[Sequence[Any]],
        response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
    ) -> None:
        """Append each view's features to the response; `found` answers the commands in order."""
        for table, features, group, first in self._views:
            rows = found[group.start : group.start + len(group.keys)]
            columns = list(zip(*rows, strict=True)) or [()] * len(group.fields)
            times = responses.event_times(
                [_answered(time) for time in columns[first]], group.places
            )
            ending = responses.statuses(len(group.places)) + times
            view = table.projection.name_to_use()  # type: ignore[no-untyped-call]
            for place, feature in enumerate(features, first + 1):
                name = f"{view}__{feature}" if full_feature_names else feature
                response.metadata.feature_names.val.append(name)
                response.results.append(
                    GetOnlineFeaturesResponse.FeatureVector.FromString(
                        responses.values(columns[place], group.places) + ending
                    )
                )
            track_feature_statuses(table.name, len(features) * len(group.places), 0)


def _writes(config: RepoConfig, table: FeatureView, data: Sequence[Written]) -> Iterator[Call]:
    settings, view = config.online_store, _view(config, table)
    latest = time.time() + settings.max_ahead_s
    fields: dict[str, bytes] = {}
    rows = []
    for entity_key, values, event_time, created in data:
        moment = _moment(event_time)
        if moment is None or moment.seconds > latest:
            raise BadInput(
                f"view {table.name!r}: the row of {_spelled(entity_key)} has event time "
                f"{event_time}, further ahead than max_ahead_s ({settings.max_ahead_s} s) allows; "
                "it would hide every event until then. Nothing was written: mend its time (one "
                "without a zone is taken for UTC), or raise max_ahead_s in feature_store.yaml"
                if moment
                else f"view {table.name!r}: the row of {_spelled(entity_key)} has no event time"
            )
        stamp = Timestamp(seconds=moment.seconds, nanos=moment.nanos)
        content = {updated_at_field(view): stamp.SerializeToString()}
        for name, value in values.items():
            if name not in fields:
                fields[name] = field_name(view, name)
            content[fields[name]] = value.SerializeToString()
        rows.append(OnlineRow(_key(config, entity_key), moment, _moment(created), content))
    return write_calls(
        view, rows, settings.max_ahead_s, settings.key_ttl_seconds or 0, _rows_per_call(config)
    )


def _moment(at: datetime | None) -> Moment | None:
    """An instant without a zone is UTC, as everywhere in Feast; NaT is none."""
    if at is None or at != at:
        return None
    since = utils.make_tzaware(at) - _EPOCH
    return Moment(since.days * 86_400 + since.seconds, since.microseconds * 1000)


def _answered(stamp: bytes | None) -> bytes:
    """A stored event time as the stock store answers it: rounded, by way of a float, to µs."""
    if not stamp:
        return b""
    time = Timestamp.FromString(stamp)
    if time.nanos % 1000:
        rounded = datetime.fromtimestamp(time.seconds + time.nanos / 1_000_000_000.0, tz=UTC)
        time.FromDatetime(rounded)
    return time.SerializeToString()


def _view(config: RepoConfig, table: FeatureView) -> str:
    """The name under which a view's fields are stored."""
    versioned = config.registry.enable_online_feature_view_versioning
    return str(compute_versioned_name(table, versioned))


def _key(config: RepoConfig, entity_key: EntityKey) -> bytes:
    version = config.entity_key_serialization_version
    return serialize_entity_key(entity_key, version) + config.project.encode()


def _spelled(entity_key: EntityKey) -> str:
    values = (getattr(v, v.WhichOneof("val") or "null_val") for v in entity_key.entity_values)
    return ", ".join(f"{k} {v!r}" for k, v in zip(entity_key.join_keys, values, strict=True))


def _rows_per_call(config: RepoConfig) -> int:
    """In a cluster the keys of one call must share a slot, so there it is a call a row."""
    return 1 if config.online_store.redis_type == RedisType.redis_cluster else ROWS_PER_CALL


def _run(client: Any, calls: Sequence[Call]) -> list[Any]:
    """The answers of script calls, in one trip, or two when the server had not met the script."""
    with client.pipeline(transaction=False) as pipe:
        for call in calls:
            pipe.execute_command(*call.by_digest())
        answers: list[Any] = pipe.execute(raise_on_error=False)
        unknown = _unknown(answers)
        for place in unknown:
            pipe.execute_command(*calls[place].by_text())
        for place, answer in zip(unknown, pipe.execute() if unknown else (), strict=True):
            answers[place] = answer
    return answers


async def _run_async(client: Any, calls: Sequence[Call]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipe:
        for call in calls:
            pipe.execute_command(*call.by_digest())
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        unknown = _unknown(answers)
        for place in unknown:
            pipe.execute_command(*calls[place].by_text())
        for place, answer in zip(unknown, await pipe.execute() if unknown else (), strict=True):
            answers[place] = answer
    return answers


def _unknown(answers: Sequence[Any]) -> list[int]:
    """The places of calls whose script the server does not have; other errors are raised."""
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, NoScriptError):
            raise answer
    return [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]


def _chunks(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
