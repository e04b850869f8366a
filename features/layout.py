"""The arrays that hold activity state: what they mean, and how a view's spec maps onto them.

A row has one *block* per metric it ever counted (allocated on first use, so a metric nobody
counts costs four bytes). A block is the slots of all rings side by side, plus a total. Slot
`b % buckets` of a ring holds bucket `b` while `b` is among the newest `buckets` of the row.

A row's sequence is a run of entries in a common arena, sorted by (time, event).
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.spec import ActivityView, Metric

Ints = NDArray[np.int64]

TIME, EVENT, ITEM, AUTHOR, CATEGORY, ACTION, VALUE = range(7)
ENTRY: Final = 7
"""Columns of one sequence entry in the arena."""

NEVER: Final = -1
"""`newest` of a row that holds nothing."""


class Layout(NamedTuple):
    """Where a view's spec puts things; read-only."""

    ring_width: Ints
    ring_buckets: Ints
    ring_start: Ints
    """First slot of each ring inside a block."""
    metrics_of: Ints
    """[action, k]: the metrics an action counts towards, −1 padded."""
    adds_value: NDArray[np.bool_]
    """[metric]: adds the fact's value rather than 1."""
    sequence_of: NDArray[np.bool_]
    """[action, sequence]: whether the action is listed there."""
    sequence_length: Ints
    field_kind: Ints
    """[field]: one of the kinds below."""
    field_a: Ints
    field_b: Ints
    """Metric and ring of a ring field; sequence and column of a sequence field."""
    action_text: Ints
    """[action]: its code among the process's strings."""


RING, TOTAL, FIRST, LAST, NUMBERS, TEXTS = range(6)


class Arrays(NamedTuple):
    """The state itself. Arrays are replaced by larger ones as they fill."""

    newest: Ints
    first: Ints
    block: Ints
    """[row, metric]: index of its block, −1 for none."""
    slots: Ints
    """[block, slot]"""
    total: Ints
    start: Ints
    """[row, sequence]: where the run of entries starts in the arena."""
    length: Ints
    room: Ints
    arena: Ints
    """[entry, column]"""
    used: Ints
    """Blocks and arena entries in use."""


def layout_of(
    view: ActivityView, actions: tuple[str, ...], action_text: Ints
) -> tuple[Layout, tuple[str, ...]]:
    """The layout of a view and the names of its stored fields, in the order rows are encoded."""
    shapes = tuple(dict.fromkeys((ring.width_ms, ring.buckets) for ring in view.rings))
    metric = {m: i for i, m in enumerate(view.metrics)}
    fields = _fields(view, metric, shapes)
    counted = [[metric[m] for m in view.metrics if m.action == action] for action in actions]
    width = max(1, *(len(c) for c in counted), 1)
    starts = np.cumsum([0, *(buckets for _, buckets in shapes)])
    layout = Layout(
        ring_width=np.array([w for w, _ in shapes], np.int64),
        ring_buckets=np.array([n for _, n in shapes], np.int64),
        ring_start=starts.astype(np.int64),
        metrics_of=np.array([c + [-1] * (width - len(c)) for c in counted], np.int64),
        adds_value=np.array([m.amount == "value" for m in view.metrics], np.bool_),
        sequence_of=np.array(
            [[action in s.actions for s in view.sequences] for action in actions], np.bool_
        ).reshape(len(actions), len(view.sequences)),
        sequence_length=np.array([s.length for s in view.sequences], np.int64),
        field_kind=np.array([kind for _, kind, _, _ in fields], np.int64),
        field_a=np.array([a for _, _, a, _ in fields], np.int64),
        field_b=np.array([b for _, _, _, b in fields], np.int64),
        action_text=action_text,
    )
    return layout, tuple(name for name, *_ in fields)


def empty_arrays(layout: Layout, rows: int) -> Arrays:
    """State of `rows` rows that hold nothing."""
    sequences, metrics = len(layout.sequence_length), len(layout.adds_value)
    return Arrays(
        newest=np.full(rows, NEVER, np.int64),
        first=np.full(rows, NEVER, np.int64),
        block=np.full((rows, metrics), -1, np.int64),
        slots=np.zeros((rows, int(layout.ring_start[-1])), np.int64),
        total=np.zeros(rows, np.int64),
        start=np.zeros((rows, sequences), np.int64),
        length=np.zeros((rows, sequences), np.int64),
        room=np.zeros((rows, sequences), np.int64),
        arena=np.zeros((rows, ENTRY), np.int64),
        used=np.zeros(2, np.int64),
    )


_COLUMNS: Final = {"item": ITEM, "author": AUTHOR, "category": CATEGORY}


def _fields(
    view: ActivityView, metric: dict[Metric, int], shapes: tuple[tuple[int, int], ...]
) -> list[tuple[str, int, int, int]]:
    fields = [
        (r.field, RING, metric[r.metric], shapes.index((r.width_ms, r.buckets))) for r in view.rings
    ]
    fields += [(t.field, TOTAL, metric[t.metric], 0) for t in view.totals]
    fields += [(view.first_seen, FIRST, 0, 0)] if view.first_seen else []
    fields += [(view.last_seen, LAST, 0, 0)] if view.last_seen else []
    for index, sequence in enumerate(view.sequences):
        fields.append((sequence.field("time"), NUMBERS, index, TIME))
        fields.append((sequence.field("event"), NUMBERS, index, EVENT))
        for column in sequence.columns:
            if column == "value":
                fields.append((sequence.field(column), NUMBERS, index, VALUE))
            else:
                fields.append((sequence.field(column), TEXTS, index, _COLUMNS.get(column, ACTION)))
    return fields
