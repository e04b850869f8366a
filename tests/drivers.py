"""Records of a plain Feast repo's drivers, and their features recounted slowly from them all."""

import json
import random
import runpy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from feast.protos.feast.core.Registry_pb2 import Registry
from feast.value_type import ValueType

from features.plan import compile_plan
from features.spec import Plan

PROJECT = "drivers"
START_MS = 1_650_812_741_436
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
Row = Mapping[str, Any]


class Wanted(NamedTuple):
    """An aggregate of a column over `buckets` buckets of `width_ms`; width 0 is all time."""

    name: str
    function: str
    width_ms: int
    buckets: int


FARES = (
    Wanted("sum_fare_3600s", "sum", MINUTE, 60),
    Wanted("trips_1h", "count", MINUTE, 60),
    Wanted("avg_fare_1d", "mean", HOUR, 24),
    Wanted("min_fare_86400s", "min", 24 * MINUTE, 60),
    Wanted("max_fare_86400s", "max", 24 * MINUTE, 60),
    Wanted("count_fare", "count", 0, 1),
    Wanted("sum_fare", "sum", 0, 1),
)
IN_CITY = (Wanted("mean_fare_3600s", "mean", 5 * MINUTE, 12),)
NEWEST = ("conv_rate", "acc_rate", "avg_daily_trips", "city", "tags")


def time_of(row: Row, column: str = "event_timestamp") -> int:
    """A time of a record in microseconds; −1 where it has none."""
    text = row.get(column)
    if text is None:
        return -1
    delta = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def newest(rows: Sequence[Row]) -> Row:
    """The newest of records by event time, then created time."""
    return max(rows, key=lambda row: (time_of(row), time_of(row, "created")))


def recounted(rows: Sequence[Row], wanted: Iterable[Wanted], now_ms: int) -> dict[str, Any]:
    """Aggregates of the column `fare` as of `now`, as exact numbers rounded once."""
    found: dict[str, Any] = {}
    for name, function, width, buckets in wanted:
        fares = [
            Fraction(row["fare"])
            for row in rows
            if row.get("fare") is not None
            and (not width or _inside(time_of(row) // 1000, now_ms, width, buckets))
        ]
        if function == "count":
            found[name] = len(fares)
        elif not fares:
            found[name] = None
        elif function == "mean":
            found[name] = float(sum(fares) / len(fares))
        else:
            choose: Callable[[list[Fraction]], Fraction | int]
            choose = {"sum": sum, "min": min, "max": max}[function]  # type: ignore[assignment]
            found[name] = float(choose(fares))
    return found


def _inside(time: int, now: int, width: int, buckets: int) -> bool:
    return now // width - buckets < time // width <= now // width


def driver_rows(seed: int, n: int, drivers: int = 20) -> list[dict[str, Any]]:
    """Statistics of drivers, out of order and some of them days late."""
    rng = random.Random(seed)
    rows = []
    for place in range(n):
        late = rng.choice([0, 0, 0, rng.randrange(HOUR), rng.randrange(3 * DAY)])
        time = START_MS * 1000 + place * 20_000_000 - late * 1000 + rng.randrange(1_000_000)
        row = {
            "driver_id": 1000 + rng.randrange(drivers),
            "event_timestamp": iso(time),
            "created": iso(time + rng.randrange(10**9)),
            "city": rng.choice(["Wien", "Graz", "Linz"]),
            "conv_rate": rng.random(),
            "acc_rate": rng.choice([None, rng.random()]),
            "avg_daily_trips": rng.randrange(1000),
            "fare": rng.choice([None, 0.1, rng.uniform(0, 80), round(rng.uniform(3, 60), 2), 7]),
            "tags": rng.choice([[], ["night"], ["night", "ärger"]]),
            "phone": "not a feature",
        }
        rows.append(row)
    return rows


def iso(time_us: int) -> str:
    """A moment as ISO 8601 with microseconds."""
    seconds, rest = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).isoformat()


def dumped(row: Row) -> bytes:
    """The record of a row."""
    return json.dumps(row).encode()


def driver_registry() -> Registry:
    """The registry of `tests/plain_repo` as `feast apply` leaves it, made without a server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's own: that strangers' entities name no type
        found = runpy.run_path(str(Path(__file__).parent / "plain_repo" / "driver_repo.py"))
    registry = Registry()
    for name, kind in (("driver", ValueType.INT64), ("city", ValueType.STRING)):
        entity = found[name].to_proto()
        entity.spec.project, entity.spec.value_type = PROJECT, kind.value
        registry.entities.append(entity)
    for view in ("driver_hourly_stats", "driver_fares", "driver_in_city"):
        message = found[view].to_proto()
        message.spec.project = PROJECT
        registry.stream_feature_views.append(message)
    return registry


def driver_plan() -> Plan:
    """What the workers make of `tests/plain_repo`."""
    return compile_plan(driver_registry(), PROJECT)
