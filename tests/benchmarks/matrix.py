"""40 stored features of 500 candidates: the matrix reader, and stock `get_online_features`.

Four views of ten single numbers each, one of the user's and three of an item's, as plain Feast
`FeatureView`s written through the SDK; each request is one user and 500 items. Beside them
`get_online_features` through our online store, whose answer is the stock one's byte for byte.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Bool, Float32, Float64, Int64
from numpy.typing import NDArray

from features.matrix import MatrixReader
from features.online_store import matrix_columns
from tests.benchmarks.ground import scratch, valkey
from tests.benchmarks.report import Result, percentiles
from tests.benchmarks.timing import paired_ms

CANDIDATES, ITEMS, USERS, ASKED = 500, 4_000, 200, 40
VIEWS = {"user_taste": "user_id", "item_counts": "item_id", "item_rates": "item_id"} | {
    "item_facts": "item_id"
}
TYPES = [Float32, Float64, Int64, Int64, Bool, Float32, Float64, Int64, Float64, Float32]
PROJECT = "matrix"
STOCK, OURS = "redis", "features.online_store.HeadraceOnlineStore"
Request = dict[str, list[str]]


def run(full: bool) -> Result:
    with scratch() as folder, valkey(folder) as port:
        stock, ours = (store(kind, folder, port) for kind in (STOCK, OURS))
        stock.apply(definitions(folder))
        fill(stock)
        features = [f"{view}:{view}_{n}" for view in VIEWS for n in range(len(TYPES))]
        asked = requests()
        url = f"redis://127.0.0.1:{port}/0"
        with MatrixReader(url, PROJECT, matrix_columns(stock, features)) as reader:
            check_equal(reader, stock, ours, features, asked[0])
            taken_ms = paired_ms(
                {
                    "ours": _in_turn(lambda one: reader.read(one).matrix(), asked),
                    "online_store": _in_turn(
                        lambda one: ours.get_online_features(features, one), asked
                    ),
                    "feast": _in_turn(lambda one: stock.get_online_features(features, one), asked),
                },
                runs=400 if full else 100,
            )
    found = {name: percentiles(taken) for name, taken in taken_ms.items()}
    store_figures = {f"online_store_{name}": ms for name, ms in found["online_store"].items()}
    return Result(
        benchmark="matrix",
        ours=found["ours"] | store_figures | {"columns": float(len(features))},
        yardstick=found["feast"] | {"columns": float(len(features))},
        ratio={
            "p50": found["feast"]["p50_ms"] / found["ours"]["p50_ms"],
            "p99": found["feast"]["p99_ms"] / found["ours"]["p99_ms"],
            "online_store_p50": found["feast"]["p50_ms"] / found["online_store"]["p50_ms"],
            "online_store_p99": found["feast"]["p99_ms"] / found["online_store"]["p99_ms"],
        },
    )


def store(kind: str, folder: Path, port: int) -> FeatureStore:
    """Feast on the benchmark's Valkey, with the stock online store or with ours."""
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": kind, "connection_string": f"127.0.0.1:{port}"},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )


def definitions(folder: Path) -> list[Any]:
    """Two entities and four views of ten features."""
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for key in dict.fromkeys(VIEWS.values())
    }
    views = [
        FeatureView(
            name=view,
            entities=[entities[key]],
            schema=[Field(name=f"{view}_{n}", dtype=dtype) for n, dtype in enumerate(TYPES)],
            source=FileSource(
                name=f"{view}_archive",
                path=str(folder / f"{view}.parquet"),
                timestamp_field="event_time",
            ),
        )
        for view, key in VIEWS.items()
    ]
    return [*entities.values(), *views]


def fill(feature_store: FeatureStore) -> None:
    """Rows of all entities; one value in twenty is null."""
    rng = np.random.default_rng(5)
    for view, key in VIEWS.items():
        ids = user_ids() if key == "user_id" else item_ids()
        frame = pd.DataFrame({key: ids, "event_time": datetime.now(UTC)})
        for n, dtype in enumerate(TYPES):
            column: NDArray[Any] = rng.normal(0, 1000, len(ids)).astype(object)
            if dtype == Int64:
                column = rng.integers(0, 1_000_000, len(ids)).astype(object)
            elif dtype == Bool:
                column = (rng.random(len(ids)) < 0.5).astype(object)
            column[rng.random(len(ids)) < 0.05] = None
            frame[f"{view}_{n}"] = column
        feature_store.write_to_online_store(view, frame)


def user_ids() -> list[str]:
    return [f"user-{n}" for n in range(USERS)]


def item_ids() -> list[str]:
    return [f"item-{n}" for n in range(ITEMS)]


def requests() -> list[Request]:
    """Requests of one user and 500 different items."""
    rng = random.Random(5)
    return [
        {
            "user_id": [rng.choice(user_ids())] * CANDIDATES,
            "item_id": rng.sample(item_ids(), CANDIDATES),
        }
        for _ in range(ASKED)
    ]


def check_equal(
    reader: MatrixReader,
    stock: FeatureStore,
    ours: FeatureStore,
    features: list[str],
    asked: Request,
) -> None:
    """Both stores answer with the same bytes, and the reader's columns hold the same values."""
    one, other = (s.get_online_features(features, asked) for s in (stock, ours))
    assert one.proto.SerializeToString(deterministic=True) == other.proto.SerializeToString(
        deterministic=True
    )
    answer, columns = one.to_dict(), reader.read(asked)
    for name in columns:
        missing = columns.missing(name)
        assert name.startswith("user") or 0 < missing.sum() < CANDIDATES, name
        values = [
            None if gone else value
            for gone, value in zip(missing.tolist(), columns[name].tolist(), strict=True)
        ]
        assert values == answer[name], name


def _in_turn(way: Callable[[Request], object], asked: list[Request]) -> Callable[[], object]:
    """The same way, with the next request at each call."""
    calls = 0

    def next_one() -> object:
        nonlocal calls
        calls += 1
        return way(asked[calls % len(asked)])

    return next_one
