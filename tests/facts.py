"""Activity rows recounted the slow way, from raw facts with dicts: what the fold must equal."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from features.activity import ActivityTable
from features.codec import decode_value
from features.fold import SUM_MAX
from features.spec import ActivityView, SequenceSpec
from features.strings import Strings
from features.updates import Facts


class Fact(NamedTuple):
    """One fact on one row, in words."""

    time: int
    event: int
    action: str
    item: str | None = None
    author: str | None = None
    category: str | None = None
    value: int = 0


def fold(table: ActivityTable, strings: Strings, facts: Sequence[Fact], row: int = 0) -> None:
    """Fold facts into one row of a table."""
    actions = list(table._actions)  # noqa: SLF001 - the order the table was made with
    columns = Facts(
        rows=np.full(len(facts), row, np.int64),
        times=np.array([f.time for f in facts], np.int64),
        events=np.array([f.event for f in facts], np.int64),
        actions=np.array([actions.index(f.action) for f in facts], np.int64),
        items=strings.codes(f.item for f in facts),
        authors=strings.codes(f.author for f in facts),
        categories=strings.codes(f.category for f in facts),
        values=np.array([f.value for f in facts], np.int64),
    )
    table.fold(columns, 0, len(facts))


def values(table: ActivityTable, row: int = 0) -> dict[str, bytes]:
    """The encoded fields of one row, by name."""
    content, ends = table.encode(np.array([row], np.int64))
    bounds = [0, *ends.tolist()]
    return {
        name: content[a:b] for name, a, b in zip(table.fields, bounds, bounds[1:], strict=False)
    }


def decoded(table: ActivityTable, row: int = 0) -> dict[str, Any]:
    """The fields of one row as plain values; None where there is nothing."""
    return {name: decode_value(value) for name, value in values(table, row).items()}


def recounted(view: ActivityView, facts: Sequence[Fact]) -> dict[str, Any]:
    """The fields a row must have after these facts, in whatever order they came."""
    facts = [fact for fact in facts if fact.action in view.actions]
    newest = max((fact.time for fact in facts), default=-1)
    found: dict[str, Any] = {}
    for ring in view.rings:
        buckets: dict[int, int] = {}
        for fact in facts:
            bucket = fact.time // ring.width_ms
            if (
                fact.action == ring.metric.action
                and bucket > newest // ring.width_ms - ring.buckets
            ):
                amount = fact.value if ring.metric.amount == "value" else 1
                buckets[bucket] = min(buckets.get(bucket, 0) + amount, SUM_MAX)
        found[ring.field] = _gaps({b: n for b, n in buckets.items() if n}) or None
    for total in view.totals:
        counted = [f for f in facts if f.action == total.metric.action]
        amounts = [f.value if total.metric.amount == "value" else 1 for f in counted]
        found[total.field] = min(sum(amounts), SUM_MAX) or None
    if view.first_seen:
        found[view.first_seen] = min((f.time for f in facts), default=None)
    if view.last_seen:
        found[view.last_seen] = newest if facts else None
    for sequence in view.sequences:
        entries = newest_entries(sequence, facts)
        for column in ("time", "event", *sequence.columns):
            listed = [getattr(entry, column) for entry in entries]
            if column in ("item", "author", "category"):
                listed = [text or "" for text in listed]
            found[sequence.field(column)] = listed or None
    return found


def newest_entries(sequence: SequenceSpec, facts: Sequence[Fact]) -> list[Fact]:
    """The newest facts a sequence lists, oldest first, each (time, event) once."""
    listed = {(f.time, f.event): f for f in facts if f.action in sequence.actions}
    return [listed[key] for key in sorted(listed)][-sequence.length :]


def _gaps(buckets: dict[int, int]) -> list[int]:
    out, previous = [], 0
    for bucket in sorted(buckets):
        out += [bucket - previous, buckets[bucket]]
        previous = bucket
    return out
