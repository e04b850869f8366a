"""Training rows from events: requests replayed, each with state as of its own instant."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import Progress, TaskID

from deploy.training.made import Made, Span
from features.events import Event
from features.spec import Plan
from ranker.training.rows import RowMaker
from ranker.training.sampling import once
from streaming.attribution import attributed
from streaming.event_file import read_events
from streaming.replay import Request, Timeline


def replayed(
    plan: Plan,
    service: str,
    file: Path,
    span: Span,
    actions: Sequence[str],
    repeats: bool,
    spill: Path | None,
    bar: Progress,
) -> Made:
    """The rows of the requests in the span, made as they would have been served."""
    read = _Read(bar, bar.add_task(f"reading {file.name}", total=None))
    events = read.each(read_events(file))
    if span.window_ms is not None:
        events = attributed(events, span.window_ms)
    timeline = Timeline(plan, events)
    span.close(read.newest_ms)
    maker = RowMaker(plan, service, timeline.tables, actions, spill)
    wanted = sum(span.holds(request.now) for request in timeline.requests)
    task = bar.add_task("replaying requests", total=wanted)

    def make(request: Request) -> None:
        if not span.holds(request.now):
            return
        items, outcomes = request.items, request.outcomes
        if not repeats:
            items, outcomes = once(items, outcomes)
        maker.add(request.now, request.user_id, request.surface, items, outcomes)
        bar.advance(task)

    timeline.run(make, span.until_ms)
    says = f"{timeline.repeated:,} repeated events dropped"
    return Made(maker.rows(), len(timeline.requests), timeline.events, says)


class _Read:
    """How many events were read, and the time of the newest."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self.newest_ms = 0

    def each(self, events: Iterator[Event]) -> Iterator[Event]:
        count = 0
        for event in events:
            count += 1
            self.newest_ms = max(self.newest_ms, event.event_time)
            if count % 5000 == 0:
                self._bar.update(self._task, completed=count)
            yield event
        self._bar.update(self._task, completed=count, total=count)
