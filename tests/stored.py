"""Rows between tables and stores, for tests: what a folded world writes, what a table holds."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from features.codec import MARKER_FIELD
from features.entities import ANY, EntityTable, Hash, RowWrite
from features.events import EngagementEvent, Event, ItemEvent
from features.latest import LatestTable
from features.layout import NEVER, Ints
from features.marker import Marker
from features.row_store import RowStore
from features.sparse_counts import SparseActivity
from features.spec import Plan
from features.tables import ReadTable
from ranker.tables.live_table import LiveTable
from ranker.tables.live_tables import LiveTables
from ranker.tables.refresh import LiveRows
from tests.plans import World


def feed_events(count: int, start: int = 0) -> Iterator[Event]:
    """Items (100 of them, in turn) and clicks on them by 7 users, with authors 0 to 9."""
    for i in range(start, start + count):
        item, author = f"i{i % 100}", str(i % 10)
        yield ItemEvent(
            type="item",
            event_id=f"item{i}",
            event_time=i,
            item_id=item,
            author_id=author,
            categories=[f"c{i % 13}"],
            created_at=i,
            attributes={"duration_ms": i / 8},
            embedding=[i / 4, -1.0, 0.5],
        )
        yield EngagementEvent(
            type="engagement",
            event_id=f"click{i}",
            event_time=i,
            user_id=f"u{i % 7}",
            item_id=item,
            action="click",
            author_id=author,
            value=i,
        )


def many_items(count: int) -> Iterator[Event]:
    """As many items, each with an embedding of 64 dimensions and one click."""
    for i in range(count):
        yield ItemEvent(
            type="item",
            event_id=f"item{i}",
            event_time=i,
            item_id=f"many{i}",
            author_id=f"{i % 500}",
            embedding=[i / 7 + d for d in range(64)],
        )
        yield EngagementEvent(
            type="engagement",
            event_id=f"click{i}",
            event_time=i,
            user_id="u",
            item_id=f"many{i}",
            action="click",
        )


def writes_of(world: World, offset: int, join_keys: Iterable[str] = ()) -> list[RowWrite]:
    """The writes of all rows of a world (or of some entities), marked with an offset."""
    writes: list[RowWrite] = []
    for join_key in join_keys or world.tables:
        table = world.tables[join_key]
        table.markers[:] = [Marker(1, 0, offset)] * len(table)
        writes += (write._replace(base=ANY) for write in table.writes(_known(table)))
    return writes


def held(table: EntityTable) -> dict[bytes, Hash]:
    """What a table holds, as the hashes a store would hold; empty rows are left out."""
    known = _known(table)
    for rows in known.values():
        for row in rows.tolist():
            assert table.markers[row] is not None, f"row {table.keys[row]!r} lost its marker"
    return {
        w.key: {
            **dict(zip(w.fields[::2], w.fields[1::2], strict=True)),
            MARKER_FIELD: w.marker.encode(),
        }
        for w in table.writes(known)
    }


def _known(table: EntityTable) -> dict[str, Ints]:
    count = len(table)
    found = {}
    for name, view in table.tables.items():
        rows = np.flatnonzero(view.newest[:count] != NEVER)
        if len(rows):
            found[name] = rows
    return found


Seen = dict[str, tuple[object, ...]]
"""By id all that can be read of a row: its marker, and what each view holds."""


def seen(table: LiveTable) -> Seen:
    """What a live table holds."""
    found: Seen = {}
    for row, identifier in enumerate(table.ids_of(np.arange(len(table)))):
        if identifier is not None:
            views = [_seen_in(view, row, table) for view in table.tables.values()]
            found[identifier] = (table.marker(row), *views)
    assert len(found) == table.held
    return found


def _seen_in(view: ReadTable, row: int, table: LiveTable) -> object:
    time = int(view.newest[row])
    if isinstance(view, SparseActivity):
        return time, int(view.first[row]), view.run(row)
    if isinstance(view, LatestTable):
        values: list[object] = []
        for field in view.view.fields:
            column = view.column(field.name)
            if len(column.vector):
                values.append(column.vector[row].tobytes())
            elif len(column.code):
                values.append(table.strings.text(int(column.code[row])))
            else:
                values.append(repr(float(column.number[row])))
        return time, *values
    return time


def seen_of(plan: Plan, hashes: Mapping[bytes, Hash]) -> dict[str, Seen]:
    """What live tables hold that were given these rows at once, by join key."""
    rows = LiveRows(plan)
    rows.put(list(hashes), list(hashes.values()))
    return {join_key: seen(table) for join_key, table in rows.tables.items()}


def equals_store(live: LiveTables, store: RowStore) -> bool:
    """Whether live tables hold what the store does now."""
    with live.lock:
        keys = [key for join_key in live.tables for key in store.keys(join_key)]
        hashes = {k: c for k, c in zip(keys, store.read(keys), strict=True) if c}
        held = {join_key: seen(table) for join_key, table in live.tables.items()}
        return held == seen_of(live.plan, hashes)
