"""What an archived log holds of each record: where it stood, its bytes, and what they say.

`events` are parsed once, when they are archived, so that replay decodes columns and not JSON; the
bytes stand beside them, and files of another PARSED version are parsed from those again. Of
`updates` only headers are kept: they tell which events a marker of a row covers.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from features.events import (
    BadEvent,
    EngagementEvent,
    Event,
    ImpressionEvent,
    ItemEvent,
    UserEvent,
    parse_events,
)
from features.updates import event_hash
from streaming.blocks import Span, read_header
from streaming.records import Record

PARSED: Final = "1"
"""Version of the columns that are made of an event; it changes when what they say does."""
PARSED_KEY: Final = b"headrace.parsed"

_TIME: Final = pa.timestamp("ms", "UTC")
_PLACE: Final = [("offset", pa.int64()), ("append_time", _TIME), ("key", pa.binary())]
_ITEM: Final = pa.struct(
    [
        ("item_id", pa.string()),
        ("author_id", pa.string()),
        ("categories", pa.list_(pa.string())),
    ]
)

EVENTS: Final = pa.schema(
    [
        *_PLACE,
        ("value", pa.binary()),
        ("fault", pa.string()),
        ("type", pa.string()),
        ("identity", pa.int64()),
        ("event_id", pa.string()),
        ("event_time", _TIME),
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("surface", pa.string()),
        ("action", pa.string()),
        ("position", pa.int64()),
        ("amount", pa.int64()),
        ("items", pa.list_(_ITEM)),
        ("about", pa.binary()),
    ],
    metadata={PARSED_KEY: PARSED.encode()},
)
"""`fault` says why a record is no event. `items` are those shown, or the one acted upon. `about`
are the bytes again of what says something about an item or a user."""

RANKINGS: Final = pa.schema(
    [
        *_PLACE,
        ("value", pa.binary()),
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("surface", pa.string()),
        ("now", _TIME),
        ("model", pa.string()),
        ("items", pa.list_(pa.string())),
        ("score", pa.list_(pa.float64())),
    ]
)
"""`value` is the record as it was served, vectors and all."""

BLOCKS: Final = pa.schema(
    [
        *_PLACE[:2],
        ("plan", pa.string()),
        ("generation", pa.int64()),
        ("incarnation", pa.string()),
        ("spans", pa.list_(pa.struct([(name, pa.int64()) for name in Span._fields]))),
    ]
)
"""Of a span `source` is the partition of `events`, `first` and `last` the offsets there that the
block covers."""


class LogKind(NamedTuple):
    """How one kind of topic is archived."""

    name: str
    schema: pa.Schema
    batch: Callable[[Sequence[Record]], pa.RecordBatch]


def event_batch(
    records: Sequence[Record], parsed: Sequence[Event | BadEvent] | None = None
) -> pa.RecordBatch:
    """Records of `events`, good and bad; they are parsed unless they were before."""
    if parsed is None:
        parsed = parse_events([record.value for record in records])
    says = [_says(event) for event in parsed]
    columns = _place(records) | {"value": [record.value for record in records]}
    for name in EVENTS.names[len(columns) : -1]:
        columns[name] = [one.get(name) for one in says]
    columns["about"] = [
        record.value if isinstance(event, ItemEvent | UserEvent) else None
        for record, event in zip(records, parsed, strict=True)
    ]
    return _batch(columns, EVENTS)


def ranking_batch(records: Sequence[Record]) -> pa.RecordBatch:
    """Records of `rankings`; what is none keeps its bytes alone."""
    found = [_object(record.value) for record in records]
    columns = _place(records) | {"value": [record.value for record in records]}
    for name in RANKINGS.names[len(columns) :]:
        columns[name] = [one.get(name) for one in found]
    return _batch(columns, RANKINGS)


def block_batch(records: Sequence[Record]) -> pa.RecordBatch:
    """The headers of blocks of `updates`."""
    headers = [read_header(record.value or b"") for record in records]
    columns = _place(records)
    del columns["key"]
    for name in BLOCKS.names[len(columns) : -1]:
        columns[name] = [getattr(header, name) for header in headers]
    columns["spans"] = [[span._asdict() for span in header.spans] for header in headers]
    return _batch(columns, BLOCKS)


EVENT_LOG: Final = LogKind("events", EVENTS, event_batch)
RANKING_LOG: Final = LogKind("rankings", RANKINGS, ranking_batch)
BLOCK_LOG: Final = LogKind("updates", BLOCKS, block_batch)
KINDS: Final = {kind.name: kind for kind in (EVENT_LOG, RANKING_LOG, BLOCK_LOG)}


def _batch(columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _place(records: Iterable[Record]) -> dict[str, list[Any]]:
    rows = [(record.offset, record.append_time, record.key) for record in records]
    names = ("offset", "append_time", "key")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _says(event: Event | BadEvent) -> dict[str, Any]:
    """What an event says, by column."""
    if isinstance(event, BadEvent):
        return {"fault": event.reason}
    said: dict[str, Any] = {
        "type": event.type,
        "identity": event_hash(event.event_id),
        "event_id": event.event_id,
        "event_time": event.event_time,
    }
    if isinstance(event, ItemEvent):
        return said
    said["user_id"] = event.user_id
    if isinstance(event, ImpressionEvent):
        said |= {"request_id": event.request_id, "surface": event.surface}
        said["items"] = [_item(i.item_id, i.author_id, i.categories) for i in event.items]
    elif isinstance(event, EngagementEvent):
        for name in ("request_id", "surface", "action", "position"):
            said[name] = getattr(event, name)
        said["amount"] = event.value
        said["items"] = [_item(event.item_id, event.author_id, event.categories)]
    return said


def _item(item_id: str, author_id: str | None, categories: Sequence[str]) -> dict[str, Any]:
    return {"item_id": item_id, "author_id": author_id, "categories": categories}


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(value or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
