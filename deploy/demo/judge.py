"""Quality on held-back events: the ranker's order against two honest baselines.

Requests are ranked by the live service at the time they happened, with the events up to the
current step in its state; the baselines know exactly the same events.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent
from ranker.request import RankResponse
from ranker.training.evaluation import auc, request_gauc
from streaming.replay import Request

HOUR_MS = 3_600_000
Rank = Callable[[dict[str, object]], RankResponse]


@dataclass(slots=True)
class Known:
    """What a baseline knows: when items were acted upon, and when they were made."""

    label: str
    acted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    created: dict[str, int] = field(default_factory=dict)

    def learn(self, events: Sequence[Event]) -> None:
        """Take in streamed events, which come in order of time."""
        for event in events:
            if isinstance(event, EngagementEvent) and event.action == self.label:
                self.acted[event.item_id].append(event.event_time)
            elif isinstance(event, ItemEvent):
                self.created[event.item_id] = event.created_at or 0

    def actions(self, item: str, now: int, window_ms: int) -> int:
        """How often an item was acted upon in a window that ends before now."""
        times = self.acted.get(item, [])
        return bisect_left(times, now) - bisect_left(times, now - window_ms)


@dataclass(slots=True)
class Judgement:
    """Scores of every judged row by every method."""

    label: list[int] = field(default_factory=list)
    request: list[int] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    took_ms: list[float] = field(default_factory=list)

    def add(self, request: Request, known: Known, rank: Rank) -> None:
        """Rank one recorded request by every method."""
        response = rank(
            {
                "user_id": request.user_id,
                "surface": request.surface,
                "candidates": request.items,
                "limit": min(500, len(request.items)),
                "now": request.now,
                "request_id": request.request_id,
            }
        )
        self.took_ms.append(response.took_ms)
        by_item = {item.item_id: item.score for item in response.items}
        number = len(self.took_ms)
        for item, actions in zip(request.items, request.outcomes, strict=True):
            if item not in by_item:
                continue
            self.label.append(int(known.label in actions))
            self.request.append(number)
            self.scores["Headrace"].append(by_item[item])
            for name, window in (("popular, last hour", 1), ("popular, last day", 24)):
                count = known.actions(item, request.now, window * HOUR_MS)
                self.scores[name].append(count)
            self.scores["newest first"].append(known.created.get(item, 0))

    def table(self) -> dict[str, tuple[float, float]]:
        """Method → (AUC over all rows, AUC inside requests weighted by rows)."""
        label, request = np.array(self.label), np.array(self.request)
        return {
            name: (auc(label, np.array(score)), request_gauc(label, np.array(score), request))
            for name, score in self.scores.items()
        }


def judged_requests(events: Sequence[Event], label: str, from_ms: int) -> list[Request]:
    """Recorded requests that begin after the cut, in order of time, with what followed."""
    found: dict[str, Request] = {}
    for event in events:
        if isinstance(event, ImpressionEvent):
            request = found.setdefault(
                event.request_id,
                Request(event.request_id, event.user_id, event.surface, event.event_time, [], []),
            )
            for shown in event.items:
                if shown.item_id not in request.items:
                    request.items.append(shown.item_id)
                    request.outcomes.append(set())
        elif isinstance(event, EngagementEvent) and event.request_id in found:
            request = found[event.request_id]
            if event.item_id in request.items and event.action == label:
                request.outcomes[request.items.index(event.item_id)].add(event.action)
    return sorted((r for r in found.values() if r.now >= from_ms), key=lambda r: r.now)
