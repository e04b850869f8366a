"""Somebody's own JSON records into updates: what route does for a project of plain views.

A view takes a record that carries its join keys and its time. A record that no view takes is a
dead letter, and so is one with a key or a time that is there and wrong.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from features.codec import INT32_TYPE, INT64_TYPE, STRING_TYPE, encode_int64
from features.events import RECORD_BYTES_MAX, BadEvent
from features.exact import canonical, pack_number
from features.plain_values import ENCODERS, microseconds
from features.spec import KeyColumn, PlainView, Plan
from features.updates import Columns, Payload, UpdateWriter, event_hash

KEY_CHARS_MAX: Final = 256
_REASON_CHARS_MAX: Final = 300
_ONE: Final = pack_number(1)


class Change(NamedTuple):
    """What one record says to one view."""

    view: int
    key: bytes
    time_us: int
    payload: Payload
    """Created time, then the fields, then the aggregated columns as packed numbers."""


class PlainEvent(NamedTuple):
    """A record that at least one view takes."""

    event_time: int
    """Milliseconds; the latest, where views read different columns."""
    event_id: str | None
    """None: nothing but its offset tells it from its repeats."""
    changes: tuple[Change, ...]


class _Wrong(Exception):
    """What is wrong with a record."""


class PlainReader:
    """A plan of plain views, turned around: from a record to what changes. Pure."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.copies = 1 + len(plan.plain)
        first = len(plan.views) - len(plan.plain)
        self._views = [_ViewReader(first + n, v, plan.project) for n, v in enumerate(plan.plain)]
        self._event_id = next((v.event_id_column for v in plan.plain if v.event_id_column), None)

    def parse(self, values: Sequence[bytes | None]) -> list[PlainEvent | BadEvent]:
        """One result per record, in order; a bad record neither raises nor touches others."""
        return [self._parse(value) for value in values]

    def identity(self, event: PlainEvent) -> int | None:
        """What repeats of an event share; None where a record is known by its offset alone."""
        return None if event.event_id is None else event_hash(event.event_id)

    def refusal(self, event: PlainEvent) -> str | None:
        """Nothing is left to refuse of a record that was parsed."""
        return None

    def update_count(self, event: PlainEvent) -> int:
        """How many updates an event makes."""
        return len(event.changes)

    def updates(self, events: Iterable[tuple[int, PlainEvent]]) -> Columns:
        """The updates of (source offset, event) pairs, in their order."""
        writer = UpdateWriter()
        keys: dict[bytes, int] = {}
        for offset, event in events:
            for change in event.changes:
                key = keys.setdefault(change.key, len(keys))
                milliseconds, rest = divmod(change.time_us, 1000)
                place = writer.share(offset, milliseconds, 0, value=rest)
                writer.add_payload(change.view, key, place, change.payload)
        writer.keys = list(keys)
        return writer.columns()

    def _parse(self, value: bytes | None) -> PlainEvent | BadEvent:
        if value is None:
            return BadEvent("no value (a tombstone)")
        if len(value) > RECORD_BYTES_MAX:
            return BadEvent(f"record of {len(value)} bytes is over the limit of {RECORD_BYTES_MAX}")
        try:
            record = from_json(value)
        except ValueError as error:
            return BadEvent(_one_line(f"not JSON: {error}"))
        if not isinstance(record, dict):
            return BadEvent("not a JSON object")
        try:
            return self._read(record)
        except _Wrong as wrong:
            return BadEvent(_one_line(str(wrong)))

    def _read(self, record: dict[str, Any]) -> PlainEvent:
        changes = []
        missing = ""
        for view in self._views:
            lacks = view.lacks(record)
            if lacks is None:
                changes.append(view.change(record))
            else:
                missing = missing or f"view {view.name!r}: no {lacks}"
        if not changes:
            raise _Wrong(missing)
        event_id = None
        if self._event_id is not None:
            event_id = record.get(self._event_id)
            if type(event_id) is int:
                event_id = str(event_id)
            if not isinstance(event_id, str) or not 0 < len(event_id) <= KEY_CHARS_MAX:
                raise _Wrong(f"{self._event_id}: not an id of 1 to {KEY_CHARS_MAX} characters")
        latest = max(change.time_us for change in changes)
        return PlainEvent(latest // 1000, event_id, tuple(changes))


class _ViewReader:
    """One view's share of a record."""

    def __init__(self, place: int, view: PlainView, project: str) -> None:
        self.name = view.name
        self._place, self._view = place, view
        self._needed = (*(key.column for key in view.keys), view.time_column)
        self._fields = [(field.column, ENCODERS[field.dtype]) for field in view.fields]
        numeric = {tile.column for tile in view.tiles if tile.sums or tile.extremes}
        self._inputs = [(column, column in numeric) for column in view.inputs]
        names = b"".join(
            struct.pack("<II", STRING_TYPE, len(name)) + name
            for name in (key.join_key.encode() for key in view.keys)
        )
        self._prefix = struct.pack("<I", len(view.keys)) + names
        self._suffix = project.encode()

    def lacks(self, record: dict[str, Any]) -> str | None:
        """The first column that the view cannot do without and the record does not carry."""
        for column in self._needed:
            if record.get(column) is None:
                return column
        return None

    def change(self, record: dict[str, Any]) -> Change:
        """What the record says; raises `_Wrong`."""
        view = self._view
        key = [self._prefix]
        key += [_key_value(part, record[part.column]) for part in view.keys]
        key.append(self._suffix)
        try:
            time_us = microseconds(record[view.time_column], view.time_unit)
        except ValueError as error:
            raise _Wrong(f"{view.time_column}: {error}") from None
        payload = [self._created(record)]
        for column, encode in self._fields:
            value = record.get(column)
            if value is None:
                payload.append(b"")
                continue
            try:
                payload.append(encode(value))
            except (TypeError, ValueError, OverflowError, struct.error):
                payload.append(b"")
        for column, numeric in self._inputs:
            value = record.get(column)
            if value is None:
                payload.append(b"")
            elif numeric:
                number = canonical(value)
                payload.append(b"" if number is None else pack_number(number))
            else:
                payload.append(_ONE)
        return Change(self._place, b"".join(key), time_us, tuple(payload))

    def _created(self, record: dict[str, Any]) -> bytes:
        column = self._view.created_column
        if column is None or record.get(column) is None:
            return b""
        try:
            return encode_int64(microseconds(record[column], self._view.time_unit))
        except ValueError:
            return b""


def _key_value(part: KeyColumn, value: object) -> bytes:
    """One value of an entity key, sized and typed as Feast does it."""
    if part.value_type == STRING_TYPE:
        text = str(value) if type(value) is int else value
        if not isinstance(text, str) or not 0 < len(text) <= KEY_CHARS_MAX:
            raise _Wrong(f"{part.column}: not an id of 1 to {KEY_CHARS_MAX} characters")
        content = text.encode()
        return struct.pack("<II", STRING_TYPE, len(content)) + content
    try:
        if type(value) is not int:
            raise TypeError
        if part.value_type == INT32_TYPE:
            return struct.pack("<IIi", INT32_TYPE, 4, value)
        return struct.pack("<IIq", INT64_TYPE, 8, value)
    except (TypeError, struct.error):
        bits = 32 if part.value_type == INT32_TYPE else 64
        raise _Wrong(f"{part.column}: not an integer of {bits} bits") from None


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_REASON_CHARS_MAX])
