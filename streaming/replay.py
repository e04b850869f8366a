"""Replay: recorded events folded on a virtual clock, with a call at the instant of each request.

The same projection and the same tables as the live processes; only the clock and the order of
delivery are made: events take effect in order of event time, and a request sees what happened
strictly before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from features.entities import EntityTable
from features.events import EngagementEvent, Event, ImpressionEvent
from features.layout import Ints
from features.project import Projection
from features.spec import Plan
from features.strings import Strings
from features.tables import Table
from features.updates import Columns, event_hash
from streaming.dedup import Dedup

FOREVER = 2**63 - 1


@dataclass(slots=True)
class Request:
    """One ranking call, as the impressions that share its id record it.

    `now` is the time of its first impression; its candidates are all items shown under its id.
    """

    request_id: str
    user_id: str
    surface: str
    now: int
    items: list[str]
    outcomes: list[set[str]]
    """Per item, the actions that followed under the same request id."""


class Timeline:
    """Recorded events, once each, made ready to be folded up to any instant."""

    def __init__(self, plan: Plan, events: Iterable[Event], horizon: int = 100_000) -> None:
        self.plan = plan
        self.strings = Strings()
        self.tables = {e.join_key: EntityTable(plan, e, self.strings) for e in plan.entities}
        self.repeated = 0
        self._requests: dict[str, Request] = {}
        columns = Projection(plan).updates(self._distinct(events, horizon))
        self.events = self._events
        self._streams = list(self._split(columns))

    @property
    def requests(self) -> list[Request]:
        """The requests in order of time."""
        return sorted(self._requests.values(), key=lambda request: request.now)

    def fold_until(self, now: int) -> None:
        """Fold everything that happened strictly before an instant."""
        for stream in self._streams:
            stream.fold_until(now)

    def run(self, on_request: Callable[[Request], None], until: int | None = None) -> None:
        """Walk through the requests before an instant, each with state as of its own."""
        for request in self.requests:
            if until is not None and request.now >= until:
                break
            self.fold_until(request.now)
            on_request(request)
        self.fold_until(until if until is not None else FOREVER)

    def _distinct(self, events: Iterable[Event], horizon: int) -> Iterator[tuple[int, Event]]:
        """Events whose id did not occur within the horizon; notes the requests they tell of."""
        dedup, self._events = Dedup(horizon), 0
        for offset, event in enumerate(events):
            self._events += 1
            if dedup.repeated(event_hash(event.event_id), offset):
                self.repeated += 1
                continue
            self._note(event)
            yield offset, event

    def _note(self, event: Event) -> None:
        if isinstance(event, ImpressionEvent):
            request = self._requests.get(event.request_id)
            if request is None:
                request = self._requests[event.request_id] = Request(
                    event.request_id, event.user_id, event.surface, event.event_time, [], []
                )
            request.now = min(request.now, event.event_time)
            for shown in event.items:
                request.items.append(shown.item_id)
                request.outcomes.append(set())
        elif isinstance(event, EngagementEvent) and event.request_id is not None:
            request = self._requests.get(event.request_id)
            if request is not None:
                # The newest impression of the item before the engagement is the one acted upon.
                for place in range(len(request.items) - 1, -1, -1):
                    if request.items[place] == event.item_id:
                        request.outcomes[place].add(event.action)
                        break

    def _split(self, columns: Columns) -> Iterator["_Stream"]:
        for number, view in enumerate(self.plan.views):
            chosen = np.flatnonzero(columns.view == number)
            if not len(chosen):
                continue
            chosen = chosen[np.argsort(columns.time[chosen], kind="stable")]
            table = self.tables[view.entity.join_key]
            keys, place = np.unique(columns.key[chosen], return_inverse=True)
            rows = np.array([table.row(columns.keys[key]) for key in keys.tolist()], np.int64)
            yield _Stream(table.tables[view.name], columns, chosen, rows[place])


class _Stream:
    """The updates of one view in order of event time, and how far they are folded."""

    def __init__(self, table: Table, columns: Columns, chosen: Ints, rows: Ints) -> None:
        self._fold = table.folding(columns, chosen, rows)
        self._times: Sequence[int] = columns.time[chosen].tolist()
        self._at = 0

    def fold_until(self, now: int) -> None:
        start = stop = self._at
        while stop < len(self._times) and self._times[stop] < now:
            stop += 1
        if stop > start:
            self._at = stop
            self._fold(start, stop)
