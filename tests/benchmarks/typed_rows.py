"""The layout that was not chosen: a typed Feast field for each ring, total and column of a list."""

from collections.abc import Mapping, Sequence
from typing import Any

from features.codec import FeatureValue, encode_value, field_name
from features.layout import metric_name
from features.spec import ActivityView, Metric, SequenceSpec
from features.unpack import Counted, Entry
from features.updates import event_hash


def schema(view: ActivityView) -> dict[str, str]:
    """The typed fields of a view, and their types."""
    found = {ring_field(ring.metric, ring.width_ms): "Array(Int64)" for ring in view.rings}
    found |= {total_field(total.metric): "Int64" for total in view.totals}
    found |= {name: "Int64" for name in (view.first_seen, view.last_seen) if name}
    for sequence in view.sequences:
        for column in ("time", "event", *sequence.columns):
            numbers = column in ("time", "event", "value")
            name = list_field(sequence, column)
            found[name] = "Array(Int64)" if numbers else "Array(String)"
    return found


def ring_field(metric: Metric, width_ms: int) -> str:
    return f"{metric_name(metric).replace('.', '_')}_{width_ms}"


def total_field(metric: Metric) -> str:
    return f"{metric_name(metric).replace('.', '_')}_total"


def list_field(sequence: SequenceSpec, column: str) -> str:
    return f"{sequence.name}_{column}"


def typed_fields(view: ActivityView, row: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The hash fields of a row given by its metrics, sequences and times seen, by name.

    A ring is an Array(Int64) of gaps and amounts from the oldest bucket on, a total an Int64, a
    sequence parallel lists, one of them the hashes of event ids that told facts of one time apart.
    """
    found: dict[str, FeatureValue] = {}
    for ring in view.rings:
        counted: Counted | None = row.get(metric_name(ring.metric))
        if counted is not None and ring.width_ms in counted.rings:
            found[ring_field(ring.metric, ring.width_ms)] = _gaps(counted.rings[ring.width_ms])
    for total in view.totals:
        counted = row.get(metric_name(total.metric))
        if counted is not None:
            found[total_field(total.metric)] = counted.total
    for name in (view.first_seen, view.last_seen):
        if name and row[name] is not None:
            found[name] = row[name]
    for sequence in view.sequences:
        entries: Sequence[Entry] = row.get(sequence.name, ())
        if entries:
            found[list_field(sequence, "time")] = [e.time for e in entries]
            hashes = [event_hash(f"{view.name} {entry}") for entry in entries]
            found[list_field(sequence, "event")] = hashes
            for column in sequence.columns:
                listed: Any = [getattr(entry, column) for entry in entries]
                if column != "value":
                    listed = [text or "" for text in listed]
                found[list_field(sequence, column)] = listed
    types = schema(view)
    return {field_name(view.name, n): encode_value(v, types[n]) for n, v in found.items()}


def _gaps(buckets: Mapping[int, int]) -> list[int]:
    out, previous = [], 0
    for bucket in sorted(buckets):
        out += [bucket - previous, buckets[bucket]]
        previous = bucket
    return out
