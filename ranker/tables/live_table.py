"""The rows of one entity that the ranker holds: columns by row number, ids in an index, bounded."""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from features.codec import (
    MARKER_FIELD,
    decode_time,
    entity_id,
    entity_key,
    field_name,
    updated_at_field,
)
from features.entities import Hash
from features.gather_kernels import note_rows, take_markers, take_narrow
from features.id_index import IdIndex
from features.latest import Column, LatestTable
from features.layout import NEVER, Ints
from features.marker import Marker
from features.plain_table import PlainTable
from features.relations import RelationsTable
from features.sparse_counts import SparseActivity
from features.spec import ActivityView, EntitySpec, PlainView, Plan, RelationsView, StoredView
from features.strings import Strings
from features.tables import ReadTable

UNASKED: Final = -2
"""In the cache of rows by code: nobody asked yet."""
EVICTED_SHARE: Final = 64
"""One row in so many is chosen to make way at a time: choosing looks at all of them."""


class LiveTable:
    """Rows of one entity, at most `rows_max`; hold their owner's lock to read or write.

    When it is full, a new row takes the place of one that was neither asked for nor changed for
    longest (`tick` is the time it goes by). One thread writes; those that ask only leave the tick.
    """

    def __init__(self, plan: Plan, entity: EntitySpec, strings: Strings, rows_max: int) -> None:
        self.entity, self.project, self.strings = entity, plan.project, strings
        self.rows_max = rows_max
        self.tick = 0
        self.evicted = 0
        self.moved: set[int] | None = None
        """Rows that were replaced, added or taken away, gathered once this is a set."""
        self._tables: dict[str, ReadTable] = {
            view.name: _table(view, plan.actions, strings)
            for view in plan.views
            if view.entity == entity
        }
        self._fields = {
            view.name: _fields(view, self._tables[view.name])
            for view in plan.views
            if view.entity == entity
        }
        self._index = IdIndex()
        self._count = 0
        self._free: list[int] = []
        self._victims: list[int] = []
        self._used = np.zeros(64, np.int32)
        self._put_at = np.zeros(64, np.int32)
        """[row]: the tick at which it was asked for or put; at which it was put."""
        self._marker = np.zeros((64, 3), np.int64)
        self._row_of_code = np.full(1024, UNASKED, np.int32)
        self._code_of_row = np.full(64, UNASKED, np.int32)
        """[row]: the code of its id, once it was a candidate: to look the text up takes longer."""

    def __len__(self) -> int:
        """How many row numbers were given out; some may be free again."""
        return self._count

    @property
    def held(self) -> int:
        """How many rows there are."""
        return len(self._index)

    @property
    def tables(self) -> Mapping[str, ReadTable]:
        """The tables of the entity's views, by name."""
        return self._tables

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without strings, and without views that are neither counters nor
        newest values."""
        views = (v for v in self._tables.values() if isinstance(v, SparseActivity | LatestTable))
        own = (
            self._used.nbytes
            + self._put_at.nbytes
            + self._marker.nbytes
            + self._row_of_code.nbytes
            + self._code_of_row.nbytes
        )
        return own + self._index.nbytes + sum(view.nbytes for view in views)

    def rows_of_ids(self, ids: Sequence[str]) -> Ints:
        """The row numbers of ids, which count as asked for; −1 for those that are not here."""
        rows = self._index.rows(ids)
        note_rows(self._used, rows, self.tick + 1)  # later than what was put at this tick
        return rows

    def rows_of_codes(self, codes: Ints) -> Ints:
        """The row numbers of ids given as codes of `strings`; −1 for those that are not here."""
        if len(self._row_of_code) < len(self.strings):
            grown = np.full(2 * len(self.strings), UNASKED, np.int32)
            grown[: len(self._row_of_code)] = self._row_of_code
            self._row_of_code = grown
        rows = take_narrow(self._row_of_code, codes)
        unasked = np.flatnonzero(rows == UNASKED)
        if len(unasked):
            fresh = np.unique(codes[unasked])
            texts = [self.strings.text(code) or "" for code in fresh.tolist()]
            self._row_of_code[fresh] = self._index.rows(texts)
            rows = take_narrow(self._row_of_code, codes)
        note_rows(self._used, rows, self.tick + 1)  # later than what was put at this tick
        return rows

    def codes_of_rows(self, rows: Ints, ids: Sequence[str]) -> Ints:
        """The codes of ids that have these rows, −1 where they have none."""
        codes = take_narrow(self._code_of_row, rows)
        for place in np.flatnonzero(codes < 0).tolist():
            codes[place] = code = self.strings.code(ids[place])
            if rows[place] >= 0:
                self._code_of_row[rows[place]] = code
        return codes

    def ids_of(self, rows: Ints) -> list[str | None]:
        """The ids of rows, None for those that are free."""
        return [identifier or None for identifier in self._index.texts(rows)]

    def known(self, row: int) -> bool:
        """Whether any view of a row holds anything."""
        return any(table.newest[row] != NEVER for table in self._tables.values())

    def key_of(self, identifier: str) -> bytes:
        """The Redis key of an entity id. Raises ValueError for no number where one is wanted."""
        entity = self.entity
        return entity_key(entity.join_key, entity.value_type, identifier, self.project)

    def find_key(self, identifier: str) -> bytes | None:
        """The Redis key of an id, None when the entity can have none such."""
        try:
            return self.key_of(identifier)
        except (ValueError, OverflowError, struct.error):
            return None

    def find(self, key: bytes) -> int | None:
        """The row number of a key, None when it is not here."""
        identifier = entity_id(self.entity.join_key, key, self.project)
        row = int(self._index.rows([identifier or ""])[0])
        return row if row >= 0 else None

    def keys_before(self, tick: int) -> list[bytes]:
        """The Redis keys of rows that were last put before a tick."""
        ids = self.ids_of(np.flatnonzero(self._put_at[: self._count] < tick))
        return [self.key_of(identifier) for identifier in ids if identifier is not None]

    def marker(self, row: int) -> Marker | None:
        """The marker of a row; None when it has none."""
        generation, partition, offset = self._marker[row].tolist()
        return Marker(generation, partition, offset) if generation >= 0 else None

    def marked(self, rows: Ints) -> Ints:
        """[row]: generation, partition and offset of its marker; −1 where there is none."""
        return take_markers(self._marker, rows)

    def make_room(self, wanted: int) -> None:
        """Choose who makes way for so many rows; only the thread that writes calls it, and it
        need not hold the lock."""
        if self.held + wanted <= self.rows_max or len(self._victims) >= wanted:
            return
        used = self._used[: self._count].copy()
        used[self._free] = np.iinfo(np.int32).max
        count = min(max(wanted, self.rows_max // EVICTED_SHARE), self._count)
        oldest = np.argpartition(used, count - 1)[:count]
        self._victims = oldest[np.argsort(-used[oldest], kind="stable")].tolist()

    def put(self, keys: Sequence[bytes], hashes: Sequence[Hash], *, evict: bool = True) -> None:
        """Replace rows by their hashes (no key twice), add new ones, take away those that vanished.

        Without `evict`, what finds the table full is left out. Raises what a decoder raises at
        bytes that are not ours; these rows may then hold anything: put them again, or empty ones.
        """
        ids = [entity_id(self.entity.join_key, key, self.project) or "" for key in keys]
        rows = self._index.rows(ids)
        markers = [Marker.decode(content.get(MARKER_FIELD)) for content in hashes]
        fresh = [place for place, row in enumerate(rows.tolist()) if row < 0 and hashes[place]]
        kept = rows[rows >= 0]
        self._used[kept] = self.tick + 1  # newer than all others: they do not make way
        fresh = fresh[: max(self.rows_max - (len(kept) if evict else self.held), 0)]
        numbers = self._numbers(len(fresh))
        rows[fresh] = numbers
        self._index.add(numbers, [ids[place] for place in fresh])
        for row, place in zip(numbers, fresh, strict=True):
            self._found(ids[place], row)
        put = np.flatnonzero(rows >= 0).tolist()
        if not put:
            return
        if self.moved is not None:
            self.moved.update(rows[put].tolist())
        self._load(rows[put], [hashes[place] for place in put])
        self._marker[rows[put]] = [markers[place] or (-1, -1, -1) for place in put]
        self._used[rows[put]] = self._put_at[rows[put]] = self.tick
        for place in put:
            if not hashes[place]:
                self._remove(int(rows[place]))

    def recoded(self, strings: Strings) -> dict[str, list[Column]]:
        """Its columns by the codes of other strings, for `adopt`; only the thread that writes calls
        it, and it need not hold the lock."""
        views = self._tables.items()
        return {name: v.recoded(strings) for name, v in views if isinstance(v, LatestTable)}

    def adopt(self, strings: Strings, columns: Mapping[str, list[Column]]) -> None:
        """Let these take the place of the columns they were made of."""
        self.strings = strings
        self._row_of_code = np.full(1024, UNASKED, np.int32)
        self._code_of_row[:] = UNASKED
        for name, of_view in columns.items():
            view = self._tables[name]
            assert isinstance(view, LatestTable)
            view.adopt(strings, of_view)

    def _numbers(self, count: int) -> list[int]:
        """Row numbers for as many new rows."""
        more = min(self.rows_max - self._count, count - len(self._free))
        if more > 0:
            self._free += range(self._count + more - 1, self._count - 1, -1)
            self._count += more
            self._reserve()
        while len(self._free) < count:
            if not self._victims:
                self.make_room(count)
            victim = self._victims.pop()
            if self._used[victim] <= self.tick and self._index.text(victim):
                blank: list[Hash] = [{}]
                self._load(np.array([victim]), blank)
                self._remove(victim)
                self.evicted += 1
                if self.moved is not None:
                    self.moved.add(victim)
        return [self._free.pop() for _ in range(count)]

    def _reserve(self) -> None:
        for view in self._tables.values():
            view.reserve(self._count)
        have = len(self._used)
        if self._count > have:
            more = max(self._count, 2 * have) - have
            self._used = np.concatenate([self._used, np.zeros(more, np.int32)])
            self._put_at = np.concatenate([self._put_at, np.zeros(more, np.int32)])
            unasked = np.full(more, UNASKED, np.int32)
            self._code_of_row = np.concatenate([self._code_of_row, unasked])
            self._marker = np.concatenate([self._marker, np.full((more, 3), -1, np.int64)])

    def _load(self, rows: Ints, hashes: Sequence[Hash]) -> None:
        for name, (stamp, fields) in self._fields.items():
            stamps = [content.get(stamp) for content in hashes]
            times = [NEVER if time is None else decode_time(time) for time in stamps]
            values = [[content.get(field) for field in fields] for content in hashes]
            self._tables[name].load(rows, np.array(times, np.int64), values)

    def _remove(self, row: int) -> None:
        self._found(self._index.text(row), -1)
        self._code_of_row[row] = UNASKED
        self._index.remove(row)
        self._free.append(row)

    def _found(self, identifier: str, row: int) -> None:
        """Keep the rows by code true."""
        code = self.strings.find(identifier)
        if 0 <= code < len(self._row_of_code):
            self._row_of_code[code] = row


def _table(view: StoredView, actions: tuple[str, ...], strings: Strings) -> ReadTable:
    if isinstance(view, ActivityView):
        return SparseActivity(view, actions)
    if isinstance(view, RelationsView):
        return RelationsTable(view, actions)
    if isinstance(view, PlainView):
        return PlainTable(view)
    return LatestTable(view, strings, kept=False)


def _fields(view: StoredView, table: ReadTable) -> tuple[bytes, list[bytes]]:
    """The hash fields of a view: of its event time, and of its values."""
    assert isinstance(table, SparseActivity | LatestTable | RelationsTable | PlainTable)
    return updated_at_field(view.name), [field_name(view.name, field) for field in table.fields]
