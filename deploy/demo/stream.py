"""Sending events to the running stack, and knowing when they are folded."""

import re
import time
from collections.abc import Callable, Sequence

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from deploy.stack_file import Stack
from features.errors import Unavailable
from features.events import Event, dump_event, record_key
from streaming.records import Outgoing, RecordSink

BATCH = 5_000
STALLED_S = 60.0
POLL_INTERVAL_S = 0.005
_TOTAL = re.compile(
    r'^headrace_events_total\{kind="(\w+)",process="\w+"\} ([\d.e+]+)$', re.MULTILINE
)


class Stream:
    """The stack's intake: what was sent to Kafka, what `route` and `aggregate` made of it."""

    def __init__(self, stack: Stack, sink: RecordSink, topic: str) -> None:
        self._sink, self._topic = sink, topic
        self._urls = {
            name: f"http://127.0.0.1:{stack.children[name].port}/metrics"
            for name in ("route", "aggregate")
        }
        self._sent = 0

    def send(self, events: Sequence[Event]) -> None:
        """Send events and wait until Kafka has acknowledged them all."""
        for event in events:
            self._sink.send(Outgoing(self._topic, record_key(event), dump_event(event)))
        self._sink.flush()
        self._sent += len(events)

    def folded(self) -> int:
        """How many of the events sent are surely visible in Redis."""
        route, aggregate = self._totals("route"), self._totals("aggregate")
        routed = sum(route.get(kind, 0) for kind in ("accepted", "repeated", "dead"))
        made = route.get("updates", 0)
        done = sum(
            aggregate.get(f"{kind}_updates", 0) for kind in ("folded", "repeated", "skipped")
        )
        # A worker adds to its totals one by one: what a second look confirms was complete.
        if routed >= self._sent and done >= made and route == self._totals("route"):
            return self._sent
        return min(self._sent - 1, int(routed * done / made)) if made else 0

    def wait(self, show: Callable[[int], None] = lambda folded: None) -> None:
        """Return when everything sent is visible in Redis; tells how many are, meanwhile.

        Raises Unavailable when none has been folded for a minute.
        """
        best, since = -1, time.monotonic()
        while (folded := self.folded()) < self._sent:
            show(folded)
            if folded > best:
                best, since = folded, time.monotonic()
            if time.monotonic() - since > STALLED_S:
                raise Unavailable(
                    f"{self._sent - folded:,} events are not folded after {STALLED_S:.0f} s: "
                    "see the logs of route and aggregate in the data folder"
                )
            time.sleep(POLL_INTERVAL_S)

    def play(self, events: Sequence[Event], console: Console) -> float:
        """Stream events at full speed with a bar; returns the seconds until all are folded."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        began = time.monotonic()
        with Progress(*columns, console=console) as bar:
            sent = bar.add_task("acknowledged by Kafka", total=len(events), rate="")
            folded = bar.add_task("folded into Redis   ", total=len(events), rate="")
            before = self._sent
            for start in range(0, len(events), BATCH):
                self.send(events[start : start + BATCH])
                _show(bar, sent, self._sent - before, began)
                _show(bar, folded, max(0, self.folded() - before), began)
            self.wait(lambda done: _show(bar, folded, max(0, done - before), began))
            _show(bar, folded, len(events), began)
        return time.monotonic() - began

    def _totals(self, process: str) -> dict[str, int]:
        try:
            text = httpx.get(self._urls[process], timeout=5.0).text
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{process} does not answer ({error}): see its log in the data folder"
            ) from error
        return {kind: int(float(amount)) for kind, amount in _TOTAL.findall(text)}


def _show(bar: Progress, task: TaskID, done: int, began: float) -> None:
    rate = f"{done / (time.monotonic() - began):,.0f} events/s"
    bar.update(task, completed=done, rate=rate)
