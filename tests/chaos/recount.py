"""The rows a log must end up as, recounted from every record it holds, in one pass.

Nothing of `route` or `aggregate` runs here: no blocks, no batches, no high-water marks. A record
counts unless its event id occurred within the horizon before it in its partition, or it is bad;
each record, by (partition, offset), has exactly one fate.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from features.entities import EntityTable, Hash
from features.events import BadEvent, Event, parse_events
from features.marker import Marker
from features.project import Projection
from features.spec import Plan
from features.strings import Strings
from streaming.records import Record
from tests.pipeline import unmarked

Origin = tuple[int, int]
"""Partition and offset."""


@dataclass
class Recount:
    """What a log says."""

    rows: dict[bytes, Hash] = field(default_factory=dict)
    accepted: int = 0
    repeated: int = 0
    dead: set[Origin] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    """Every event id in the log, accepted or not."""


def recount(log: Iterable[Record], plan: Plan, horizon: int, max_ahead_ms: int) -> Recount:
    """The rows and fates of a whole log, given in any order of partitions."""
    found = Recount()
    projection = Projection(plan)
    last: dict[int, dict[str, int]] = defaultdict(dict)
    counted: list[tuple[int, Event]] = []
    for record in sorted(log, key=lambda r: (r.partition, r.offset)):
        (event,) = parse_events([record.value])
        if isinstance(event, BadEvent):
            found.dead.add((record.partition, record.offset))
            continue
        seen = last[record.partition]
        before = seen.get(event.event_id)
        seen[event.event_id] = record.offset
        found.ids.add(event.event_id)
        if before is not None and record.offset - before <= horizon:
            found.repeated += 1
        elif event.event_time - record.append_time > max_ahead_ms or projection.refusal(event):
            found.dead.add((record.partition, record.offset))
        else:
            counted.append((record.offset, event))
    found.accepted = len(counted)
    found.rows = _folded(counted, plan, projection)
    return found


def _folded(
    events: list[tuple[int, Event]], plan: Plan, projection: Projection
) -> dict[bytes, Hash]:
    strings = Strings()
    tables = {e.join_key: EntityTable(plan, e, strings) for e in plan.entities}
    updates = projection.updates(events)
    touched: dict[str, dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]] = defaultdict(dict)
    for number in np.unique(updates.view).tolist():
        view = plan.views[number]
        entity = tables[view.entity.join_key]
        chosen = np.flatnonzero(updates.view == number)
        keys = updates.key[chosen].tolist()
        rows = np.array([entity.row(updates.keys[key]) for key in keys], np.int64)
        entity.tables[view.name].folding(updates, chosen, rows)(0, len(chosen))
        touched[view.entity.join_key][view.name] = np.unique(rows)
    made: dict[bytes, Hash] = {}
    for join_key, views in touched.items():
        entity = tables[join_key]
        entity.markers[:] = [Marker(1, 0, 0)] * len(entity)
        for write in entity.writes(views):
            made[write.key] = dict(zip(write.fields[::2], write.fields[1::2], strict=True))
    return unmarked(made)
