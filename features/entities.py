"""The rows of one entity across all its views: one Redis hash each, with its marker."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.activity import ActivityTable
from features.codec import (
    MARKER_FIELD,
    decode_time,
    encode_time,
    entity_id,
    entity_key,
    field_name,
    updated_at_field,
)
from features.latest import LatestTable
from features.layout import NEVER, Ints
from features.marker import Marker
from features.plain_table import PlainTable
from features.relations import RelationsTable
from features.spec import (
    ActivityView,
    EntitySpec,
    PlainView,
    Plan,
    RelationsView,
    StoredView,
)
from features.strings import Strings
from features.tables import Table

Hash = dict[bytes, bytes]
"""A Redis hash, as HGETALL gives it."""


ANY: Final = Marker(-1, -1, -1)
"""The base of a write that does not care which older version of the row stands there."""


class RowWrite(NamedTuple):
    """What one write of a row sets and deletes, guarded by its marker."""

    key: bytes
    marker: Marker
    fields: list[bytes]
    """Field, value, field, value, …"""
    gone: list[bytes]
    """Fields that were stored and hold nothing any more."""
    base: Marker | None = ANY
    """The marker of the version this is a change of; None: there was no row."""


class EntityTable:
    """Rows of one entity in memory, by row number; views of the entity share the numbers."""

    def __init__(
        self,
        plan: Plan,
        entity: EntitySpec,
        strings: Strings,
        others: Sequence[Plan] = (),
        rows: int = 64,
    ) -> None:
        """`others` are plans whose blocks may fold into the same rows: what they keep is kept.
        There is room for so many `rows` until it is enlarged."""
        actions = tuple(dict.fromkeys(a for known in (plan, *others) for a in known.actions))
        self.entity = entity
        self.project = plan.project
        self.keys: list[bytes] = []
        self.ids: list[str | None] = []
        self.markers: list[Marker | None] = []
        self.stored: list[Marker | None] = []
        """The marker of each row as the store has it; `markers` runs ahead until it is written."""
        self.tables: dict[str, Table] = {}
        self._rows: dict[bytes, int] = {}
        self._rows_by_id: dict[str, int] = {}
        for view in plan.views:
            if view.entity.join_key == entity.join_key:
                self.tables[view.name] = _table(view, actions, strings, others, rows)
        self.strings = strings
        self._row_of_code = np.full(1, -1, np.int64)
        self._coded = 0
        self._names = {
            name: [field_name(name, field) for field in table.fields]
            for name, table in self.tables.items()
        }

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key: bytes) -> int | None:
        """The row number of a key, None when it is not here."""
        return self._rows.get(key)

    def ids_of(self, rows: Ints) -> list[str | None]:
        """The ids of rows, None where a key names none."""
        return [self.ids[row] for row in rows.tolist()]

    def rows_of_ids(self, ids: Iterable[str]) -> Ints:
        """The row numbers of entity ids; −1 for those that are not here."""
        return np.fromiter(map(self._rows_by_id.get, ids, repeat(-1)), np.int64)

    def rows_of_codes(self, codes: Ints) -> Ints:
        """The row numbers of ids given as the process's string codes; −1 where there is none."""
        if self._coded < len(self.ids):
            fresh = self.strings.codes(self.ids[self._coded :])
            if len(self._row_of_code) < len(self.strings):
                room = max(len(self.strings), 2 * len(self._row_of_code)) - len(self._row_of_code)
                blank = np.full(room, -1, np.int64)
                self._row_of_code = np.concatenate([self._row_of_code, blank])
            named = fresh >= 0
            self._row_of_code[fresh[named]] = np.arange(self._coded, len(self.ids))[named]
            self._coded = len(self.ids)
        inside = (codes >= 0) & (codes < len(self._row_of_code))
        return np.where(inside, self._row_of_code[np.where(inside, codes, 0)], -1)

    def codes_of_rows(self, rows: Ints, ids: Sequence[str]) -> Ints:
        """The codes of ids that have these rows, −1 where they have none."""
        del rows
        return self.strings.codes(ids)

    def known(self, row: int) -> bool:
        """Whether any view of a row holds anything."""
        return any(table.newest[row] != NEVER for table in self.tables.values())

    def marked(self, rows: Ints) -> Ints:
        """[row]: generation, partition and offset of its marker; −1 where there is none."""
        found = [self.markers[row] if row >= 0 else None for row in rows.tolist()]
        return np.array([marker or ANY for marker in found], np.int64).reshape(-1, 3)

    def row(self, key: bytes) -> int:
        """The row number of a key, a new empty row when it was not here."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self.keys)
            self.keys.append(key)
            found = entity_id(self.entity.join_key, key, self.project)
            self.ids.append(found)
            self.markers.append(None)
            self.stored.append(None)
            if found is not None:
                self._rows_by_id[found] = row
            for table in self.tables.values():
                table.reserve(row + 1)
        return row

    def key_of(self, identifier: str) -> bytes:
        """The Redis key of an entity id."""
        entity = self.entity
        return entity_key(entity.join_key, entity.value_type, identifier, self.project)

    def row_of_id(self, identifier: str) -> int:
        """The row number of an entity id, a new empty row when it was not here."""
        row = self._rows_by_id.get(identifier)
        return self.row(self.key_of(identifier)) if row is None else row

    def load(self, rows: Sequence[int], hashes: Sequence[Hash]) -> None:
        """Replace rows by their Redis hashes (an empty hash empties the row)."""
        numbers = np.array(rows, np.int64)
        for row, content in zip(rows, hashes, strict=True):
            self.markers[row] = self.stored[row] = Marker.decode(content.get(MARKER_FIELD))
        for name, table in self.tables.items():
            stamp = updated_at_field(name)
            stamps = [content.get(stamp) for content in hashes]
            updated_at = np.array(
                [NEVER if s is None else decode_time(s) for s in stamps], np.int64
            )
            names = self._names[name]
            table.load(numbers, updated_at, [[h.get(f) for f in names] for h in hashes])

    def writes(self, touched: dict[str, NDArray[np.int64]]) -> Iterator[RowWrite]:
        """The writes of touched rows (view → row numbers), with the markers they have now."""
        found: dict[int, RowWrite] = {}
        for name, rows in touched.items():
            for row, fields, gone in self._encoded(name, rows):
                marker = self.markers[row]
                if marker is None:
                    raise ValueError("a row is written before it has a marker")
                write = found.get(row)
                if write is None:
                    write = RowWrite(self.keys[row], marker, [], [], self.stored[row])
                    found[row] = write
                write.fields.extend(fields)
                write.gone.extend(gone)
        return iter(found.values())

    def written(self, write: RowWrite) -> None:
        """Note that the store took a write."""
        self.stored[self._rows[write.key]] = write.marker

    def _encoded(
        self, name: str, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
        table, names = self.tables[name], self._names[name]
        stamp = updated_at_field(name)
        newest = table.newest[rows].tolist()
        for row, time, stored in zip(rows.tolist(), newest, table.encoded(rows), strict=True):
            fields = [stamp, stored.updated_at or encode_time(time)]
            for field, value in zip(names, stored.values, strict=True):
                if value is not None:
                    fields += (field, value)
            yield row, fields, [names[place] for place in stored.gone]


def _table(
    view: StoredView,
    actions: tuple[str, ...],
    strings: Strings,
    others: Sequence[Plan],
    rows: int,
) -> Table:
    if isinstance(view, ActivityView):
        likes = tuple(v for plan in others for v in plan.activity if v.name == view.name)
        return ActivityTable(view, actions, strings, rows, likes)
    if isinstance(view, RelationsView):
        return RelationsTable(view, actions)
    if isinstance(view, PlainView):
        return PlainTable(view)
    return LatestTable(view, strings, rows)
