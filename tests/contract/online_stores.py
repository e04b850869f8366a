"""Feast repositories over one Valkey, with the stock online store or with ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pandas as pd
import redis
from feast import (
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    ValueType,
)
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

from features.online_store import HeadraceOnlineStore

STOCK, OURS = "redis", "features.online_store.HeadraceOnlineStore"
CLASSES: Final[dict[str, type[RedisOnlineStore]]] = {
    STOCK: RedisOnlineStore,
    OURS: HeadraceOnlineStore,
}
NOW: Final = datetime.now(UTC).replace(microsecond=123456)
Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.STRING)


def views(folder: Path) -> list[FeatureView]:
    """Views over a driver (two, and one with a created time), and over a driver in a zone."""

    def archive(name: str, created: str = "") -> FileSource:
        return FileSource(
            name=f"{name}_archive",
            path=str(folder / f"{name}.parquet"),
            timestamp_field="event_time",
            created_timestamp_column=created,
        )

    return [
        FeatureView(
            name="stats",
            entities=[driver],
            schema=[
                Field(name="trips", dtype=Int64),
                Field(name="rate", dtype=Float32),
                Field(name="share", dtype=Float64),
                Field(name="rank", dtype=Int32),
                Field(name="vector", dtype=Array(Float32)),
            ],
            source=PushSource(name="stats_push", batch_source=archive("stats")),
        ),
        FeatureView(
            name="profile",
            entities=[driver],
            schema=[
                Field(name="city", dtype=String),
                Field(name="photo", dtype=Bytes),
                Field(name="active", dtype=Bool),
                Field(name="joined", dtype=UnixTimestamp),
                Field(name="names", dtype=Array(String)),
            ],
            source=archive("profile"),
        ),
        FeatureView(
            name="corrected",
            entities=[driver],
            schema=[Field(name="score", dtype=Int64)],
            source=archive("corrected", created="created"),
        ),
        FeatureView(
            name="pairs",
            entities=[driver, zone],
            schema=[Field(name="waits", dtype=Int64)],
            source=archive("pairs"),
        ),
    ]


def stats(ids: Sequence[int], at: datetime = NOW, trips: int = 0) -> pd.DataFrame:
    """Rows of `stats`, each with values of its own; every third has nulls."""
    return pd.DataFrame(
        {
            "driver_id": ids,
            "event_time": [at + timedelta(microseconds=i) for i in range(len(ids))],
            "trips": [trips + i for i in ids],
            "rate": [None if i % 3 == 0 else i / 7 for i in ids],
            "share": [-i / 3 for i in ids],
            "rank": pd.array([None if i % 3 == 0 else -i for i in ids], dtype="Int32"),
            "vector": [[i + 0.5] * (i % 3 * 40) for i in ids],
        }
    )


def profiles(ids: Sequence[int], at: datetime = NOW) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "driver_id": ids,
            "event_time": at,
            "city": [f"Åre {i}" * (1 + i % 3 * 30) for i in ids],
            "photo": [bytes([0, i % 256, 255]) for i in ids],
            "active": [i % 2 == 0 for i in ids],
            "joined": [at - timedelta(days=i) for i in ids],
            "names": [[f"n{n}" for n in range(i % 4)] for i in ids],
        }
    )


def pairs(ids: Sequence[int], at: datetime = NOW) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "driver_id": ids,
            "zone": [f"z{i % 5}" for i in ids],
            "event_time": at,
            "waits": [i * i for i in ids],
        }
    )


def settings(kind: str, url: str, folder: Path, project: str, **store: Any) -> RepoConfig:
    """What a feature_store.yaml would say."""
    address = urlsplit(url)
    return RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / f"{project}.db"),
        online_store={
            "type": kind,
            "connection_string": f"{address.hostname}:{address.port}",
            **store,
        },
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
        materialization={"online_write_batch_size": 10},
    )


def applied(kind: str, url: str, folder: Path, project: str = "p", **store: Any) -> FeatureStore:
    """A repository with all views, applied."""
    feature_store = FeatureStore(config=settings(kind, url, folder, project, **store))
    feature_store.apply([driver, zone, *views(folder)])
    return feature_store


def row(driver_id: int, at: datetime, created: datetime | None = None, **values: int) -> Row:
    """One row as an online store is given it."""
    key = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=driver_id)])
    return key, {name: Value(int64_val=value) for name, value in values.items()}, at, created


def dump(url: str) -> dict[bytes, dict[bytes, bytes]]:
    """Every hash of the server."""
    with connected(url) as client:
        return {key: client.hgetall(key) for key in client.scan_iter()}  # type: ignore[misc]


@contextmanager
def connected(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(url) as client:
        yield client
