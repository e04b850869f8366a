"""What became of what was served: archived impressions and engagements, by request and item.

Joined with the serving log it makes labels. An item is judged once under its request, however
often it was seen there; an engagement is an answer to it within a window after it was first seen.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.replays.recorded import Recorded

COLUMNS = ("offset", "type", "event_time", "request_id", "action", "items")


@dataclass(slots=True)
class Outcome:
    """What is known of one item under one request."""

    seen_ms: int | None = None
    """When it was first seen; None: nobody saw it."""
    acts: set[tuple[str, int]] = field(default_factory=set)
    """(action, when) of every engagement with it."""

    def within(self, window_ms: int | None) -> set[str]:
        """The actions that followed its first sight within the window; None: whenever."""
        if self.seen_ms is None:
            return set()
        seen = self.seen_ms
        return {
            action
            for action, at in self.acts
            if at >= seen and (window_ms is None or at - seen <= window_ms)
        }

    def followed(self, newest_ms: int, window_ms: int | None) -> set[str] | None:
        """The actions within the window; None for what nobody saw, or may still be answered."""
        if self.seen_ms is None:
            return None
        if window_ms is not None and self.seen_ms + window_ms > newest_ms:
            return None
        return self.within(window_ms)


@dataclass(slots=True)
class Outcomes:
    """What became of the items of some requests, and until when that is known."""

    known: dict[tuple[str, str], Outcome]
    """By request and item."""
    newest_ms: int = 0
    """The newest event there is, of any kind."""
    events: int = 0
    """How many there are."""

    def of(self, request_id: str, item_id: str) -> Outcome:
        """What is known of one item; nothing where no event names it."""
        return self.known.get((request_id, item_id), Outcome())


def outcomes(recorded: Recorded, requests: Collection[str]) -> Outcomes:
    """Every impression and engagement of these requests, in whatever order they were recorded."""
    found = Outcomes({})
    wanted = pa.array(sorted(requests), pa.string())
    for place in recorded.places():
        for rows in recorded.rows(place, 0, None, COLUMNS):
            times = np.asarray(rows.column("event_time").cast(pa.int64()).drop_null(), np.int64)
            found.newest_ms = max(found.newest_ms, int(times.max(initial=0)))
            found.events += len(times)
            for row in _chosen(rows, wanted):
                _note(found, *row)
    return found


def _chosen(
    rows: pa.Table, wanted: pa.Array
) -> Iterator[tuple[str, int, str, str | None, Sequence[str]]]:
    """Type, time, request, action and items of the events that name one of the requests."""
    chosen = rows.filter(pc.is_in(rows.column("request_id"), value_set=wanted))
    names = ("type", "event_time", "request_id", "action", "items")
    columns = [
        (c.cast(pa.int64()) if name == "event_time" else c).to_pylist()
        for name in names
        for c in (chosen.column(name),)
    ]
    for kind, at, request, action, items in zip(*columns, strict=True):
        yield kind, at, request, action, [item["item_id"] for item in items or ()]


def _note(
    found: Outcomes, kind: str, at: int, request: str, action: str | None, items: Sequence[str]
) -> None:
    for item in items:
        one = found.known.setdefault((request, item), Outcome())
        if kind == "impression":
            one.seen_ms = at if one.seen_ms is None else min(one.seen_ms, at)
        elif kind == "engagement" and action is not None:
            one.acts.add((action, at))
