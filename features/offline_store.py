"""Feast's file offline store with a join of its own: each row as of its time, none lost.

    offline_store:
      type: features.offline_store.AsOfOfflineStore

Feast 0.67's own join multiplies every entity row with all versions of its key before it picks
one, keeps a single row of those that share one view's keys and time (500 candidates of one
request become one), and makes floats of integers that are null somewhere. Here the newest version
at or before a row's time is found by binary search, and values stay Arrow's.
"""

from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast import FeatureView, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.dask import (
    DaskOfflineStore,
    DaskOfflineStoreConfig,
    DaskRetrievalJob,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import (
    _get_requested_feature_views_to_features_dict,
    _get_requested_on_demand_feature_views,
)
from numpy.typing import NDArray

EVENT_TIMESTAMP: Final = "event_timestamp"
"""The column of an entity frame that says as of when its row is asked for; Feast's name."""
_TIME = pa.timestamp("us", "UTC")
_TYPE: Final = "features.offline_store.AsOfOfflineStore"


class AsOfOfflineStoreConfig(DaskOfflineStoreConfig):
    """Feast finds this by its name; there is nothing to set."""

    type: Literal["features.offline_store.AsOfOfflineStore"] = _TYPE  # type: ignore[assignment]


class AsOfRetrievalJob(DaskRetrievalJob):
    """A join that is made when it is asked for."""

    def __init__(self, join: Callable[[], pa.Table], **about: Any) -> None:
        super().__init__(evaluation_function=join, **about)
        self._join = join

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._join().to_pandas()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._join()


class AsOfOfflineStore(DaskOfflineStore):
    """Stock but for `get_historical_features` of Parquet files on a pandas entity frame."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Features of each row of `entity_df` as of its `event_timestamp`, in the frame's order."""
        ours = isinstance(entity_df, pd.DataFrame) and EVENT_TIMESTAMP in entity_df.columns
        if not ours or filter_by_created_timestamp or not all(map(_is_parquet, feature_views)):
            return DaskOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
                **kwargs,
            )
        demanded = _get_requested_on_demand_feature_views(feature_refs, config.project, registry)
        wanted, _ = _get_requested_feature_views_to_features_dict(
            feature_refs, feature_views, demanded
        )
        times = pd.to_datetime(entity_df[EVENT_TIMESTAMP], utc=True)
        asked = entity_df.assign(**{EVENT_TIMESTAMP: times}).reset_index(drop=True)

        def join() -> pa.Table:
            table = pa.Table.from_pandas(asked, preserve_index=False)
            for view, features in wanted.items():
                table = _joined(config, table, view, features, full_feature_names)
            return table

        return AsOfRetrievalJob(
            join,
            full_feature_names=full_feature_names,
            repo_path=str(config.repo_path),
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity_df.columns if name != EVENT_TIMESTAMP],
                min_event_timestamp=times.min().astimezone(UTC) if len(times) else None,
                max_event_timestamp=times.max().astimezone(UTC) if len(times) else None,
            ),
        )


def _is_parquet(view: FeatureView) -> bool:
    source = view.batch_source
    if not isinstance(source, FileSource) or source.s3_endpoint_override or source.field_mapping:
        return False
    return source.file_format in (None, ParquetFormat())


def _joined(
    config: RepoConfig, table: pa.Table, view: FeatureView, features: Sequence[str], full: bool
) -> pa.Table:
    """The table with a view's features beside it."""
    source = view.batch_source
    assert isinstance(source, FileSource)
    assert source.timestamp_field is not None
    keys = [column.name for column in view.entity_columns]
    asked = [view.projection.join_key_map.get(key, key) for key in keys]
    created = [source.created_timestamp_column] if source.created_timestamp_column else []
    columns = list(dict.fromkeys([*keys, source.timestamp_field, *created, *features]))
    path = FileSource.get_uri_for_file_path(config.repo_path, source.path)
    versions = _read(path, columns, dict(zip(keys, asked, strict=True)), table, source)
    found = _as_of(table, asked, versions, keys, source.timestamp_field)
    if view.ttl:
        oldest = pc.subtract(_times(table[EVENT_TIMESTAMP]), pa.scalar(view.ttl, pa.duration("us")))
        kept = pc.greater_equal(_times(versions[source.timestamp_field].take(found)), oldest)
        found = pc.if_else(pc.fill_null(kept, False), found, pa.scalar(None, pa.int64()))
    prefix = f"{view.projection.name_to_use()}__" if full else ""  # type: ignore[no-untyped-call]
    for feature in features:
        name = prefix + feature
        table = table.append_column(name, versions[feature].take(found))
    return table


def _read(
    path: str, columns: list[str], keys: dict[str, str], table: pa.Table, source: FileSource
) -> pa.Table:
    """The versions of the entities asked for, up to the newest time, oldest first."""
    dataset = ds.dataset(path, partitioning="hive")
    newest = pc.max(_times(table[EVENT_TIMESTAMP]))
    chosen = ds.field(source.timestamp_field) <= newest
    for key, asked in keys.items():
        values = pc.unique(table[asked].combine_chunks()).cast(dataset.schema.field(key).type)
        chosen &= ds.field(key).isin(values)
    found = dataset.to_table(columns=columns, filter=chosen)
    order = [source.timestamp_field, source.created_timestamp_column]
    return found.sort_by([(column, "ascending") for column in order if column])


def _as_of(
    table: pa.Table, asked: Sequence[str], versions: pa.Table, keys: Sequence[str], stamp: str
) -> pa.Array:
    """[row]: the place of the newest version at or before the row's time; null for none."""
    code = np.zeros(len(versions) + len(table), np.int64)
    for key, name in zip(keys, asked, strict=True):
        both = pa.chunked_array(
            [*versions[key].chunks, *table[name].cast(versions[key].type).chunks]
        )
        codes = both.combine_chunks().dictionary_encode().indices
        number = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False) + 1
        _, code = np.unique(np.stack([code, number]), axis=1, return_inverse=True)
        code = code.reshape(-1).astype(np.int64)
    known, wanted = code[: len(versions)], code[len(versions) :]
    stamps, times = _micros(versions[stamp]), _micros(table[EVENT_TIMESTAMP])
    order = np.argsort(known, kind="stable")  # each key's versions stay in order of time
    starts = np.searchsorted(known[order], wanted, "left")
    ends = np.searchsorted(known[order], wanted, "right")
    places = np.empty(len(wanted), np.int64)
    sorted_stamps = stamps[order]
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        place = start + int(np.searchsorted(sorted_stamps[start:end], times[row], "right"))
        places[row] = order[place - 1] if place > start else -1
    return pa.array(places, mask=places < 0)


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times in UTC microseconds; those without a zone are UTC."""
    return column.cast(_TIME, safe=False)


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = _times(column).cast(pa.int64()).to_numpy()
    return micros
