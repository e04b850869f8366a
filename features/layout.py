"""The arrays that hold activity state: what they mean, and how a view's spec maps onto them.

A row has one *block* per metric it ever counted (allocated on first use, so a metric nobody
counts costs four bytes). A block is the slots of all rings side by side, plus a total. Slot
`b % buckets` of a ring holds bucket `b` while `b` is among the newest `buckets` of the row.

A row's sequence is a run of entries in a common arena: a set of what the declared columns say,
sorted by (time, hash of the rest).
"""

from functools import lru_cache
from typing import Final, NamedTuple

import mmh3
import numpy as np
from numpy.typing import NDArray

from features.spec import SEQUENCE_COLUMNS, ActivityView, Metric

Ints = NDArray[np.int64]

TIME, HASH, ITEM, AUTHOR, CATEGORY, ACTION, VALUE = range(7)
ENTRY: Final = 7
"""Columns of one sequence entry in the arena."""

NEVER: Final = -1
"""`newest` of a row that holds nothing."""

COUNTS_FIELD: Final = "counts"
LISTS_FIELD: Final = "lists"
"""The stored fields that hold the packs of a view's counters and of its sequences."""


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
    metric_id: Ints
    adds_total: NDArray[np.bool_]
    adds_ring: NDArray[np.bool_]
    """[metric], [metric, ring]: whether facts count there."""
    adds_first: bool
    keeps_total: NDArray[np.bool_]
    """[metric]: whether its total is stored."""
    stored_width: Ints
    """[w]: the widths of rings as packs name them (`width_code`), ascending."""
    stored_ring: Ints
    """[metric, w]: the ring of that width that is stored, −1 for none."""
    sequence_of: NDArray[np.bool_]
    """[action, sequence]: whether facts of the action are listed there."""
    keeps_action: NDArray[np.bool_]
    """[action, sequence]: whether entries of the action are kept there."""
    sequence_length: Ints
    sequence_id: Ints
    keeps: NDArray[np.bool_]
    """[sequence, arena column]: whether entries keep it."""
    only_action: Ints
    """[sequence]: the action that every entry has which does not keep its own."""
    field_kind: Ints
    """[field]: one of the kinds below."""
    action_id: Ints
    action_hash: Ints
    """[action]: the action in packs; in the order of entries."""


COUNTS, LISTS, FIRST, LAST = range(4)


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


def stable_id(name: str) -> int:
    """24 bits that stand for a metric, an action or a sequence inside packs, whatever the plan."""
    return mmh3.hash(name, signed=False) & 0xFF_FF_FF


def metric_name(metric: Metric) -> str:
    """What a metric is called where its id comes from: `click`, `click.value`."""
    return metric.action if metric.amount == "count" else f"{metric.action}.value"


UNITS_MS: Final = (1, 1000, 60_000, 3_600_000)


def width_code(width_ms: int) -> int:
    """A ring's width in a pack: 4 × its number of units + the unit, the largest that divides it."""
    unit = max(u for u, ms in enumerate(UNITS_MS) if width_ms % ms == 0)
    return width_ms // UNITS_MS[unit] * 4 + unit


class _Same:
    """A value that equals itself alone: hashing a view takes longer than reading a row of it."""

    __slots__ = ("it",)

    def __init__(self, it: ActivityView) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.it is self.it

    def __hash__(self) -> int:
        return id(self.it)


class Shape(NamedTuple):
    """A view's layout, and what its numbers stand for."""

    layout: Layout
    fields: tuple[str, ...]
    """The stored fields, in the order rows are encoded."""
    metrics: tuple[Metric, ...]
    sequences: tuple[str, ...]


def shape_of(
    view: ActivityView, actions: tuple[str, ...], others: tuple[ActivityView, ...] = ()
) -> Shape:
    """The layout of a view's rows.

    `others` are the same view in other plans, whose blocks may fold into the same rows: what those
    count is kept, and not counted.
    """
    return _shape_of(_Same(view), actions, tuple(map(_Same, others)))


@lru_cache(maxsize=64)
def _shape_of(same: _Same, actions: tuple[str, ...], others: tuple[_Same, ...]) -> Shape:
    own = same.it
    view = _widened(own, [other.it for other in others])
    shapes = tuple(dict.fromkeys((ring.width_ms, ring.buckets) for ring in view.rings))
    metrics = tuple(sorted(view.metrics, key=_metric_id))
    metric = {m: i for i, m in enumerate(metrics)}
    mine = set(own.metrics)
    counted = [
        [place for m, place in metric.items() if m.action == action and m in mine]
        for action in actions
    ]
    padded = max(1, *(len(c) for c in counted), 1)
    adds_ring = np.zeros((len(metric), len(shapes)), np.bool_)
    for ring in own.rings:
        adds_ring[metric[ring.metric], shapes.index((ring.width_ms, ring.buckets))] = True
    listed = {sequence.name: sequence.actions for sequence in own.sequences}
    starts = np.cumsum([0, *(buckets for _, buckets in shapes)])
    widths = sorted({width_code(width) for width, _ in shapes})
    stored_ring = np.full((len(metric), len(widths)), -1, np.int64)
    for ring in view.rings:
        place = metric[ring.metric], widths.index(width_code(ring.width_ms))
        stored_ring[place] = shapes.index((ring.width_ms, ring.buckets))
    fields = stored_fields(view)
    layout = Layout(
        ring_width=np.array([w for w, _ in shapes], np.int64),
        ring_buckets=np.array([n for _, n in shapes], np.int64),
        ring_start=starts.astype(np.int64),
        metrics_of=np.array([c + [-1] * (padded - len(c)) for c in counted], np.int64),
        adds_value=np.array([m.amount == "value" for m in metrics], np.bool_),
        metric_id=np.array([_metric_id(m) for m in metrics], np.int64),
        adds_total=np.array([m in {t.metric for t in own.totals} for m in metric], np.bool_),
        adds_ring=adds_ring,
        adds_first=own.first_seen is not None,
        keeps_total=np.array([m in {t.metric for t in view.totals} for m in metric], np.bool_),
        stored_width=np.array(widths, np.int64),
        stored_ring=stored_ring,
        sequence_of=np.array(
            [[action in listed.get(s.name, ()) for s in view.sequences] for action in actions],
            np.bool_,
        ).reshape(len(actions), len(view.sequences)),
        keeps_action=np.array(
            [[action in s.actions for s in view.sequences] for action in actions], np.bool_
        ).reshape(len(actions), len(view.sequences)),
        sequence_length=np.array([s.length for s in view.sequences], np.int64),
        sequence_id=np.array([stable_id(s.name) for s in view.sequences], np.int64),
        keeps=np.array(
            [[_COLUMNS.get(c) in s.columns for c in range(ENTRY)] for s in view.sequences], np.bool_
        ).reshape(len(view.sequences), ENTRY),
        only_action=np.array(
            [actions.index(listed.get(s.name, s.actions)[0]) for s in view.sequences], np.int64
        ),
        field_kind=np.array([kind for _, kind in fields], np.int64),
        action_id=np.array([stable_id(action) for action in actions], np.int64),
        action_hash=np.array([mmh3.hash64(action)[0] for action in actions], np.int64),
    )
    names = tuple(name for name, _ in fields)
    return Shape(layout, names, metrics, tuple(s.name for s in view.sequences))


def _metric_id(metric: Metric) -> int:
    return stable_id(metric_name(metric))


def _widened(own: ActivityView, others: list[ActivityView]) -> ActivityView:
    """A view with all that it and its likes keep, in an order that no declaration decides."""
    views = [own, *others]
    rings = {(r.metric, r.width_ms): r for view in reversed(views) for r in view.rings}
    totals = {t.metric: t for view in views for t in view.totals}
    sequences = {s.name: s for view in reversed(views) for s in view.sequences}
    actions: dict[str, dict[str, None]] = {name: {} for name in sequences}
    for view in views:
        for sequence in view.sequences:
            actions[sequence.name] |= dict.fromkeys(sequence.actions)
    return ActivityView(
        name=own.name,
        entity=own.entity,
        rings=tuple(rings[key] for key in sorted(rings, key=lambda k: (_metric_id(k[0]), k[1]))),
        totals=tuple(totals[m] for m in sorted(totals, key=_metric_id)),
        sequences=tuple(
            sequences[name].model_copy(update={"actions": tuple(actions[name])})
            for name in sorted(sequences, key=stable_id)
        ),
        first_seen=next((v.first_seen for v in views if v.first_seen), None),
        last_seen=next((v.last_seen for v in views if v.last_seen), None),
    )


def empty_arrays(layout: Layout, rows: int) -> Arrays:
    """State of `rows` rows that hold nothing, with room for one full one."""
    sequences, metrics = len(layout.sequence_length), len(layout.adds_value)
    blocks, entries = max(rows, metrics), max(rows, int(layout.sequence_length.sum()))
    return Arrays(
        newest=np.full(rows, NEVER, np.int64),
        first=np.full(rows, NEVER, np.int64),
        block=np.full((rows, metrics), -1, np.int64),
        slots=np.zeros((blocks, int(layout.ring_start[-1])), np.int64),
        total=np.zeros(blocks, np.int64),
        start=np.zeros((rows, sequences), np.int64),
        length=np.zeros((rows, sequences), np.int64),
        room=np.zeros((rows, sequences), np.int64),
        arena=np.zeros((entries, ENTRY), np.int64),
        used=np.zeros(2, np.int64),
    )


_COLUMNS: Final = dict(zip((ITEM, AUTHOR, CATEGORY, ACTION, VALUE), SEQUENCE_COLUMNS, strict=True))


def stored_fields(view: ActivityView) -> tuple[tuple[str, int], ...]:
    """Name and kind of each stored field of a view."""
    fields = [(COUNTS_FIELD, COUNTS)]
    fields += [(LISTS_FIELD, LISTS)] if view.sequences else []
    fields += [(view.first_seen, FIRST)] if view.first_seen else []
    fields += [(view.last_seen, LAST)] if view.last_seen else []
    return tuple(fields)
