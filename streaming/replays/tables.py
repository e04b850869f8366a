"""Rows under replay: folded in memory, written to a store now and then, read back when asked for.

A *span* of input is what is folded between two flushes. Its end is planned and remembered before
any of its rows is written, and every row it writes is marked with its number: so a replay that
died inside a flush does the same span again, and leaves out the rows that have it already.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.codec import MARKER_FIELD
from features.entities import ANY, EntityTable, Hash, RowWrite
from features.layout import Ints
from features.marker import Marker
from features.row_store import RowStore
from features.spec import EntitySpec, Plan
from features.strings import Strings
from features.updates import Columns
from streaming.replays.columnar import Projected

GENERATION: Final = 0
"""Of markers that replay writes: before the first life of any topic, whose blocks go on from it."""
WRITES_PER_CALL: Final = 2_000


class ReplayTables:
    """The rows of a plan under replay, over a store that may hold some of them already."""

    def __init__(self, plan: Plan, store: RowStore, others: Sequence[Plan] = ()) -> None:
        self.plan, self._store, self._others = plan, store, others
        self.span = 0
        """The number of the span that is folded now."""
        self._stored = True
        """Whether the store may hold rows that are not here."""
        self.forget()

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def begin(self, span: int, *, store_is_empty: bool = False) -> None:
        """Fold a span from now on."""
        self.span = span
        self._stored = not store_is_empty

    def use(self, plan: Plan) -> None:
        """Fold by another plan; everything before must have been flushed."""
        self.plan = plan
        self.forget()

    def forget(self) -> None:
        """Drop all rows; everything folded so far must have been flushed."""
        self.strings = Strings()
        self.tables: dict[str, EntityTable] = {
            entity.join_key: EntityTable(self.plan, entity, self.strings, self._others)
            for entity in self.plan.entities
        }
        self._touched: dict[str, NDArray[np.bool_]] = {
            view.name: np.zeros(0, np.bool_) for view in self.plan.views
        }

    def fold(self, projected: Projected) -> None:
        """Fold the updates of a chunk."""
        rows: dict[str, Ints] = {}
        for updates in projected.views:
            view = self.plan.views[updates.view]
            join_key = view.entity.join_key
            if join_key not in rows:
                every = [v.owner for v in projected.views if self._entity(v.view) == join_key]
                rows[join_key] = self._rows_of_codes(view.entity, projected.texts, every)
            self._fold(projected.part(updates), rows[join_key][updates.owner], view.name, join_key)
        self.fold_columns(projected.latest)

    def fold_columns(self, updates: Columns) -> None:
        """Fold updates that carry the keys of their rows."""
        for number in np.unique(updates.view).tolist():
            view = self.plan.views[number]
            table = self.tables[view.entity.join_key]
            chosen = np.flatnonzero(updates.view == number)
            keys, place = np.unique(updates.key[chosen], return_inverse=True)
            found = self._rows(table, [updates.keys[key] for key in keys.tolist()])
            self._fold_chosen(table, view.name, updates, chosen, found[place])

    def flush(self) -> int:
        """Write every row that was touched since the last flush; returns how many."""
        written = 0
        for table in self.tables.values():
            touched = {
                name: found
                for name in table.tables
                if len(found := np.flatnonzero(self._touched[name]))
            }
            if not touched:
                continue
            for rows in touched.values():
                for row in rows.tolist():
                    table.markers[row] = Marker(GENERATION, 0, self.span)
            batch: list[RowWrite] = []
            for write in table.writes(touched):
                batch.append(write._replace(base=ANY))
                if len(batch) == WRITES_PER_CALL:
                    self._store.write(batch)
                    written += len(batch)
                    batch = []
            self._store.write(batch)
            written += len(batch)
        for touched_rows in self._touched.values():
            touched_rows[:] = False
        return written

    def _entity(self, view: int) -> str:
        return self.plan.views[view].entity.join_key

    def _rows_of_codes(
        self, entity: EntitySpec, texts: Sequence[str], used: Sequence[Ints]
    ) -> Ints:
        """[text]: the row of the entity whose id it is; −1 for texts that are none of its ids."""
        table = self.tables[entity.join_key]
        codes = np.unique(np.concatenate(used)) if len(used) > 1 else np.unique(used[0])
        ids = [texts[code] for code in codes.tolist()]
        found = table.rows_of_ids(ids)
        missing = np.flatnonzero(found < 0).tolist()
        if missing:
            found[missing] = self._rows(table, [table.key_of(ids[place]) for place in missing])
        rows = np.full(len(texts), -1, np.int64)
        rows[codes] = found
        return rows

    def _rows(self, table: EntityTable, keys: Sequence[bytes]) -> Ints:
        """The rows of keys; those that are not here are read, where the store may hold them."""
        missing = [key for key in keys if table.find(key) is None] if self._stored else []
        rows = np.fromiter(map(table.row, keys), np.int64, len(keys))
        if missing:
            hashes = self._store.read(missing)
            held = [(table.row(k), h) for k, h in zip(missing, hashes, strict=True) if h]
            if held:
                table.load(*zip(*held, strict=True))
        return rows

    def _fold(self, updates: Columns, rows: Ints, view: str, join_key: str) -> None:
        self._fold_chosen(
            self.tables[join_key], view, updates, np.arange(len(rows), dtype=np.int64), rows
        )

    def _fold_chosen(
        self, table: EntityTable, view: str, updates: Columns, chosen: Ints, rows: Ints
    ) -> None:
        if self._stored:
            done = self._done(table, rows)
            if done.any():
                chosen, rows = chosen[~done], rows[~done]
        if not len(rows):
            return
        # Any order makes the same rows; together, the facts of one row find it in the cache.
        order = np.argsort(rows, kind="stable")
        chosen, rows = chosen[order], rows[order]
        table.tables[view].folding(updates, chosen, rows)(0, len(rows))
        touched = self._touched[view]
        if len(touched) < len(table):
            more = np.zeros(2 * len(table) - len(touched), np.bool_)
            touched = self._touched[view] = np.concatenate([touched, more])
        touched[rows] = True

    def _done(self, table: EntityTable, rows: Ints) -> NDArray[np.bool_]:
        """[update]: whether its row was written with this span already, before a crash."""
        used, place = np.unique(rows, return_inverse=True)
        markers = [table.stored[row] for row in used.tolist()]
        mine = [m is not None and m.covers(GENERATION, self.span) for m in markers]
        found: NDArray[np.bool_] = np.array(mine, np.bool_)[place]
        return found

    def hashes(self, rows: Mapping[str, Ints] | None = None) -> Iterator[tuple[bytes, Hash]]:
        """All rows in memory as a store would hold them, without markers, entity by entity."""
        for join_key, table in self.tables.items():
            views = {}
            for name, view in table.tables.items():
                known = np.flatnonzero(view.newest[: len(table)] >= 0)
                chosen = known if rows is None else np.intersect1d(known, rows.get(join_key, _NONE))
                if len(chosen):
                    views[name] = chosen
                    for row in chosen.tolist():
                        table.markers[row] = table.markers[row] or Marker(GENERATION, 0, self.span)
            for write in table.writes(views):
                yield write.key, dict(zip(write.fields[::2], write.fields[1::2], strict=True))


_NONE: Final[Ints] = np.zeros(0, np.int64)


class StateDigest:
    """A digest of rows that does not depend on their order: equal states have equal digests."""

    def __init__(self) -> None:
        self._sum = 0
        self.rows = 0

    def add(self, key: bytes, row: Hash) -> None:
        """Take in one row; its marker does not count."""
        digest = hashlib.sha256(len(key).to_bytes(4, "little") + key)
        for field in sorted(row):
            if field != MARKER_FIELD:
                for part in (field, row[field]):
                    digest.update(len(part).to_bytes(4, "little") + part)
        self._sum = (self._sum + int.from_bytes(digest.digest(), "little")) % 2**256
        self.rows += 1

    @property
    def text(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"
