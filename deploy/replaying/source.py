"""Where recorded events come from, by the name that a command was given."""

from collections.abc import Callable, Iterator
from pathlib import Path

from features.errors import BadInput
from features.events import BadEvent, Event, parse_events
from features.updates import event_hash
from streaming.archive_folder import ArrowFolder
from streaming.dedup import Dedup
from streaming.logs.files import LogFiles
from streaming.replays.recorded import (
    FILE_GENERATION,
    ArchivedEvents,
    FileEvents,
    Recorded,
    TopicEvents,
)
from streaming.settings import StreamingSettings
from streaming.wiring import open_broker


def log_files(source: str | None, default: Callable[[], str]) -> LogFiles | None:
    """The archive that a source names, the default's without one; None for a file or a topic."""
    if source is None:
        return LogFiles(ArrowFolder(default()))
    if source.startswith("kafka:") or source.endswith((".jsonl", ".jsonl.gz")):
        return None
    return LogFiles(ArrowFolder(source))


def recorded(source: str | None, files: LogFiles | None, settings: StreamingSettings) -> Recorded:
    """The events of an archive, of a file, or of a span of a topic."""
    named = source or "the archive of the repository"
    if files is not None:
        return ArchivedEvents(files, named)
    if not named.startswith("kafka:"):
        return FileEvents(Path(named))
    topic, _, span = named.removeprefix("kafka:").partition(":")
    first, _, stop = span.partition("-")
    if span and not (first.isdigit() and (stop.isdigit() or not stop)):
        raise BadInput(f"{named}: a span of offsets is FIRST-STOP, such as 1000-2000, or 1000-")
    return TopicEvents(
        open_broker(settings),
        topic,
        FILE_GENERATION,
        int(first or 0),
        int(stop) if stop else None,
    )


def events_of(source: Recorded, horizon: int) -> Iterator[Event]:
    """Partition by partition, each event once: a bad record is left out, and so is an id that
    occurred within the last `horizon` offsets, as `route` does."""
    for place in source.places():
        dedup = Dedup(horizon)
        for table in source.rows(place, 0, None, ("offset", "value")):
            offsets = table.column("offset").to_pylist()
            parsed = parse_events(table.column("value").to_pylist())
            for offset, event in zip(offsets, parsed, strict=True):
                if isinstance(event, BadEvent):
                    continue
                if not dedup.repeated(event_hash(event.event_id), offset):
                    yield event
