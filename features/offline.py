"""Row versions as Arrow: what the archiver writes to Parquet and Feast's offline store reads.

A version is the whole state of one row of one view after a span of the log. Columns: the join
key, `appended_at` (when that state could first be known, by the log; what joins go by),
`updated_at` (the newest event time in it; Feast's online timestamp), `row_marker` (the last block
folded into the row), and every stored field in its declared Feast type.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import pyarrow as pa

from features.codec import (
    INT32_TYPE,
    INT64_TYPE,
    MARKER_FIELD,
    decode_time,
    decode_value,
    encode_time,
    encode_value,
    entity_id,
    entity_key,
    field_name,
    updated_at_field,
)
from features.entities import EntityTable, Hash
from features.spec import (
    ActivityView,
    EntitySpec,
    LatestView,
    PlainView,
    Plan,
    RelationsView,
)
from features.strings import Strings

FOLDER: Final = "row_versions"
"""Below a repository's archive: one folder per view, and `_spans`."""
APPENDED_AT, UPDATED_AT, ROW_MARKER = "appended_at", "updated_at", "row_marker"
NOTHING_YET: Final = 0
"""`appended_at` of the version before a row's first: all null. Feast's file store drops an entity
whose every version lies after the time asked for; with this one it answers nulls."""

EngineView = ActivityView | LatestView | RelationsView

_TIME = pa.timestamp("us", "UTC")
_ARROW: Final = {
    "String": pa.string(),
    "Bytes": pa.binary(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "Bool": pa.bool_(),
    "Array(String)": pa.list_(pa.string()),
    "Array(Int64)": pa.list_(pa.int64()),
    "Array(Float32)": pa.list_(pa.float32()),
    "Array(Float64)": pa.list_(pa.float64()),
}


class Stored(NamedTuple):
    """One row as it is kept: its Redis key and hash; `first` when its view held nothing before."""

    key: bytes
    hash: Hash
    first: bool


class VersionView:
    """How the rows of one view stand in Parquet."""

    def __init__(self, plan: Plan, view: EngineView) -> None:
        self.name = view.name
        self.project = plan.project
        self.entity = view.entity
        table = EntityTable(plan, view.entity, Strings()).tables[view.name]
        self.types = {name: _dtype(view, name) for name in table.fields}
        self.schema = pa.schema(
            [
                (view.entity.join_key, _key_type(view.entity)),
                (APPENDED_AT, _TIME),
                (UPDATED_AT, _TIME),
                (ROW_MARKER, pa.string()),
                *((name, _ARROW[dtype]) for name, dtype in self.types.items()),
            ]
        )

    def batch(self, rows: Sequence[Stored], appended_at: int) -> pa.RecordBatch:
        """The versions of these rows, in their order; `appended_at` is in ms."""
        births = [row.key for row in rows if row.first]
        hashes: list[Hash] = [{} for _ in births] + [row.hash for row in rows]
        keys = births + [row.key for row in rows]
        stamps = [NOTHING_YET] * len(births) + [appended_at] * len(rows)
        stamp = updated_at_field(self.name)
        columns: list[list[object]] = [
            [self._id(key) for key in keys],
            [1000 * ms for ms in stamps],
            [1000 * decode_time(h[stamp]) if stamp in h else None for h in hashes],
            [h[MARKER_FIELD].decode() if MARKER_FIELD in h else None for h in hashes],
        ]
        for name in self.types:
            field = field_name(self.name, name)
            columns.append([decode_value(h.get(field)) for h in hashes])
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self.schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _id(self, key: bytes) -> str | int:
        found = entity_id(self.entity.join_key, key, self.project)
        if found is None:
            raise ValueError(f"{key!r} is no row of {self.name} in project {self.project}")
        return int(found) if self.entity.value_type in (INT32_TYPE, INT64_TYPE) else found


def version_views(plan: Plan) -> list[VersionView]:
    """All stored views of a plan, as they stand in Parquet; those of plain records do not."""
    return [VersionView(plan, v) for v in plan.views if not isinstance(v, PlainView)]


def stored_rows(
    view: str, entity: EntitySpec, project: str, versions: pa.RecordBatch
) -> Iterator[tuple[bytes, Hash]]:
    """Versions as the keys and hashes they were made of, newest first; `NOTHING_YET` left out."""
    columns = {name: versions.column(name).to_pylist() for name in versions.schema.names}
    own = {entity.join_key, APPENDED_AT, UPDATED_AT, ROW_MARKER}
    types = {f.name: _feast_type(f.type) for f in versions.schema if f.name not in own}
    for place in reversed(range(len(versions))):
        updated_at: datetime | None = columns[UPDATED_AT][place]
        if updated_at is None:
            continue
        ms = round(updated_at.timestamp() * 1000)
        hash_ = {updated_at_field(view): encode_time(ms)}
        hash_[MARKER_FIELD] = columns[ROW_MARKER][place].encode()
        for name, dtype in types.items():
            value = columns[name][place]
            if value is not None:
                hash_[field_name(view, name)] = encode_value(value, dtype)
        identifier = str(columns[entity.join_key][place])
        yield entity_key(entity.join_key, entity.value_type, identifier, project), hash_


def unified(known: pa.Schema | None, declared: pa.Schema, where: str) -> pa.Schema:
    """Every column there ever was in a view; raises `ValueError` when one changed its type."""
    if known is None:
        return declared
    for field in declared:
        place = known.get_field_index(field.name)
        if place >= 0 and known.field(place).type != field.type:
            raise ValueError(
                f"{where}: column {field.name!r} was archived as {known.field(place).type} and is "
                f"declared {field.type} now; give the changed field another name, or archive "
                "into another folder"
            )
    return pa.schema([*known, *(f for f in declared if known.get_field_index(f.name) < 0)])


def day_of(ms: int) -> str:
    """The UTC day of a time in ms, as versions are filed."""
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def _feast_type(arrow: pa.DataType) -> str:
    return next(dtype for dtype, known in _ARROW.items() if known == arrow)


def _dtype(view: EngineView, name: str) -> str:
    """The Feast type of a stored field; what no spec names holds packed state, as bytes."""
    if isinstance(view, LatestView):
        return next((field.dtype for field in view.fields if field.name == name), "Int64")
    if isinstance(view, RelationsView):
        return "Array(String)" if name in ("targets", "actions") else "Array(Int64)"
    return "Int64" if name in (view.first_seen, view.last_seen) else "Bytes"


def _key_type(entity: EntitySpec) -> pa.DataType:
    return {INT32_TYPE: pa.int32(), INT64_TYPE: pa.int64()}.get(entity.value_type, pa.string())
