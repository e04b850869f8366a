"""Rows as they stood at a marker: made again from events, in the order in which blocks took them.

A marker names a block of `updates`. The archived headers of that partition say which events it and
all blocks before it brought, so the row at that marker is the fold of exactly those.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.codec import entity_key
from features.entities import Hash
from features.errors import Refused
from features.layout import Ints
from features.marker import Marker
from features.row_store import MemoryRows
from features.spec import Plan
from features.updates import Columns, joined
from streaming.blocks import part_of
from streaming.logs.files import LogFiles, between, parts_of
from streaming.logs.schema import BLOCK_LOG
from streaming.replays.chunk import COLUMNS, Chunk, chunk_of
from streaming.replays.columnar import ColumnarProjection, Projected
from streaming.replays.engine import ReplaySettings
from streaming.replays.recorded import Place, Recorded
from streaming.replays.repeats import Repeats
from streaming.replays.tables import ReplayTables


class Wanted(NamedTuple):
    """A row at a marker."""

    key: bytes
    marker: Marker


class _Blocks(NamedTuple):
    """The blocks of one `updates` partition from one source, by offset."""

    offset: Ints
    last: Ints
    """The highest source offset that they and those before them cover."""


class BlockIndex:
    """Which block of `updates` brought an event, from archived headers."""

    def __init__(self, files: LogFiles) -> None:
        self._blocks: dict[tuple[int, int], dict[Place, _Blocks]] = {}
        self._upto: dict[tuple[int, int], int] = {}
        self.plans: set[str] = set()
        by_partition = defaultdict(list)
        for file in files.all(BLOCK_LOG.name):
            by_partition[file.name.generation, file.name.partition].append(file)
        for place, mine in by_partition.items():
            columns: dict[str, list[Ints]] = defaultdict(list)
            for part in parts_of(mine):
                with files.open(part.file) as file:
                    rows = between(file.read(), part.first, part.last)
                for name, values in _spans(rows).items():
                    columns[name].append(values)
                self.plans.update(rows.column("plan").unique().to_pylist())
            whole = {name: np.concatenate(found) for name, found in columns.items()}
            self._blocks[place] = _by_source(whole)
            self._upto[place] = int(whole["offset"].max(initial=-1))

    def has(self, marker: Marker) -> bool:
        """Whether the block of a marker is among those that were archived."""
        return marker.offset <= self._upto.get(marker[:2], -1)

    def block_of(self, generation: int, partition: int, source: Place, offsets: Ints) -> Ints:
        """[event]: the block of a partition that brought it, NEVER_MADE where none did yet."""
        blocks = self._blocks.get((generation, partition), {}).get(source)
        if blocks is None:
            return np.full(len(offsets), NEVER_MADE, np.int64)
        found = np.searchsorted(blocks.last, offsets)
        return np.append(blocks.offset, NEVER_MADE)[found]


NEVER_MADE = 2**62


def _spans(blocks: pa.Table) -> dict[str, Ints]:
    """[span of a block]: the block's offset, and where the span is from."""
    spans = blocks.column("spans").combine_chunks()
    block = pc.list_parent_indices(spans)
    columns = {name: blocks.column(name).take(block) for name in ("offset", "generation")}
    columns |= {name: pc.list_flatten(spans).field(name) for name in ("source", "last")}
    return {name: np.asarray(values, np.int64) for name, values in columns.items()}


def _by_source(columns: Mapping[str, Ints]) -> dict[Place, _Blocks]:
    found = {}
    pairs = np.stack([columns["generation"], columns["source"]])
    for generation, source in np.unique(pairs, axis=1).T.tolist():
        mine = np.flatnonzero((pairs[0] == generation) & (pairs[1] == source))
        last = np.maximum.accumulate(columns["last"][mine])
        found[Place(generation, source)] = _Blocks(columns["offset"][mine], last)
    return found


def versions(
    plan: Plan,
    recorded: Recorded,
    blocks: BlockIndex,
    wanted: Iterable[Wanted],
    settings: ReplaySettings,
    *,
    as_if: bool = False,
) -> dict[Wanted, Hash]:
    """Each wanted row as it stood; absent where its block or its events are not archived.

    Blocks name the plan that routed them, which must be this one; `as_if` makes the rows that this
    plan would have kept of the same events, had it been in force.
    """
    if not as_if and blocks.plans - {plan.version}:
        raise Refused(
            f"blocks were routed by other plans ({', '.join(sorted(blocks.plans))}) than the one "
            f"in force, {plan.version}: check a span of one plan alone"
        )
    by_partition: dict[tuple[int, int], list[Wanted]] = defaultdict(list)
    for one in set(wanted):
        if blocks.has(one.marker):
            by_partition[one.marker[:2]].append(one)
    keys = {one.key for some in by_partition.values() for one in some}
    parts = list(_updates_of(plan, recorded, keys, settings))
    found: dict[Wanted, Hash] = {}
    for (generation, partition), some in by_partition.items():
        mine = {one.key for one in some}
        columns: list[Columns] = []
        brought: list[Ints] = []
        for place, part in parts:
            chosen = np.flatnonzero(np.array([k in mine for k in part.keys], np.bool_)[part.key])
            columns.append(part_of(part, chosen))
            at = blocks.block_of(generation, partition, place, part.offset[chosen])
            brought.append(at)
        if columns:
            found |= _at_markers(plan, joined(columns), np.concatenate(brought), some)
    return found


def _at_markers(
    plan: Plan, updates: Columns, brought: Ints, wanted: Sequence[Wanted]
) -> dict[Wanted, Hash]:
    """Fold updates block by block, looking at each wanted row when its block is folded."""
    tables = ReplayTables(plan, MemoryRows())
    tables.begin(1, store_is_empty=True)
    order = np.argsort(brought, kind="stable")
    entity_of = {
        key: plan.views[view].entity.join_key
        for key, view in zip(updates.key.tolist(), updates.view.tolist(), strict=True)
    }
    join_key_of = {updates.keys[key]: join_key for key, join_key in entity_of.items()}
    found: dict[Wanted, Hash] = {}
    at = 0
    for offset in sorted({one.marker.offset for one in wanted}):
        stop = int(np.searchsorted(brought[order], offset, "right"))
        if stop > at:
            tables.fold_columns(part_of(updates, order[at:stop]))
            at = stop
        rows: dict[str, list[int]] = defaultdict(list)
        here = {one.key: one for one in wanted if one.marker.offset == offset}
        for key in here:
            join_key = join_key_of.get(key)
            row = None if join_key is None else tables.tables[join_key].find(key)
            if join_key is not None and row is not None:
                rows[join_key].append(row)
        chosen = {join_key: np.array(some, np.int64) for join_key, some in rows.items()}
        for key, content in tables.hashes(chosen):
            found[here[key]] = content
    return found


def _updates_of(
    plan: Plan, recorded: Recorded, keys: set[bytes], settings: ReplaySettings
) -> Iterable[tuple[Place, Columns]]:
    """The updates of some rows, chunk by chunk, that `route` would make of the events."""
    projection = ColumnarProjection(plan)
    columns = (*COLUMNS, "event_id") if projection.names_shown else COLUMNS
    for place in recorded.places():
        repeats = Repeats(settings.horizon)
        for rows in recorded.rows(place, 0, None, columns):
            chunk = chunk_of(*place, rows)
            projected, _ = projection.updates(
                chunk, accepted_of(chunk, projection, repeats, settings)
            )
            for part in _of_keys(plan, projected, keys):
                yield place, part


def accepted_of(
    chunk: Chunk, projection: ColumnarProjection, repeats: Repeats, settings: ReplaySettings
) -> NDArray[np.bool_]:
    """[event]: whether it counts, as far as columns tell."""
    repeated = np.zeros(len(chunk), np.bool_)
    good = np.flatnonzero(chunk.good)
    repeated[good] = repeats.repeated(chunk.identity[good], chunk.offset[good])
    ahead = chunk.time - chunk.append_time > settings.max_ahead_ms
    return chunk.good & ~repeated & ~ahead & ~projection.refused(chunk)


def _of_keys(plan: Plan, projected: Projected, keys: set[bytes]) -> Iterable[Columns]:
    for updates in projected.views:
        entity = plan.views[updates.view].entity
        used = np.unique(updates.owner).tolist()
        named = {
            code: entity_key(
                entity.join_key, entity.value_type, projected.texts[code], plan.project
            )
            for code in used
        }
        mine = [code for code, key in named.items() if key in keys]
        if mine:
            place = {code: number for number, code in enumerate(mine)}
            chosen = np.flatnonzero(np.isin(updates.owner, mine))
            fact, owner = updates.fact[chosen], updates.owner[chosen]
            part = projected.part(updates._replace(fact=fact, owner=owner))
            part.key[:] = [place[code] for code in part.key.tolist()]
            part.keys.extend(named[code] for code in mine)
            yield part_of(part, np.arange(len(chosen)))
    latest = projected.latest
    wanted = np.array([key in keys for key in latest.keys], np.bool_)
    if wanted.any():
        yield part_of(latest, np.flatnonzero(wanted[latest.key]))
