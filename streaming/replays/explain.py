"""Why a row differs: what each side says in words, and what single fault would make them agree."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.compute as pc

from features.codec import decode_time, decode_value, field_name, updated_at_field
from features.entities import EntityTable, Hash
from features.errors import BadInput
from features.events import BadEvent
from features.marker import Marker
from features.project import Projection
from features.spec import ActivityView, Plan, StoredView
from features.strings import Strings
from features.unpack import unpack_counts, unpack_lists
from features.updates import event_hash
from streaming.replays.compare import Difference
from streaming.replays.recorded import RAW, Place, Recorded

EVENTS_MAX: Final = 400
"""Of a row, how many events are tried one by one."""
SHIFTS_MS: Final = [sign * half * 1_800_000 for half in range(1, 29) for sign in (1, -1)]
"""Half an hour to fourteen: whatever a time zone may be off by."""
LINES_MAX: Final = 12
ROWS_MAX: Final = 8
"""Rows that are looked at for what they have in common."""


class RowEvent(NamedTuple):
    """An event that touches one row, and where it stands in the log."""

    place: Place
    offset: int
    event: Any


def words(plan: Plan, view: StoredView, row: Hash) -> dict[str, str]:
    """What a view of a stored row says, fact by fact."""
    stamp = row.get(updated_at_field(view.name))
    said = {} if stamp is None else {"newest event": _time(decode_time(stamp))}
    if not isinstance(view, ActivityView):
        for name in _fields(plan, view):
            value = row.get(field_name(view.name, name))
            if value is not None:
                said[name] = str(decode_value(value))[:200]
        return said
    packs = {name: row.get(field_name(view.name, name)) for name in _fields(plan, view)}
    metrics = [m.action if m.amount == "count" else f"{m.action}.value" for m in view.metrics]
    for metric, counted in unpack_counts(_bytes(packs.get("counts")), metrics).items():
        said[f"{metric} in all"] = str(counted.total)
        for width, ring in counted.rings.items():
            for bucket, amount in ring.items():
                said[f"{metric} from {_time(bucket * width)} for {width // 1000} s"] = str(amount)
    names = [sequence.name for sequence in view.sequences]
    for name, entries in unpack_lists(_bytes(packs.get("lists")), names, plan.actions).items():
        for entry in entries:
            about = f"{entry.action or 'fact'} {entry.item} {entry.author} {entry.category}"
            said[f"{name}: {_time(entry.time)} {about} {entry.value}"] = "listed"
    return said


def lines(plan: Plan, difference: Difference) -> list[str]:
    """What the two sides of a difference say differently."""
    view = next(v for v in plan.views if v.name == difference.view)
    try:
        online, replayed = (words(plan, view, h) for h in (difference.online, difference.replayed))
    except BadInput as error:
        return [f"a side cannot be read: {error}"]
    found = [
        f"{fact}: online {online.get(fact, 'nothing')}, replayed {replayed.get(fact, 'nothing')}"
        for fact in sorted({*online, *replayed})
        if online.get(fact) != replayed.get(fact)
    ]
    more = len(found) - LINES_MAX
    return [*found[:LINES_MAX], *([f"and {more} more"] if more > 0 else [])]


def cause(plan: Plan, differences: Sequence[Difference], recorded: Recorded) -> str:
    """The single fault that makes the replayed rows agree with the online ones, if there is one.

    Several events may explain one row alike (counts do not tell two clicks of a minute apart), so
    the one that explains most rows is named.
    """
    rows = {one.key: one for one in reversed(differences[:ROWS_MAX])}
    votes: Counter[str] = Counter()
    for one in rows.values():
        votes.update([*dict.fromkeys(_causes(plan, one, recorded))])
    said, count = votes.most_common(1)[0]
    return f"{said} (that explains {count} of {len(rows)} rows that were looked at)"


def _causes(plan: Plan, difference: Difference, recorded: Recorded) -> Iterator[str]:
    """Every single fault that explains one row."""
    events = row_events(plan, difference, recorded)
    view = next(v for v in plan.views if v.name == difference.view)
    names = [updated_at_field(view.name)]
    names += [field_name(view.name, name) for name in _fields(plan, view)]
    goal = {name: difference.online[name] for name in names if name in difference.online}
    if not events:
        yield "no archived event touches this row: the events behind it were never archived"
        return
    if len(events) > EVENTS_MAX:
        yield f"more than {EVENTS_MAX} events touch this row, too many to try them one by one"
        return

    def makes_goal(some: Sequence[RowEvent], shift_ms: int = 0) -> bool:
        row = fold_row(plan, difference, some, shift_ms)
        return {name: row[name] for name in names if name in row} == goal

    found = False
    if makes_goal(events):
        yield "the archived events make the online row: this replay folded others"
        return
    for number, one in enumerate(events):
        if makes_goal([*events[:number], *events[number + 1 :]]):
            found = True
            yield f"online lacks {_event(one)}"
    for number, one in enumerate(events):
        if makes_goal([*events[: number + 1], *events[number:]]):
            found = True
            yield f"online counted {_event(one)} twice"
    for shift in SHIFTS_MS:
        if makes_goal(events, shift):
            found = True
            yield f"online is as if every event had happened {shift / 3_600_000:+g} h later"
    if not found:
        yield "no single event, lost, counted twice or shifted in time, explains it"


def row_events(plan: Plan, difference: Difference, recorded: Recorded) -> list[RowEvent]:
    """The events of the log that touch a row, each id once."""
    found: list[RowEvent] = []
    seen: set[int] = set()
    projection = Projection(plan)
    for place in recorded.places():
        for rows in recorded.rows(place, 0, None, RAW):
            near = pc.match_substring(rows.column("value"), difference.id.encode())
            some = rows.filter(near.fill_null(False))
            parsed = projection.parse(some.column("value").to_pylist())
            offsets = some.column("offset").to_pylist()
            for offset, event in zip(offsets, parsed, strict=True):
                if isinstance(event, BadEvent) or event_hash(event.event_id) in seen:
                    continue
                if difference.key in projection.updates([(offset, event)]).keys:
                    seen.add(event_hash(event.event_id))
                    found.append(RowEvent(place, offset, event))
    return found


def fold_row(
    plan: Plan, difference: Difference, events: Sequence[RowEvent], shift_ms: int = 0
) -> Hash:
    """The row that some events make."""
    table = EntityTable(plan, difference.entity, Strings())
    row = table.row(difference.key)
    moved = [_shifted(one.event, shift_ms) for one in events]
    updates = Projection(plan).updates(enumerate(moved))
    key = updates.keys.index(difference.key) if difference.key in updates.keys else -1
    touched = {}
    for number, view in enumerate(plan.views):
        chosen = np.flatnonzero((updates.view == number) & (updates.key == key))
        if len(chosen):
            rows = np.full(len(chosen), row, np.int64)
            table.tables[view.name].folding(updates, chosen, rows)(0, len(chosen))
            touched[view.name] = np.array([row], np.int64)
    table.markers[row] = Marker(0, 0, 0)
    for write in table.writes(touched):
        return dict(zip(write.fields[::2], write.fields[1::2], strict=True))
    return {}


def _shifted(event: Any, shift_ms: int) -> Any:
    if not shift_ms:
        return event
    return event.model_copy(update={"event_time": max(0, event.event_time + shift_ms)})


def _fields(plan: Plan, view: StoredView) -> Iterator[str]:
    yield from EntityTable(plan, view.entity, Strings()).tables[view.name].fields


def _bytes(value: bytes | None) -> bytes | None:
    found = decode_value(value) if value else None
    return found if isinstance(found, bytes) else None


def _event(one: RowEvent) -> str:
    event = one.event
    what = getattr(event, "action", event.type)
    return (
        f"event {event.event_id!r} ({what} at {_time(event.event_time)}, offset {one.offset} of "
        f"partition {one.place.partition})"
    )


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "milliseconds").partition("+")[0]
