"""Plain views compiled from the registry: a StreamFeatureView of somebody who knows only Feast.

Reads the registry's protobufs. A transformation stored there is never executed: a view that has
one is refused, unless its text shows that it hands its input through.
"""

import ast
import math
import textwrap
from typing import Any, Final, Literal, cast

from features.codec import INT32_TYPE, INT64_TYPE, STRING_TYPE
from features.errors import Refused
from features.plain_state import STATE_FIELD
from features.plain_values import ENCODERS
from features.spec import (
    EntitySpec,
    KeyColumn,
    PlainField,
    PlainView,
    TileSpec,
    WindowField,
)
from features.tags import EVENT_ID_TAG, KIND_TAG, NO_KIND, TIME_UNIT_TAG

BUCKETS: Final = 60
"""Buckets of a window whose view names no slide interval, where they divide it."""
BUCKETS_MAX: Final = 1_440
TILING_HOP_MS: Final = 300_000
"""Feast's own default where `enable_tiling` is set and no hop size."""

KAFKA_STREAM: Final = 3
"""DataSource.SourceType.STREAM_KAFKA"""
KEY_TYPES: Final = (STRING_TYPE, INT32_TYPE, INT64_TYPE)
_UNKNOWN: Final = 0

DTYPES: Final = {
    1: "Bytes",
    2: "String",
    3: "Int32",
    4: "Int64",
    5: "Float64",
    6: "Float32",
    7: "Bool",
    8: "UnixTimestamp",
    11: "Array(Bytes)",
    12: "Array(String)",
    13: "Array(Int32)",
    14: "Array(Int64)",
    15: "Array(Float64)",
    16: "Array(Float32)",
    17: "Array(Bool)",
    18: "Array(UnixTimestamp)",
}
"""Feast's numbers of value types that a plain view can hold."""

Function = Literal["count", "sum", "min", "max", "mean"]
_FUNCTIONS: Final[dict[str, Function]] = {
    "count": "count",
    "sum": "sum",
    "min": "min",
    "max": "max",
    "mean": "mean",
    "avg": "mean",
}


def runs_here(spec: Any) -> bool:
    """Whether a stream feature view is fed by Kafka: Feast's own `push` feeds the others."""
    return bool(spec.online and not spec.disabled and spec.stream_source.type == KAFKA_STREAM)


def compile_plain(spec: Any, entities: dict[str, Any]) -> PlainView:
    """One plain view from its registry message; `entities` are EntitySpecV2 messages by name."""
    where = f"stream feature view {spec.name!r}"
    _check_source(spec, where)
    source = spec.stream_source
    columns = {mapped: raw for raw, mapped in source.field_mapping.items()}
    time_column = spec.timestamp_field or source.timestamp_field
    if not time_column:
        raise Refused(f"{where}: name its event time: KafkaSource(timestamp_field=...)")
    created = source.created_timestamp_column or spec.batch_source.created_timestamp_column
    unit = dict(spec.tags).get(TIME_UNIT_TAG, "auto")
    if unit not in ("auto", "s", "ms", "us", "ns"):
        raise Refused(f"{where}: tag {TIME_UNIT_TAG} is {unit!r}: write s, ms, us or ns")
    keys = _keys(spec, entities, columns, where)
    dtypes = _dtypes(spec, {key.join_key for key in keys}, where)
    tiles, windows = _windows(spec, columns, dtypes, where)
    made = {window.name for window in windows}
    return PlainView(
        name=spec.name,
        entity=_entity(spec, keys),
        keys=keys,
        time_column=columns.get(time_column, time_column),
        time_unit=cast(Literal["auto", "s", "ms", "us", "ns"], unit),
        created_column=columns.get(created, created) or None,
        event_id_column=dict(spec.tags).get(EVENT_ID_TAG),
        fields=tuple(
            PlainField(name=name, column=columns.get(name, name), dtype=dtype)
            for name, dtype in sorted(dtypes.items())
            if name not in made
        ),
        tiles=tiles,
        windows=windows,
    )


def check_together(views: list[PlainView]) -> None:
    """Refuse plain views that cannot share one topic and one project."""
    types: dict[str, tuple[int, ...]] = {}
    for view in views:
        found = tuple(key.value_type for key in view.keys)
        if types.setdefault(view.entity.join_key, found) != found:
            raise Refused(
                f"stream feature view {view.name!r}: join key {view.entity.join_key!r} has another "
                "type in another view: give its Entity a value_type, so that Feast keeps one"
            )
    tagged = {view.event_id_column for view in views if view.event_id_column}
    if len(tagged) > 1:
        raise Refused(
            f"views of one topic name different columns in tag {EVENT_ID_TAG}: "
            f"{', '.join(sorted(tagged))}; a record has one id"
        )


def _check_source(spec: Any, where: str) -> None:
    form = spec.stream_source.kafka_options.message_format
    kind = form.WhichOneof("format")
    if kind not in (None, "json_format"):
        raise Refused(
            f"{where}: its messages are {kind.removesuffix('_format')}; Headrace reads JsonFormat. "
            f"Write JSON to the topic, or tag it {KIND_TAG}: {NO_KIND} to leave it to others"
        )
    if not (spec.HasField("user_defined_function") or spec.HasField("feature_transformation")):
        return
    function = spec.user_defined_function
    if not hands_through(function.body_text):
        raise Refused(
            f"{where} has a transformation ({function.name}), and Headrace never runs code that "
            "is stored in a registry. Write transformed records to the topic, or compute at read "
            "in an on_demand_feature_view, and declare this view by StreamFeatureView(...) without "
            f"a udf; or tag it {KIND_TAG}: {NO_KIND} to leave it to others"
        )


def hands_through(source: str) -> bool:
    """Whether the text of a function shows that it returns its one argument as it is."""
    try:
        (function,) = ast.parse(textwrap.dedent(source)).body
    except (SyntaxError, ValueError):
        return False
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) != 1:
        return False
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if len(body) != 1 or not isinstance(body[0], ast.Return):
        return False
    returned = body[0].value
    return isinstance(returned, ast.Name) and returned.id == function.args.args[0].arg


def _keys(
    spec: Any, entities: dict[str, Any], columns: dict[str, str], where: str
) -> tuple[KeyColumn, ...]:
    typed = {column.name: column.value_type for column in spec.entity_columns}
    keys = []
    for name in spec.entities:
        entity = entities.get(name)
        if entity is None or name == "__dummy":
            raise Refused(f"{where} has no entity: a row needs one to be found by")
        join_key = str(entity.join_key)
        value_type = typed.get(join_key) or entity.value_type
        if value_type not in KEY_TYPES:
            kind = DTYPES.get(value_type, "not declared")
            raise Refused(
                f"{where}: the type of join key {join_key!r} is {kind}: make it STRING, INT32 or "
                f"INT64, by Entity(value_type=...) or a Field of the view's schema"
            )
        column = columns.get(join_key, join_key)
        keys.append(KeyColumn(join_key=join_key, column=column, value_type=value_type))
    return tuple(sorted(keys, key=lambda key: key.join_key))


def _entity(spec: Any, keys: tuple[KeyColumn, ...]) -> EntitySpec:
    if len(keys) == 1:
        (key,) = keys
        return EntitySpec(name=spec.entities[0], join_key=key.join_key, value_type=key.value_type)
    return EntitySpec(
        name=",".join(sorted(spec.entities)),
        join_key=",".join(key.join_key for key in keys),
        value_type=_UNKNOWN,
    )


def _dtypes(spec: Any, keys: set[str], where: str) -> dict[str, str]:
    """Feature → type, without the join keys that Feast lists beside them."""
    found = {}
    for feature in spec.features:
        if feature.name in keys:
            continue
        dtype = DTYPES.get(feature.value_type)
        if dtype is None or dtype not in ENCODERS:
            known = ", ".join(ENCODERS)
            raise Refused(f"{where}: field {feature.name!r} has a type that is not one of {known}")
        if feature.name == STATE_FIELD:
            if dtype != "Bytes":
                raise Refused(f"{where}: field {STATE_FIELD!r} is the row's own state, of Bytes")
            continue
        found[str(feature.name)] = dtype
    return found


def _windows(
    spec: Any, columns: dict[str, str], dtypes: dict[str, str], where: str
) -> tuple[tuple[TileSpec, ...], tuple[WindowField, ...]]:
    """The tiles that the aggregations need, each once, and what is read from them."""
    wanted: dict[tuple[str, int], TileSpec] = {}
    drafts = []
    for aggregation in spec.aggregations:
        function = _FUNCTIONS.get(aggregation.function)
        if function is None:
            raise Refused(
                f"{where}: aggregation function {aggregation.function!r} is not one of "
                f"{', '.join(_FUNCTIONS)}"
            )
        name = _output(aggregation, dtypes, where)
        column = "" if aggregation.column == "*" else aggregation.column
        if not column and function != "count":
            raise Refused(f"{where}: aggregation {name!r} names no column")
        width, buckets = _grid(spec, aggregation, where)
        raw = columns.get(column, column)
        tile = wanted.get((raw, width)) or TileSpec(
            column=raw, width_ms=width, buckets=buckets, sums=False, extremes=False
        )
        wanted[raw, width] = tile.model_copy(
            update={
                "buckets": max(tile.buckets, buckets),
                "sums": tile.sums or function in ("sum", "mean"),
                "extremes": tile.extremes or function in ("min", "max"),
            }
        )
        drafts.append((name, function, (raw, width), buckets))
    order = sorted(wanted)
    windows = [
        WindowField(
            name=name, dtype=dtypes[name], function=function, tile=order.index(key), buckets=buckets
        )
        for name, function, key, buckets in sorted(drafts)
    ]
    names = [window.name for window in windows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(f"{where}: two aggregations are called {twice!r}: give each a name")
    return tuple(wanted[key] for key in order), tuple(windows)


def _output(aggregation: Any, dtypes: dict[str, str], where: str) -> str:
    """What an aggregation is called: as Feast's engines do it, or as its class says."""
    base = f"{aggregation.function}_{aggregation.column}"
    seconds = int(aggregation.time_window.seconds)
    named = f"{base}_{seconds}s" if seconds > 0 else base
    choices = [aggregation.name] if aggregation.name else [named, base]
    for choice in choices:
        if choice in dtypes:
            return str(choice)
    raise Refused(
        f"{where}: its schema has no field {choices[0]!r}, so no Feast client could read what "
        f"{base} makes: add Field(name={choices[0]!r}, dtype=...) to the schema"
    )


def _grid(spec: Any, aggregation: Any, where: str) -> tuple[int, int]:
    """Width of a bucket and their number; width 0 where there is no window."""
    window = _milliseconds(aggregation.time_window)
    if window <= 0:
        return 0, 1
    slide = _milliseconds(aggregation.slide_interval)
    if spec.enable_tiling:
        hop = _milliseconds(spec.tiling_hop_size) or TILING_HOP_MS
        width = math.gcd(window, hop)
    elif 0 < slide < window:
        width = math.gcd(window, slide)
    else:  # Feast fills in the window where no slide interval is named
        width = window // max(n for n in range(1, BUCKETS + 1) if window % n == 0)
    buckets = window // width
    if buckets > BUCKETS_MAX:
        raise Refused(
            f"{where}: a window of {window} ms in steps of {width} ms is {buckets} buckets, "
            f"{BUCKETS_MAX} are the limit: name a longer slide_interval that divides the window"
        )
    return width, buckets


def _milliseconds(duration: Any) -> int:
    return int(duration.seconds) * 1000 + int(duration.nanos) // 1_000_000
