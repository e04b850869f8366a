"""Activity rows recounted the slow way, from raw facts with dicts: what the fold must equal."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mmh3
import numpy as np

from features.activity import ActivityTable
from features.codec import decode_value
from features.fold import SUM_MAX
from features.layout import metric_name
from features.spec import ActivityView, SequenceSpec
from features.strings import Strings
from features.unpack import Counted, Entry, newest_time, unpack_counts, unpack_lists
from features.updates import Facts


class Fact(NamedTuple):
    """One fact on one row, in words."""

    time: int
    action: str
    item: str | None = None
    author: str | None = None
    category: str | None = None
    value: int = 0


def fold(
    table: ActivityTable,
    actions: Sequence[str],
    strings: Strings,
    facts: Sequence[Fact],
    row: int = 0,
) -> None:
    """Fold facts into one row of a table that was made with these actions."""
    columns = Facts(
        rows=np.full(len(facts), row, np.int64),
        times=np.array([f.time for f in facts], np.int64),
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
    """The fields of one row as plain values: metrics and sequences by name, times seen."""
    return plain(table.view, {n: decode_value(v) for n, v in values(table, row).items()})


def plain(view: ActivityView, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row as `decoded` gives them, from the values that Feast gives."""
    actions = sorted(view.actions)
    found: dict[str, Any] = {
        name: fields.get(name) for name in (view.first_seen, view.last_seen) if name
    }
    found |= unpack_counts(fields.get("counts"), [metric_name(m) for m in view.metrics])
    found |= unpack_lists(fields.get("lists"), [s.name for s in view.sequences], actions)
    if fields.get("counts") and view.last_seen:
        assert newest_time(fields["counts"]) == fields[view.last_seen]
    return found


def recounted(view: ActivityView, facts: Sequence[Fact]) -> dict[str, Any]:
    """The fields a row must have after these facts, in whatever order they came."""
    facts = [fact for fact in facts if fact.action in view.actions]
    newest = max((fact.time for fact in facts), default=-1)
    found: dict[str, Any] = {}
    for metric in view.metrics:
        of = [
            (f.time, f.value if metric.amount == "value" else 1)
            for f in facts
            if f.action == metric.action
        ]
        kept = any(total.metric == metric for total in view.totals)
        counted = Counted(min(sum(amount for _, amount in of), SUM_MAX) if kept else 0)
        for ring in view.rings:
            buckets = _ring(of, ring.width_ms, ring.buckets, newest)
            if ring.metric == metric and buckets:
                counted.rings[ring.width_ms] = buckets
        if counted != Counted(0):
            found[metric_name(metric)] = counted
    if view.first_seen:
        found[view.first_seen] = min((f.time for f in facts), default=None)
    if view.last_seen:
        found[view.last_seen] = newest if facts else None
    for sequence in view.sequences:
        entries = newest_entries(sequence, facts)
        if entries:
            found[sequence.name] = entries
    return found


def _ring(of: Sequence[tuple[int, int]], width: int, count: int, newest: int) -> dict[int, int]:
    buckets: dict[int, int] = {}
    for time, amount in of:
        bucket = time // width
        if bucket > newest // width - count and amount:
            buckets[bucket] = min(buckets.get(bucket, 0) + amount, SUM_MAX)
    return buckets


def newest_entries(sequence: SequenceSpec, facts: Sequence[Fact]) -> list[Entry]:
    """What a sequence lists, oldest first: each entry once, by time, then by a hash of the rest."""
    listed = {}
    for fact in facts:
        if fact.action in sequence.actions:
            kept = {c: getattr(fact, c) for c in sequence.columns}
            blank = {"item": None, "author": None, "category": None, "action": None, "value": 0}
            entry = Entry(fact.time, **blank | kept)
            listed[entry.time, content_hash(sequence, entry)] = entry
    return [listed[key] for key in sorted(listed)][-sequence.length :]


def content_hash(sequence: SequenceSpec, entry: Entry) -> int:
    """What orders entries of one time, computed apart from the fold."""
    state = _mixed(mmh3.hash64(entry.action)[0] if entry.action else 0, entry.value)
    for text in (entry.item, entry.author, entry.category):
        state = _mixed(state, 0 if text is None else mmh3.hash64(text)[0])
    return state - 2**64 if state >= 2**63 else state


def _mixed(state: int, number: int) -> int:
    state = (state * 31 + number) % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        state = (state ^ state >> 33) * factor % 2**64
    return state ^ state >> 33
