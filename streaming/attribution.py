"""Attribution: which engagements are an answer to what a request showed, and which came too late.

An engagement that came too late stays a fact and changes state; it only stops being a label.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from features.events import EngagementEvent, Event, ImpressionEvent


def attributed(events: Iterable[Event], window_ms: int) -> Iterator[Event]:
    """The events in their order; an engagement keeps its request only within the window after its
    item was first shown under it.

    Requests whose first impression lies more than two windows back are forgotten, so what is held
    does not grow with the stream; an engagement with one of those is late as well.
    """
    shown: OrderedDict[str, dict[str, int]] = OrderedDict()
    for event in events:
        if isinstance(event, ImpressionEvent):
            items = shown.setdefault(event.request_id, {})
            for item in event.items:
                items.setdefault(item.item_id, event.event_time)
            _forget(shown, event.event_time - 2 * window_ms)
        elif isinstance(event, EngagementEvent) and event.request_id is not None:
            first = shown.get(event.request_id, {}).get(event.item_id)
            if first is None or event.event_time - first > window_ms:
                yield event.model_copy(update={"request_id": None})
                continue
        yield event


def _forget(shown: OrderedDict[str, dict[str, int]], before_ms: int) -> None:
    while shown and max(next(iter(shown.values())).values()) < before_ms:
        shown.popitem(last=False)
