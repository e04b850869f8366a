"""Which version of which row a ranking was computed from, for the serving log."""

from dataclasses import dataclass, replace

import numpy as np

from features.as_of import Read
from features.candidates import ITEM_KEY, USER_KEY
from features.layout import AUTHOR, CATEGORY, ITEM, Ints
from features.strings import Strings
from ranker.stages.roles import Candidates

Marks = dict[str, dict[str, list[int] | None]]
"""Join key → id → generation, partition and offset of the row's marker; None: there was no row."""

_COLUMNS = {ITEM_KEY: ITEM, "author_id": AUTHOR, "category": CATEGORY}


@dataclass(frozen=True, slots=True)
class RowsRead:
    """The rows behind candidates, as ids (codes) and markers; −1 where there was none."""

    strings: Strings
    surface: str | None
    codes: dict[str, Ints]
    marks: dict[str, Ints]
    """Join key → [candidate], or one for all of them."""
    compared: Ints
    compared_marks: Ints
    """Other items whose embeddings the candidates were compared with."""

    def of(self, places: Ints) -> "RowsRead":
        """What some of the candidates were computed from."""
        codes = {join_key: found[places] for join_key, found in self.codes.items()}
        marks = {k: found[places] if k in codes else found for k, found in self.marks.items()}
        return replace(self, codes=codes, marks=marks)

    def told(self) -> Marks:
        """The same by id, as the log tells it."""
        found: Marks = {}
        for join_key, marks in self.marks.items():
            if join_key in self.codes:
                texts = [self.strings.text(code) for code in self.codes[join_key].tolist()]
            else:
                texts = [self.surface]
            found[join_key] = _by_id(texts, marks)
        compared = [self.strings.text(code) for code in self.compared.tolist()]
        found[ITEM_KEY] = _by_id(compared, self.compared_marks) | found.get(ITEM_KEY, {})
        return found


def rows_read(candidates: Candidates, read: Read, surface: str | None) -> RowsRead:
    """What the features of candidates were computed from; hold the lock they were read under."""
    reading, moment = candidates.reading, candidates.moment
    items = reading.tables[ITEM_KEY]
    return RowsRead(
        strings=items.strings,
        surface=surface,
        codes={
            join_key: moment.keys[:, column]
            for join_key, column in _COLUMNS.items()
            if join_key in moment.rows
        },
        marks={
            join_key: reading.tables[join_key].marked(rows)
            for join_key, rows in moment.rows.items()
            if join_key != USER_KEY
        },
        compared=read.compared,
        compared_marks=items.marked(read.compared_rows),
    )


def _by_id(texts: list[str | None], marks: Ints) -> dict[str, list[int] | None]:
    known = np.any(marks >= 0, axis=1).tolist()
    return {
        text: mark if there else None
        for text, mark, there in zip(texts, marks.tolist(), known, strict=True)
        if text is not None
    }
