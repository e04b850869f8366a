"""A second look at what an adapter made: mappings that are valid events and wrong all the same.

A swapped column or a unit taken for another passes every check of a single event. What gives it
away is how the events fit together; each remark says what was seen, what it does, how to mend it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, UserEvent

REMEMBERED = 200_000
"""Requests that are kept to find what was done under them; older ones are forgotten."""
SECONDS_BELOW_MS = 100_000_000_000
"""Times below this, read as milliseconds, lie before March 1973: they are likely seconds."""
FEW = 0.02
MANY = 0.5


class Review:
    """Watches events pass, and has remarks afterwards."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._shown: dict[str, set[str]] = {}
        self._known: set[str] = set()
        self._newest = 0
        self._oldest = 2**63

    def each(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, unchanged."""
        for event in events:
            self._look(event)
            yield event

    def _look(self, event: Event) -> None:
        self.kinds[event.type] += 1
        self._seen["late"] += event.event_time < self._newest
        self._newest = max(self._newest, event.event_time)
        self._oldest = min(self._oldest, event.event_time)
        if isinstance(event, ItemEvent):
            self._known.add(event.item_id)
            self._seen["bare"] += event.author_id is None and not event.categories
        elif isinstance(event, ImpressionEvent):
            while len(self._shown) >= REMEMBERED:
                del self._shown[next(iter(self._shown))]
            items = {item.item_id for item in event.items}
            self._seen["continued"] += event.request_id in self._shown
            self._shown.setdefault(event.request_id, set()).update(items)
            self._seen["shown"] += len(items)
            self._seen["unknown"] += len(items - self._known)
        elif isinstance(event, EngagementEvent):
            self.actions[event.action] += 1
            if event.request_id is None:
                self._seen["of no request"] += 1
            elif event.item_id not in self._shown.get(event.request_id, ()):
                self._seen["astray"] += 1
        elif isinstance(event, UserEvent):
            self._seen["users"] += 1

    def acted(self) -> dict[str, int]:
        """How often each action came, impressions too, which stored views count likewise."""
        shown = {"impression": self.kinds["impression"]} if self.kinds["impression"] else {}
        return shown | dict(self.actions)

    def remarks(self) -> list[str]:
        """What looks wrong, worst first."""
        kinds, seen = self.kinds, self._seen
        acts, shown = kinds["engagement"], seen["shown"]
        rows = {
            "no impressions: nothing can be learnt, as a row is an item that was shown. Make an "
            "ImpressionEvent of each item or page that a user saw": not kinds["impression"],
            "no engagements: no label has a positive. Make an EngagementEvent of each click, view "
            "or purchase, with the request_id of the impression it answers": not acts,
            f"times lie around {self._newest} ms, in {1970 + self._newest // 31_557_600_000}: they "
            "are probably seconds; multiply by 1000": 0 < self._newest < SECONDS_BELOW_MS,
            f"{seen['late']:,} events come before an earlier one: sort by event_time, or state and "
            "repeats will not be what they were": seen["late"] > 0,
            f"{seen['astray']:,} of {acts:,} engagements name a request in which their item was "
            "not shown: they label nothing. request_id or item_id is probably another column on "
            "one side": seen["astray"] > FEW * max(acts, 1),
            f"none of {acts:,} engagements names a request: no row gets a label. Give the "
            "impression and what answers it one request_id": 0 < acts == seen["of no request"],
            f"{seen['unknown']:,} of {shown:,} shown items have no item event before they are "
            "shown: they have no author, category or age. item_id is probably spelt otherwise "
            "there, or the items come too late": seen["unknown"] > MANY * max(shown, 1),
            f"{seen['bare']:,} of {kinds['item']:,} items have neither author nor categories: "
            "rates and affinities of those stay empty": seen["bare"] > MANY * max(kinds["item"], 1),
        }
        return [remark for remark, wrong in rows.items() if wrong]
