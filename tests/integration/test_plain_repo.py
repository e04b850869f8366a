"""A plain Feast repo by a stranger: applied and read by stock Feast, run by our workers.

`tests/plain_repo` is written as Feast's own documentation writes one; nothing in it is ours.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
import yaml
from feast import FeatureStore

from deploy.feature_store import SETTINGS, applying
from deploy.ports import HOST
from tests.drivers import (
    FARES,
    IN_CITY,
    NEWEST,
    Row,
    driver_rows,
    dumped,
    iso,
    newest,
    recounted,
    time_of,
)
from tests.waiting import until
from tests.workers import Stream, stream_of_its_own

BAD = (
    b"{",
    b"[1]",
    b'{"driver_id": 1001}',
    b'{"driver_id": "x", "event_timestamp": "2022-04-24"}',
    b'{"driver_id": 1001, "event_timestamp": "yesterday"}',
    b'{"driver_id": null, "event_timestamp": "2022-04-24"}',
    b'{"driver_id": 1001, "event_timestamp": "2200-01-01"}',
)


@pytest.fixture(params=["file", "sql"])
def repo(request: pytest.FixtureRequest, empty_valkey: str, tmp_path: Path) -> Path:
    """The stranger's repo, with an address of Redis and, if so wished, a SQL registry."""
    folder = tmp_path / "repo"
    shutil.copytree(Path(__file__).parents[1] / "plain_repo", folder)
    settings = yaml.safe_load((folder / SETTINGS).read_text())
    settings["online_store"]["connection_string"] = f"{HOST}:{urlsplit(empty_valkey).port}"
    if request.param == "sql":
        settings["registry"] = {"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"}
    (folder / SETTINGS).write_text(yaml.safe_dump(settings))
    (folder / "data").mkdir()
    batch = pd.DataFrame(driver_rows(1, 10)).drop(columns=["tags"])
    for column in ("event_timestamp", "created"):
        batch[column] = pd.to_datetime(batch[column], format="ISO8601")
    batch.to_parquet(folder / "data" / "driver_stats.parquet")
    with applying(folder, folder / SETTINGS, tmp_path / "apply.log") as wait:
        wait()
    return folder


@pytest.fixture
def made(repo: Path, empty_valkey: str, tmp_path: Path) -> Iterator[Stream]:
    """A stream of the repo on a broker of its own."""
    with stream_of_its_own(empty_valkey, repo, tmp_path) as one:
        yield one


def _by_driver(rows: list[dict[str, Any]]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["driver_id"]].append(row)
    return found


def _read(store: FeatureStore, view: str, fields: list[str], entities: Any) -> dict[str, Any]:
    names = [f"{view}:{field}" for field in fields]
    return store.get_online_features(features=names, entity_rows=entities).to_dict()


def test_a_stranger_reads_with_stock_feast_what_a_slow_recount_gives(
    made: Stream, repo: Path
) -> None:
    rows = driver_rows(3, 1500)
    made.send_values((b"%d" % row["driver_id"], dumped(row)) for row in rows[:700])
    made.start("route", "aggregate")
    made.send_values((None, bad) for bad in BAD)
    made.send_values((b"%d" % row["driver_id"], dumped(row)) for row in rows[700:])
    store = FeatureStore(str(repo))
    drivers = _by_driver(rows)
    entities = [{"driver_id": driver} for driver in drivers]

    def caught_up() -> bool:
        counts = _read(store, "driver_fares", ["count_fare"], entities)["count_fare"]
        wanted = [sum(row["fare"] is not None for row in found) for found in drivers.values()]
        return bool(counts == wanted) and len(made.letters()) == len(BAD)

    until(caught_up, 60, "for the stream to be caught up with")
    _newest_agree(store, drivers)
    _windows_agree(store, drivers)
    _cities_agree(store, rows)
    assert sorted(letter.value for letter in made.letters()) == sorted(BAD)
    assert all(letter.reason for letter in made.letters())


def _newest_agree(store: FeatureStore, drivers: dict[int, list[Row]]) -> None:
    entities = [{"driver_id": driver} for driver in drivers]
    found = _read(store, "driver_hourly_stats", list(NEWEST), entities)
    for place, rows in enumerate(drivers.values()):
        last = newest(rows)
        for name in NEWEST:
            wanted = last[name]
            if name in ("conv_rate", "acc_rate") and wanted is not None:
                wanted = float(np.float32(wanted))
            assert (found[name][place] or None) == (wanted or None), (name, last)


def _windows_agree(store: FeatureStore, drivers: dict[int, list[Row]]) -> None:
    entities = [{"driver_id": driver} for driver in drivers]
    found = _read(store, "driver_fares", [wanted.name for wanted in FARES], entities)
    for place, rows in enumerate(drivers.values()):
        now = time_of(newest(rows)) // 1000
        got = {wanted.name: found[wanted.name][place] for wanted in FARES}
        assert got == recounted(rows, FARES, now)


def _cities_agree(store: FeatureStore, rows: list[dict[str, Any]]) -> None:
    pairs: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        pairs[row["driver_id"], row["city"]].append(row)
    entities = [{"driver_id": driver, "city": city} for driver, city in pairs]
    found = _read(store, "driver_in_city", ["mean_fare_3600s"], entities)["mean_fare_3600s"]
    for got, there in zip(found, pairs.values(), strict=True):
        (wanted,) = recounted(there, IN_CITY, time_of(newest(there)) // 1000).values()
        assert got == (None if wanted is None else float(np.float32(wanted)))


@pytest.mark.parametrize("repo", ["file"], indirect=True)
def test_the_bytes_of_a_newest_row_are_those_that_stock_feast_writes(
    made: Stream, repo: Path
) -> None:
    row = driver_rows(5, 1)[0] | {"tags": ["night"], "acc_rate": 0.25}
    store = FeatureStore(str(repo))
    frame = pd.DataFrame([row]).drop(columns=["phone", "fare"])
    for column in ("event_timestamp", "created"):
        frame[column] = pd.to_datetime(frame[column], format="ISO8601")
    store.write_to_online_store("driver_hourly_stats", frame)
    (stock,) = made.rows().values()
    later = row | {"event_timestamp": iso(time_of(row) + 1), "conv_rate": 0.5}
    frame["event_timestamp"] = pd.to_datetime([later["event_timestamp"]], format="ISO8601")
    frame["conv_rate"] = 0.5
    made.start("route", "aggregate")
    made.send_values([(None, dumped(later)), (None, dumped(row))])
    key = next(iter(made.rows()))
    until(lambda: b"_ts:driver_fares" in made.rows()[key], 60, "for the row")
    ours = made.rows()[key]
    store.write_to_online_store("driver_hourly_stats", frame)
    assert {field: ours[field] for field in stock} == {
        field: made.rows()[key][field] for field in stock
    }
    assert ours[b"_ts:driver_hourly_stats"] != stock[b"_ts:driver_hourly_stats"]
