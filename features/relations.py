"""Durable relations: per (relation, target) the newest of the two actions that begin and end it.

A row keeps its newest `limit` pairs by (time, event). That commutes: a pair that fell out could
only come back with an action newer than the oldest one kept, and that is its newest anyway. Ended
pairs are kept as well, because a late beginning must still find the end that came after it.
"""

from collections.abc import Iterator, Sequence
from typing import Final, cast

import numpy as np

from features.codec import decode_value, encode_value
from features.errors import BadInput
from features.layout import NEVER, Ints
from features.spec import RelationsView
from features.tables import Folding, StoredRow
from features.updates import Columns

RELATION_FIELDS: Final = ("targets", "actions", "times", "events")
"""The parallel lists of a stored row, oldest first by (time, event)."""

Stand = tuple[int, int, str]
"""Time, event hash and action of the newest word on one pair. The last one breaks no tie between
events (their ids differ), it only makes the order total."""
Pair = tuple[str, str]
"""Relation and target."""


class RelationsTable:
    """Rows of one relations view; a row is decoded when it is folded into or read."""

    fields: tuple[str, ...] = RELATION_FIELDS

    def __init__(self, view: RelationsView, actions: tuple[str, ...], rows: int = 64) -> None:
        self.view = view
        self.newest = np.full(rows, NEVER, np.int64)
        self._actions = actions
        self._relation_of = {a: r.on for r in view.relations for a in (r.on, r.off)}
        self._stored: list[Sequence[bytes | None] | None] = [None] * rows
        self._pairs: dict[int, dict[Pair, Stand]] = {}
        """Rows that were folded into or read since they were loaded."""

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self.newest)
        if rows > have:
            more = max(rows, 2 * have) - have
            self.newest = np.concatenate([self.newest, np.full(more, NEVER, np.int64)])
            self._stored.extend([None] * more)

    def folding(self, updates: Columns, chosen: Ints, rows: Ints) -> Folding:
        """Fold one action after the other."""
        texts = {"author": updates.author, "item": updates.item, "category": updates.category}
        targets, numbers = texts[self.view.target][chosen].tolist(), rows.tolist()
        times, events = updates.time[chosen].tolist(), updates.event[chosen].tolist()
        actions = updates.action[chosen].tolist()

        def fold(start: int, stop: int) -> None:
            for at in range(start, stop):
                stand = times[at], events[at], self._actions[actions[at]]
                self.fold(numbers[at], updates.texts[targets[at]], stand)

        return fold

    def fold(self, row: int, target: str, stand: Stand) -> None:
        """Let the newest word on a pair stand, and the row's newest pairs stay."""
        pairs = self.pairs(row)
        self.newest[row] = max(int(self.newest[row]), stand[0])
        pair = self._relation_of[stand[2]], target
        if stand <= pairs.get(pair, (NEVER, NEVER, "")):
            return
        pairs[pair] = stand
        while len(pairs) > self.view.limit:
            del pairs[min(pairs, key=lambda p: (pairs[p], p))]

    def pairs(self, row: int) -> dict[Pair, Stand]:
        """The newest word on each pair of a row."""
        found = self._pairs.get(row)
        if found is None:
            found = self._pairs[row] = self._decoded(self._stored[row])
        return found

    def related(self, row: int, relation: str) -> frozenset[str]:
        """The targets that a row's relation holds with now, by the action that begins it."""
        return frozenset(
            target
            for (name, target), (_, _, action) in self.pairs(row).items()
            if name == relation == action
        )

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds."""
        for place, row in enumerate(rows.tolist()):
            self.newest[row] = updated_at[place]
            self._stored[row] = values[place]
            self._pairs.pop(row, None)

    def encoded(self, rows: Ints) -> Iterator[StoredRow]:
        """The lists of each row; a row that was folded into holds at least one pair."""
        for row in rows.tolist():
            stands = sorted((stand, pair) for pair, stand in self.pairs(row).items())
            lists = (
                ([pair[1] for _, pair in stands], "Array(String)"),
                ([stand[2] for stand, _ in stands], "Array(String)"),
                ([stand[0] for stand, _ in stands], "Array(Int64)"),
                ([stand[1] for stand, _ in stands], "Array(Int64)"),
            )
            yield StoredRow([encode_value(*content) or None for content in lists], ())

    def _decoded(self, stored: Sequence[bytes | None] | None) -> dict[Pair, Stand]:
        lists = [decode_value(value) if value else [] for value in stored or ((),) * 4]
        if any(not isinstance(each, list) for each in lists) or len({*map(len, lists)}) > 1:  # type: ignore[arg-type]
            raise BadInput(
                f"a stored row of view {self.view.name} is not four lists of one length; it was "
                "written by something else: delete the row, then replay into it"
            )
        targets, actions = cast(list[list[str]], lists[:2])
        times, events = cast(list[list[int]], lists[2:])
        # An action of another plan keeps its place: what it says is not ours to drop.
        return {
            (self._relation_of.get(action, action), target): (time, event, action)
            for target, action, time, event in zip(targets, actions, times, events, strict=True)
        }
