"""Plain views compile from what stock Feast writes to the registry, or say what to change."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from feast import Entity, Field, FileSource, KafkaSource, PushSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import AvroFormat, JsonFormat
from feast.stream_feature_view import stream_feature_view
from feast.types import Array, Bytes, Float64, Int64, Json, String, UnixTimestamp
from feast.value_type import ValueType

from features.errors import Refused
from features.plan import compile_plan
from features.plan_plain import hands_through
from features.spec import PlainView, Plan
from tests.drivers import FARES, IN_CITY, PROJECT, Wanted, driver_plan, driver_registry

DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
CITY = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)
BATCH = FileSource(name="batch", path="data/batch.parquet", timestamp_field="event_timestamp")
UNTYPED = Entity(name="when", join_keys=["when"], value_type=ValueType.UNKNOWN)
FARE = Field(name="fare", dtype=Float64)
HOUR = timedelta(hours=1)


def _source(**changes: Any) -> KafkaSource:
    wanted = {
        "name": "stream",
        "kafka_bootstrap_servers": "localhost:9092",
        "topic": "drivers",
        "timestamp_field": "event_timestamp",
        "batch_source": BATCH,
        "message_format": JsonFormat(schema_json="driver_id long"),
    }
    return KafkaSource(**{**wanted, **changes})


def _view(**changes: Any) -> StreamFeatureView:
    wanted = {
        "name": "stats",
        "entities": [DRIVER],
        "schema": [Field(name="sum_fare_3600s", dtype=Float64)],
        "source": _source(),
    }
    return StreamFeatureView(**{**wanted, **changes})


def _windowed(*aggregations: Aggregation, **changes: Any) -> StreamFeatureView:
    return _view(aggregations=list(aggregations), timestamp_field="event_timestamp", **changes)


def _sum(**changes: Any) -> Aggregation:
    return Aggregation(**{"column": "fare", "function": "sum", "time_window": HOUR, **changes})


def _compiled(*views: StreamFeatureView, entities: Any = (DRIVER, CITY)) -> Plan:
    registry = driver_registry()
    del registry.stream_feature_views[:], registry.entities[:]
    for places, definitions in (
        (registry.entities, entities),
        (registry.stream_feature_views, views),
    ):
        for definition in definitions:
            message = definition.to_proto()
            message.spec.project = PROJECT
            places.append(message)
    return compile_plan(registry, PROJECT)


def _only(*views: StreamFeatureView) -> PlainView:
    (view,) = _compiled(*views).plain
    return view


def test_the_stranger_s_repo_compiles_to_what_its_windows_mean() -> None:
    fares, stats, in_city = driver_plan().plain
    for view, expected in ((fares, FARES), (in_city, IN_CITY)):
        found = {
            Wanted(w.name, w.function, view.tiles[w.tile].width_ms, w.buckets) for w in view.windows
        }
        assert found == set(expected)
        assert not view.fields
    assert [field.name for field in stats.fields] == [
        "acc_rate",
        "avg_daily_trips",
        "city",
        "conv_rate",
        "tags",
    ]
    assert (stats.time_column, stats.created_column) == ("event_timestamp", "created")
    assert [key.join_key for key in in_city.keys] == ["city", "driver_id"]


def test_windows_of_one_column_and_step_share_their_buckets() -> None:
    fares = driver_plan().plain[0]
    assert [(t.column, t.width_ms, t.buckets, t.sums, t.extremes) for t in fares.tiles] == [
        ("fare", 0, 1, True, False),
        ("fare", 60_000, 60, True, False),
        ("fare", 1_440_000, 60, False, True),
        ("fare", 3_600_000, 24, True, False),
    ]


def test_a_field_that_no_aggregation_makes_keeps_its_newest_value() -> None:
    view = _only(
        _windowed(
            _sum(),
            schema=[
                Field(name="sum_fare_3600s", dtype=Float64),
                Field(name="tags", dtype=Array(String)),
                Field(name="seen", dtype=UnixTimestamp),
                Field(name="driver_id", dtype=Int64),
                Field(name="_state", dtype=Bytes),
            ],
        )
    )
    assert [(field.name, field.dtype) for field in view.fields] == [
        ("seen", "UnixTimestamp"),
        ("tags", "Array(String)"),
    ]


def test_columns_have_the_names_that_the_field_mapping_says() -> None:
    mapping = {"id": "driver_id", "ts": "event_timestamp", "amount": "fare", "c": "created"}
    source = _source(field_mapping=mapping, created_timestamp_column="created")
    view = _only(_windowed(_sum(), source=source))
    assert view.keys[0].column == "id"
    assert (view.time_column, view.created_column) == ("ts", "c")
    assert [tile.column for tile in view.tiles] == ["amount"]


def test_an_aggregation_may_go_by_the_short_name_that_its_class_promises() -> None:
    view = _only(_windowed(_sum(), schema=[Field(name="sum_fare", dtype=Float64)]))
    assert [window.name for window in view.windows] == ["sum_fare"]


def test_records_are_counted_without_a_column() -> None:
    counted = Aggregation(column="*", function="count", time_window=HOUR, name="trips")
    view = _only(_windowed(counted, schema=[Field(name="trips", dtype=Int64)]))
    assert [tile.column for tile in view.tiles] == [""]
    assert view.inputs == ()


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, (60_000, 60)),
        ({"time_window": timedelta(seconds=1)}, (20, 50)),
        ({"time_window": timedelta(milliseconds=7)}, (1, 7)),
        ({"slide_interval": timedelta(minutes=5)}, (300_000, 12)),
        ({"slide_interval": timedelta(minutes=25)}, (300_000, 12)),
        ({"slide_interval": timedelta(hours=2)}, (60_000, 60)),
        ({"time_window": None}, (0, 1)),
    ],
)
def test_the_step_of_a_window_is_its_slide_interval_or_a_part_of_it(
    changes: dict[str, Any], grid: tuple[int, int]
) -> None:
    view = _only(_windowed(_sum(**changes, name="sum_fare_3600s")))
    assert [(tile.width_ms, tile.buckets) for tile in view.tiles] == [grid]


def test_a_changed_view_is_another_version_and_a_plan_comes_back_from_its_json() -> None:
    plan = _compiled(_windowed(_sum()))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert (again, again.version) == (plan, plan.version)
    shorter = _sum(slide_interval=timedelta(minutes=5))
    assert _compiled(_windowed(shorter)).version != plan.version


def test_views_that_kafka_does_not_feed_are_left_to_feast() -> None:
    push = PushSource(name="push", batch_source=BATCH)
    views = [
        _view(name="pushed", source=push),
        _view(name="offline", online=False),
        _view(name="others", tags={"headrace.kind": "none"}, source=_source(topic="other")),
    ]
    assert _compiled(*views).views == ()
    assert [view.name for view in _compiled(*views, _windowed(_sum())).views] == ["stats"]


def _transformed(source: str) -> StreamFeatureView:
    return _view(udf=lambda frame: frame, udf_string=source)


def test_a_function_that_hands_its_input_through_is_no_transformation() -> None:
    assert _only(_transformed("def stats(df):\n    return df\n")).name == "stats"
    assert hands_through('@view(mode="spark")\ndef stats(df):\n    """Doc."""\n    return df\n')


def _decorated(function: Callable[[Any], Any]) -> StreamFeatureView:
    decorate: Callable[[Any], StreamFeatureView] = stream_feature_view(
        entities=[DRIVER], ttl=HOUR, schema=[FARE], source=_source(), mode="pandas"
    )
    return decorate(function)


def test_feast_s_own_decorator_leaves_a_text_that_can_be_judged() -> None:
    def handed(df: pd.DataFrame) -> pd.DataFrame:
        return df

    def doubled(df: pd.DataFrame) -> pd.DataFrame:
        return df * 2

    assert _only(_decorated(handed)).name == "handed"
    with pytest.raises(Refused, match="'doubled' has a transformation"):
        _compiled(_decorated(doubled))


@pytest.mark.parametrize(
    "source",
    ["", "lambda df: df", "def f(df):\n    df = 1\n    return df", "def f(a, b):\n    return a"],
)
def test_any_other_text_is_a_transformation(source: str) -> None:
    assert not hands_through(source)


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (lambda: _transformed("def f(df):\n    return df * 2"), "never runs code.*on_demand"),
        (lambda: _view(source=_source(message_format=AvroFormat("{}"))), "are avro.*JsonFormat"),
        (lambda: _view(entities=[]), "has no entity"),
        (
            lambda: _view(entities=[UNTYPED]),
            "join key 'when' is not declared: make it STRING",
        ),
        (lambda: _view(schema=[Field(name="x", dtype=Json)]), "field 'x' has a type that is not"),
        (lambda: _view(schema=[Field(name="_state", dtype=Int64)]), "the row's own state"),
        (lambda: _view(tags={"headrace.time_unit": "min"}), "is 'min': write s, ms, us or ns"),
        (lambda: _windowed(_sum(function="std")), "'std' is not one of count, sum"),
        (lambda: _windowed(_sum(name="fares_1h")), "add Field.name='fares_1h'"),
        (lambda: _windowed(_sum(), _sum()), "two aggregations are called 'sum_fare_3600s'"),
        (lambda: _windowed(_sum(column="", name="sum_fare_3600s")), "names no column"),
        (
            lambda: _windowed(_sum(slide_interval=timedelta(seconds=1))),
            "is 3600 buckets, 1440 are the limit",
        ),
        (
            lambda: _view(name="a", source=_source(topic="other")),
            "read different topics .drivers, other.",
        ),
    ],
)
def test_a_view_that_cannot_run_is_refused_with_the_way_out(
    view: Callable[[], StreamFeatureView], says: str
) -> None:
    entities = (DRIVER, CITY, UNTYPED)
    with pytest.raises(Refused, match=says):
        _compiled(_view(name="fine"), view(), entities=entities)


def test_one_join_key_of_two_types_is_refused() -> None:
    views = [
        _view(name=dtype.name, entities=[UNTYPED], schema=[Field(name="when", dtype=dtype), FARE])
        for dtype in (Int64, String)
    ]
    with pytest.raises(Refused, match="'when' has another type in another view"):
        _compiled(*views, entities=[UNTYPED])


def test_two_ids_for_the_records_of_one_topic_are_refused() -> None:
    views = [_view(name=name, tags={"headrace.event_id": name}) for name in ("a", "b")]
    with pytest.raises(Refused, match=r"different columns in tag headrace.event_id: a, b"):
        _compiled(*views)
