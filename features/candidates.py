"""A request's candidates joined to rows: the item's author, its category, the surface.

Serving, training and replay all join here, so a candidate meets the same rows everywhere.
"""

from collections.abc import Sequence

import numpy as np

from features.as_of import Moment, Tables, candidate_keys
from features.as_of_kernels import Floats
from features.gather_kernels import take_codes, take_numbers
from features.latest import Column, LatestTable
from features.layout import Ints
from features.spec import Plan
from features.strings import NONE

USER_KEY = "user_id"
ITEM_KEY = "item_id"
JOINED = {"author_id": "author_id", "category": "categories"}
"""Join keys that a candidate's item profile leads to, and the path in the item event."""


class CandidateJoin:
    """How the candidates of one plan find their rows."""

    def __init__(self, plan: Plan, tables: Tables) -> None:
        self._tables = tables
        self._paths: dict[str, tuple[str, str]] = {}
        for view in plan.latest:
            if view.entity.join_key == ITEM_KEY:
                for field in view.fields:
                    self._paths.setdefault(field.path, (view.name, field.name))

    def moment(
        self,
        now: int,
        user_row: int,
        items: Sequence[str],
        item_rows: Ints,
        surface: str | None,
    ) -> Moment:
        """What a read of these candidates at `now` is about."""
        codes = {path: self._codes(path, item_rows) for path in JOINED.values()}
        rows = {USER_KEY: np.array([user_row], np.int64), ITEM_KEY: item_rows}
        for join_key, path in JOINED.items():
            table = self._tables.get(join_key)
            if table is not None:
                rows[join_key] = table.rows_of_codes(codes[path])
        surfaces = self._tables.get("surface")
        if surfaces is not None:
            rows["surface"] = surfaces.rows_of_ids([surface or ""])
        item_codes = self._tables[ITEM_KEY].codes_of_rows(item_rows, items)
        keys = candidate_keys(item_codes, codes["author_id"], codes["categories"])
        return Moment(now=now, rows=rows, keys=keys, surface=surface)

    def texts(self, path: str, item_rows: Ints) -> list[str | None]:
        """The text at a path of the profiles of items."""
        strings = self._tables[ITEM_KEY].strings
        return [strings.text(code) for code in self._codes(path, item_rows).tolist()]

    def numbers(self, path: str, item_rows: Ints) -> Floats:
        """The number at a path of the profiles of items; NaN where it is not known."""
        column = self._column(path)
        if column is None:
            return np.full(len(item_rows), np.nan)
        return take_numbers(column.number, item_rows)

    def _codes(self, path: str, item_rows: Ints) -> Ints:
        column = self._column(path)
        if column is None:
            return np.full(len(item_rows), NONE, np.int64)
        return take_codes(column.code, item_rows)

    def _column(self, path: str) -> Column | None:
        found = self._paths.get(path)
        if found is None:
            return None
        table = self._tables[ITEM_KEY].tables[found[0]]
        assert isinstance(table, LatestTable)
        return table.column(found[1])
