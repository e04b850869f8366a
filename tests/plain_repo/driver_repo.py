"""The stream of driver statistics of Feast's own documentation, by somebody who read no other."""

from datetime import timedelta

from feast import Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.types import Array, Float32, Float64, Int64, String

driver = Entity(name="driver", join_keys=["driver_id"])
city = Entity(name="city", join_keys=["city"])

driver_stats_batch_source = FileSource(
    name="driver_stats_source",
    path="data/driver_stats.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)

driver_stats_stream_source = KafkaSource(
    name="driver_stats_stream",
    kafka_bootstrap_servers="localhost:9092",
    topic="drivers",
    timestamp_field="event_timestamp",
    batch_source=driver_stats_batch_source,
    message_format=JsonFormat(
        schema_json="driver_id long, event_timestamp timestamp, created timestamp, city string, "
        "conv_rate double, acc_rate double, avg_daily_trips long, fare double, tags array<string>"
    ),
    watermark_delay_threshold=timedelta(minutes=5),
)

driver_hourly_stats = StreamFeatureView(
    name="driver_hourly_stats",
    entities=[driver],
    ttl=timedelta(days=365),
    schema=[
        Field(name="conv_rate", dtype=Float32),
        Field(name="acc_rate", dtype=Float32),
        Field(name="avg_daily_trips", dtype=Int64),
        Field(name="city", dtype=String),
        Field(name="tags", dtype=Array(String)),
    ],
    source=driver_stats_stream_source,
)

driver_fares = StreamFeatureView(
    name="driver_fares",
    entities=[driver],
    ttl=timedelta(days=365),
    schema=[
        Field(name="sum_fare_3600s", dtype=Float64),
        Field(name="trips_1h", dtype=Int64),
        Field(name="avg_fare_1d", dtype=Float64),
        Field(name="min_fare_86400s", dtype=Float64),
        Field(name="max_fare_86400s", dtype=Float64),
        Field(name="count_fare", dtype=Int64),
        Field(name="sum_fare", dtype=Float64),
    ],
    timestamp_field="event_timestamp",
    aggregations=[
        Aggregation(column="fare", function="sum", time_window=timedelta(hours=1)),
        Aggregation(
            column="fare", function="count", time_window=timedelta(hours=1), name="trips_1h"
        ),
        Aggregation(
            column="fare",
            function="avg",
            time_window=timedelta(days=1),
            slide_interval=timedelta(hours=1),
            name="avg_fare_1d",
        ),
        Aggregation(column="fare", function="min", time_window=timedelta(days=1)),
        Aggregation(column="fare", function="max", time_window=timedelta(days=1)),
        Aggregation(column="fare", function="count"),
        Aggregation(column="fare", function="sum"),
    ],
    source=driver_stats_stream_source,
)

driver_in_city = StreamFeatureView(
    name="driver_in_city",
    entities=[driver, city],
    ttl=timedelta(days=365),
    schema=[Field(name="mean_fare_3600s", dtype=Float32)],
    timestamp_field="event_timestamp",
    aggregations=[Aggregation(column="fare", function="mean", time_window=timedelta(hours=1))],
    enable_tiling=True,
    tiling_hop_size=timedelta(minutes=5),
    source=driver_stats_stream_source,
)

driver_activity = FeatureService(
    name="driver_activity", features=[driver_hourly_stats, driver_fares]
)
