"""What is popular, kept outside the tables: the feed when there is no time to look at them.

It knows enough of each item to hold the promises that no feed may break: nothing ended, nothing
that the surface does not allow, nobody whom the user blocked. What the caller sent and we do not
know, the caller vouches for, unless the user blocked somebody: it might be by them.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

from features.candidates import ITEM_KEY
from ranker.reading import Reading
from ranker.rules import SurfaceRules


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
    standing = reading.popularity.standing(now, lock, count)
    ids, join, found = standing.ids[:count], reading.join, dict[str, About]()
    with lock:
        rows = reading.tables[ITEM_KEY].rows_of_ids(ids)
        authors, categories = join.texts("author_id", rows), join.texts("categories", rows)
        numbers = {path: join.numbers(path, rows).tolist() for path in paths}
    for place, (item, clicks) in enumerate(zip(ids, standing.clicks, strict=False)):
        own = {path: column[place] for path, column in numbers.items()}
        found[item] = About(clicks, authors[place], categories[place], own)
    return Popular(found)
