"""As-of views inside stock Feast: its inputs loaded into entity tables, read by the same code."""

import json
from collections.abc import ItemsView, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from features.as_of import Moment, Reader, candidate_keys
from features.codec import (
    FeatureValue,
    encode_time,
    encode_value,
    field_name,
    updated_at_field,
)
from features.entities import EntityTable, Hash
from features.layout import COUNTS, COUNTS_FIELD, LISTS, LISTS_FIELD, stored_fields
from features.spec import (
    ActivityView,
    AsOfView,
    Compared,
    Feature,
    LatestView,
    Plan,
    Spec,
    lists_read,
)
from features.strings import Strings
from features.unpack import newest_time, unpack_lists

FEAST_SAMPLE = b"hello world"
"""What `feast apply` calls a view's function with, to see what it returns: no state."""

Inputs = dict[str, list[Any]]
"""Column → one value per row; stored features as `view__feature`."""


class Declared(Spec):
    """What an as-of view's function carries: its features and the views they read."""

    activity: tuple[ActivityView, ...]
    latest: tuple[LatestView, ...]
    as_of: AsOfView

    def plan(self) -> Plan:
        """A plan with this one view in its one service."""
        return Plan(
            project="",
            topic="",
            activity=self.activity,
            latest=self.latest,
            as_of=(self.as_of,),
            services={"": (self.as_of.name,)},
        )


def read(declared: str, inputs: Inputs) -> dict[str, list[float]]:
    """The features of one as-of view for every row of Feast's inputs.

    Each stands under its own name and under `view__name`: asked for full names, Feast's online
    read takes what a Python function returns under the full one alone, and drops the rest without
    a word. Its historical read makes an Arrow table of it, where both would become one name; there
    a feature named as one of the inputs has the full name, or Feast would clear it away with them.
    """
    plan = _plan(declared)
    (view,) = plan.as_of
    rows = [_read_row(plan, inputs, i) for i in range(len(inputs["now"]))]
    columns = {f.name: [row[i] for row in rows] for i, f in enumerate(view.features)}
    full = {f"{view.name}__{name}": column for name, column in columns.items()}
    once = {f"{view.name}__{name}" if name in inputs else name: columns[name] for name in columns}
    return _Features(columns | full, once)


class _Features(dict[str, list[float]]):
    """Features under both names; Arrow, which asks for `items`, meets each once."""

    def __init__(self, both: dict[str, list[float]], once: dict[str, list[float]]) -> None:
        super().__init__(both)
        self._once = once

    def items(self) -> ItemsView[str, list[float]]:  # type: ignore[override]
        return self._once.items()


@lru_cache(maxsize=64)
def _plan(declared: str) -> Plan:
    return Declared.model_validate(json.loads(declared)).plan()


def _read_row(plan: Plan, inputs: Inputs, i: int) -> Sequence[float]:
    strings = Strings()
    tables = {e.join_key: EntityTable(plan, e, strings) for e in plan.entities}
    for join_key, table in tables.items():
        hash_ = _hash(plan, join_key, inputs, i)
        # Feast may leave a key out; any id does then, and "0" is one of every type.
        row = table.row_of_id(_cell(inputs, join_key, i) or "0")
        if hash_:
            table.load([row], [hash_])
    _add_recent_items(plan, tables, inputs, i)
    surface = _cell(inputs, "request_surface", i)
    moment = Moment(
        now=int(inputs["now"][i]),
        rows={
            key: np.array([0 if table.known(0) else -1], np.int64) for key, table in tables.items()
        },
        keys=_keys(plan, inputs, strings, i),
        surface=surface,
    )
    result: list[float] = Reader(plan, "", tables).matrix(moment)[0].tolist()
    return result


def _hash(plan: Plan, join_key: str, inputs: Inputs, i: int) -> Hash:
    """The Redis hash that these inputs came from, as far as the views need it."""
    found: Hash = {}
    for view in plan.activity:
        counts = _pack(inputs, view.name, COUNTS_FIELD, i)
        if view.entity.join_key == join_key and counts:
            found[updated_at_field(view.name)] = encode_time(newest_time(counts))
            for name, kind in stored_fields(view):
                if kind in (COUNTS, LISTS):
                    value = encode_value(_pack(inputs, view.name, name, i) or None, "Bytes")
                else:
                    value = _value(inputs, view.name, name, "Int64", i)
                found[field_name(view.name, name)] = value
    for latest in plan.latest:
        if latest.entity.join_key == join_key:
            for field in latest.fields:
                value = _value(inputs, latest.name, field.name, field.dtype, i)
                if value:
                    found[field_name(latest.name, field.name)] = value
                    found[updated_at_field(latest.name)] = encode_time(0)
    return found


def _pack(inputs: Inputs, view: str, name: str, i: int) -> bytes:
    """A pack; empty where there is none."""
    value = inputs[f"{view}__{name}"][i]
    return value if isinstance(value, bytes) and value != FEAST_SAMPLE else b""


def _value(inputs: Inputs, view: str, name: str, dtype: str, i: int) -> bytes:
    value: FeatureValue = inputs[f"{view}__{name}"][i]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return encode_value(value, dtype) if value is not None else b""


def _cell(inputs: Inputs, name: str, i: int) -> str | None:
    values = inputs.get(name)
    return None if values is None or values[i] is None else str(values[i])


def _keys(plan: Plan, inputs: Inputs, strings: Strings, i: int) -> Any:
    """The candidate's own ids, from its profile if the view reads one."""
    found: dict[str, str | None] = {"item_id": _cell(inputs, "item_id", i)}
    for view in plan.latest:
        for field in view.fields:
            if field.path in ("author_id", "categories"):
                value = inputs[f"{view.name}__{field.name}"][i]
                first = value[0] if isinstance(value, list | np.ndarray) and len(value) else value
                found[field.path] = str(first) if isinstance(first, str) else None
    return candidate_keys(
        strings.codes([found["item_id"]]),
        strings.codes([found.get("author_id")]),
        strings.codes([found.get("categories")]),
    )


def compared_lists(features: Sequence[Feature]) -> list[str]:
    """The lists whose items some features compare, in the order in which they name them."""
    return list(
        dict.fromkeys(
            name for f in features if isinstance(f, Compared) for name, _ in lists_read(f)
        )
    )


def _add_recent_items(plan: Plan, tables: dict[str, EntityTable], inputs: Inputs, i: int) -> None:
    """Rows for the items in the user's lists, with the embeddings the caller sent."""
    vectors = inputs.get("recent_vectors")
    compared = [f for f in plan.as_of[0].features if isinstance(f, Compared)]
    if not compared or vectors is None or vectors[i] is None:
        return
    similar, names = compared[0], compared_lists(compared)
    listed = unpack_lists(_pack(inputs, similar.view, LISTS_FIELD, i), names)
    ids = [entry.item or "" for name in names for entry in listed.get(name, ())]
    if not ids or len(vectors[i]) % len(ids):
        return
    wanted = similar.embedding or next(iter(plan.embeddings))
    view = next(v for v in plan.latest if v.name == wanted)
    name = plan.embeddings[wanted].name
    table = tables[view.entity.join_key]
    for item_id, vector in zip(ids, np.reshape(vectors[i], (len(ids), -1)), strict=True):
        if table.rows_of_ids([item_id])[0] > 0:
            continue
        hash_ = {
            field_name(view.name, name): encode_value(vector.tolist(), "Array(Float32)"),
            updated_at_field(view.name): encode_time(0),
        }
        row = table.row_of_id(item_id)
        if row > 0:
            table.load([row], [hash_])
