"""The vocabulary returns plain Feast objects that carry everything the plan needs."""

import json
from pathlib import Path
from typing import Any

import pytest
from feast import FileSource, OnDemandFeatureView, StreamFeatureView
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, Bytes, Float64, Int32, Int64, String
from feast.value_type import ValueType
from pydantic import TypeAdapter

from features import declare
from features.spec import Feature, RateFeature, Window
from features.tags import (
    AS_OF_TAG,
    KIND_TAG,
    PATH_TAG,
    RELATIONS_TAG,
    duration_ms,
    duration_text,
)

NAN, INF = float("nan"), float("inf")

EVENTS = declare.events_source(archive=Path("archive"))
USER = declare.entity("user", "user_id")


def _dtypes(view: StreamFeatureView) -> dict[str, Any]:
    return {field.name: field.dtype for field in view.features}


def test_counters_and_lists_are_packed_into_a_field_each() -> None:
    state = [declare.counters("click"), declare.sums("skip"), declare.last_seen()]
    view = declare.activity_view("v", USER, EVENTS, state)
    assert _dtypes(view) == {"counts": Bytes, "last_seen": Int64}
    assert [a.name for a in view.aggregations] == [
        *("click_5m", "click_1h", "click_6h", "click_total"),
        *("skip_value_5m", "skip_value_1h", "skip_value_6h", "skip_value_total"),
        "last_seen",
    ]
    assert view.tags[KIND_TAG] == "activity"
    assert view.online
    listed = [*state, declare.newest("recent", ["click"], 5, ["item", "value"])]
    view = declare.activity_view("v", USER, EVENTS, listed)
    assert _dtypes(view) == {"counts": Bytes, "lists": Bytes, "last_seen": Int64}


def test_a_newest_value_view_adds_the_field_that_breaks_ties() -> None:
    fields = [declare.taken("degree", String, "attributes.degree"), declare.taken("ended", Int64)]
    view = declare.latest_view("v", USER, EVENTS, "user", fields)
    assert _dtypes(view) == {"degree": String, "ended": Int64, "event_hash": Int64}
    paths = {field.name: field.tags.get(PATH_TAG) for field in view.features}
    assert paths == {"degree": "attributes.degree", "ended": "ended", "event_hash": None}


@pytest.mark.parametrize(
    ("value_type", "dtype"),
    [(ValueType.STRING, String), (ValueType.INT64, Int64), (ValueType.INT32, Int32)],
)
def test_the_key_of_a_view_has_the_type_of_its_entity(value_type: ValueType, dtype: Any) -> None:
    users = declare.entity("user", "user_id", value_type)
    view = declare.activity_view("v", users, EVENTS, [declare.last_seen()])
    assert [(c.name, c.dtype) for c in view.entity_columns] == [("user_id", dtype)]


def _as_of(*features: Any) -> OnDemandFeatureView:
    view = declare.activity_view("v", USER, EVENTS, [declare.counters("click", "impression")])
    return declare.as_of_view("rates", [view], features)


def test_an_as_of_view_reads_its_first_source_unless_a_feature_says_otherwise() -> None:
    view = _as_of(declare.count("a", "click"), declare.value("b", "x", view="elsewhere"))
    assert '"view": "v"' in view.tags[AS_OF_TAG]
    assert '"view": "elsewhere"' in view.tags[AS_OF_TAG]
    assert [(f.name, f.dtype) for f in view.features] == [("a", Float64), ("b", Float64)]


def test_an_as_of_view_asks_for_now_and_for_what_its_features_need_of_a_request() -> None:
    assert set(_as_of(declare.count("a", "click")).source_request_sources) == {"as_of"}
    more = _as_of(
        declare.surface_code(),
        declare.similarity("s", "recent", ["click"]),
        declare.count("a", "c"),
    )
    assert set(more.source_request_sources) == {"as_of", "request", "recent_items"}


def test_the_stored_function_needs_nothing_but_its_own_text() -> None:
    view = _as_of(declare.recency("idle"), declare.rate("ctr", "click", "impression", "1h"))
    scope: dict[str, Any] = {}
    assert isinstance(view.feature_transformation, PythonTransformation)
    exec(view.feature_transformation.udf_string, scope)
    assert scope["rates"]({"now": [5], "v__counts": [None]})["ctr"] == [0.1]


def _window(window: str, *state: Any) -> Window | None:
    """The window of a rate as the registry has it, read from a view with this state."""
    stored = state or (declare.counters("click", "impression"),)
    view = declare.activity_view("v", USER, EVENTS, stored)
    read = declare.as_of_view("rates", [view], [declare.rate("r", "click", "impression", window)])
    (feature,) = TypeAdapter(list[Feature]).validate_json(read.tags[AS_OF_TAG])
    assert isinstance(feature, RateFeature)
    return feature.window


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("5m", Window(width_ms=300_000, buckets=1)),
        ("1h", Window(width_ms=300_000, buckets=12)),
        ("2h", Window(width_ms=3_600_000, buckets=2)),
        ("24h", Window(width_ms=3_600_000, buckets=24)),
        ("7d", Window(width_ms=21_600_000, buckets=28)),
        ("all", None),
    ],
)
def test_a_window_is_read_from_the_finest_ring_that_holds_it(
    window: str, expected: Window | None
) -> None:
    assert _window(window) == expected


def test_a_window_is_read_from_the_rings_of_its_own_view() -> None:
    rings = [("1m", 30), ("15m", 8), ("1d", 400)]
    own = declare.counters("click", "impression", rings=rings)
    assert _window("30m", own) == Window(width_ms=60_000, buckets=30)
    assert _window("2h", own) == Window(width_ms=900_000, buckets=8)
    assert _window("365d", own) == Window(width_ms=86_400_000, buckets=365)


def test_a_rate_is_read_from_a_ring_that_keeps_its_window_for_both_actions() -> None:
    few = declare.counters("click", rings=[("1m", 30), ("1h", 24)])
    hours = declare.counters("impression", rings=[("1m", 5), ("1h", 24)])
    assert _window("5m", few, hours) == Window(width_ms=60_000, buckets=5)
    assert _window("1h", few, hours) == Window(width_ms=3_600_000, buckets=1)
    with pytest.raises(ValueError, match=r"'30m'.*'click' in 30 × 1m.*'impression' in 5 × 1m"):
        _window("30m", few, hours)


@pytest.mark.parametrize("window", ["90s", "8d", "25h"])
def test_a_window_that_no_ring_holds_is_refused_with_those_there_are(window: str) -> None:
    with pytest.raises(ValueError, match=r"view 'v', which keeps 'click' in 12 × 5m, 24 × 1h"):
        _as_of(declare.count("c", "click", window))
    with pytest.raises(ValueError, match="which keeps values of 'like' in no ring"):
        _as_of(declare.count("c", "like", window, amount="value"))


@pytest.mark.parametrize("action", ["", "a,b", "a.b", "x" * 65])
def test_an_action_that_the_registry_cannot_carry_is_refused(action: str) -> None:
    for word in (
        lambda: declare.counters("click", action),
        lambda: declare.sums(action),
        lambda: declare.newest("recent", [action], 5),
        lambda: declare.affinity("f", "recent", [action], "item"),
        lambda: declare.count("f", action),
        lambda: declare.relations_view("r", USER, EVENTS, {"follow": action}),
    ):
        with pytest.raises(ValueError, match="neither a comma nor a full stop"):
            word()


@pytest.mark.parametrize("prior", [(1.0, 0.0), (1.0, -3.0), (0.0, NAN), (NAN, 1.0), (1.0, INF)])
def test_a_prior_that_divides_by_nothing_is_refused(prior: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="prior"):
        declare.rate("r", "click", "impression", prior=prior)
    with pytest.raises(ValueError, match="prior"):
        declare.mean("m", "click", prior=prior)


def test_counts_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="buckets is 0: at least 1"):
        declare.code("c", "author_id", 0)
    with pytest.raises(ValueError, match="newest is 0: at least 1"):
        declare.similarity("s", "recent", ["click"], newest=0)


def test_relations_are_four_lists_and_a_tag() -> None:
    view = declare.relations_view("r", USER, EVENTS, {"follow": "unfollow"}, target="item", limit=7)
    assert _dtypes(view) == {
        "targets": Array(String),
        "actions": Array(String),
        "times": Array(Int64),
        "events": Array(Int64),
    }
    assert json.loads(view.tags[RELATIONS_TAG]) == {
        "relations": {"follow": "unfollow"},
        "target": "item",
        "limit": 7,
    }


def test_decays_and_trends_need_bounded_windows() -> None:
    with pytest.raises(ValueError, match="needs a bounded window"):
        declare.decayed("d", "click", "all", "1d")
    with pytest.raises(ValueError, match="needs two bounded windows"):
        declare.trend("t", "click", "1h", "all")


@pytest.mark.parametrize("text", ["", "5", "h", "0m", "1.5h", "-1h", "1w"])
def test_what_is_no_duration_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and ms, s, m, h or d"):
        duration_ms(text)


@pytest.mark.parametrize("text", ["5ms", "90s", "5m", "1h", "36h", "7d"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert duration_text(duration_ms(text)) == text


def test_a_source_takes_a_bucket_as_text_and_refuses_it_as_a_path() -> None:
    source = declare.events_source(archive="s3://bucket/home/")
    assert isinstance(source.batch_source, FileSource)
    assert source.batch_source.path == "s3://bucket/home/row_versions"
    with pytest.raises(ValueError, match='archive="s3://bucket/home"'):
        declare.events_source(archive=Path("s3://bucket/home"))
