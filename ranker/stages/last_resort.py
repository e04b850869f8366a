"""What is popular, kept outside the tables: the feed when there is no time to look at them.

It knows enough of each item to hold the promises that no feed may break: nothing ended, nothing
that the surface does not allow, nobody whom the user blocked. What the caller sent and we do not
know, the caller vouches for, unless the user blocked somebody: it might be by them.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY
from features.layout import NEVER, Ints
from ranker.reading import Reading
from ranker.rules import SurfaceRules

ROWS_PER_LOOK: Final = 20_000
"""Rows that are counted at a time; a request waits for no more of them than that."""


class About(NamedTuple):
    """What is known of a popular item."""

    clicks: float
    author: str | None
    category: str | None
    numbers: dict[str, float]
    """Path → number, of the paths that any surface requires."""


@dataclass(frozen=True)
class Popular:
    """Popular items, best first, as of some instant."""

    items: dict[str, About] = field(default_factory=dict)

    def feed(
        self,
        given: Sequence[str] | None,
        rules: SurfaceRules,
        blocked: set[str],
    ) -> Iterator[str]:
        """The given items, or all there are, most popular first, less what may not be shown."""
        nothing = About(0.0, None, None, {})
        wanted = list(self.items) if given is None else list(dict.fromkeys(given))
        for item in sorted(wanted, key=lambda one: -self.items.get(one, nothing).clicks):
            about = self.items.get(item)
            if about is None:
                allowed = not blocked
            else:
                eligible = all(about.numbers.get(p) == n for p, n in rules.require.items())
                allowed = eligible and about.author not in blocked
            if allowed:
                yield item


def look(
    reading: Reading,
    lock: AbstractContextManager[object],
    now: int,
    count: int,
    paths: Sequence[str] = (),
) -> Popular:
    """What is popular now. Takes the table lock for a moment at a time."""
    table, best = reading.tables[ITEM_KEY], np.zeros(0, np.int64)
    counts: Floats = np.zeros(0)
    for begin in range(0, len(table), ROWS_PER_LOOK):
        rows = np.arange(begin, min(begin + ROWS_PER_LOOK, len(table)), dtype=np.int64)
        with lock:
            counts = np.concatenate([counts, reading.popularity.counts(rows, now)])
            ended = reading.join.numbers("ended", rows) == 1.0
            known = np.zeros(len(rows), np.bool_)
            for view in table.tables.values():
                known |= view.newest[rows] != NEVER
        best = np.concatenate([best, rows])
        counts[-len(rows) :][ended | ~known] = -1.0
        top = np.argsort(-counts, kind="stable")[:count]
        best, counts = best[top], counts[top]
    best, counts = best[counts >= 0], counts[counts >= 0]
    with lock:
        return _about(reading, best, counts, paths)


def _about(reading: Reading, rows: Ints, counts: Floats, paths: Sequence[str]) -> Popular:
    items = reading.tables[ITEM_KEY]
    authors = reading.join.texts("author_id", rows)
    categories = reading.join.texts("categories", rows)
    numbers = {path: reading.join.numbers(path, rows).tolist() for path in paths}
    found: dict[str, About] = {}
    for place, row in enumerate(rows.tolist()):
        item = items.id_of(row)
        if item is not None:
            own = {path: column[place] for path, column in numbers.items()}
            found[item] = About(float(counts[place]), authors[place], categories[place], own)
    return Popular(found)
