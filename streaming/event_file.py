"""Event files: JSON Lines, plain or gzipped, read in batches and written whole or not at all."""

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from features.errors import BadInput
from features.events import RECORD_BYTES_MAX, BadEvent, Event, dump_event, parse_events

BATCH_RECORDS = 1000
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines of a file: number, bytes and event of each; blank lines are left out."""

    lines: list[int]
    values: list[bytes]
    events: list[Event | BadEvent]
    position: int
    """Bytes of the file read so far, of `path.stat().st_size`."""


def read_batches(path: Path) -> Iterator[Batch]:
    """The file's lines, a thousand at a time; BadInput if it cannot be read."""
    number = 0
    lines: list[int] = []
    values: list[bytes] = []
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            with gzip.open(raw) if zipped else raw as source:
                for number, line in enumerate(_lines(source), 1):
                    if value := line.strip():
                        lines.append(number)
                        values.append(value)
                    if len(values) == BATCH_RECORDS:
                        yield Batch(lines, values, parse_events(values), raw.tell())
                        lines, values = [], []
                if values:
                    yield Batch(lines, values, parse_events(values), raw.tell())
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read after line {number}: {error}") from error


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file without a bad line; BadInput at the first."""
    for batch in read_batches(path):
        for line, event in zip(batch.lines, batch.events, strict=True):
            if isinstance(event, BadEvent):
                raise bad_line(path, line, event)
            yield event


def bad_line(path: Path, line: int, event: BadEvent) -> BadInput:
    """The error for a file that must be clean and is not."""
    return BadInput(
        f"{path}, line {line}: {event.reason}. `headrace events check {path}` lists the bad lines"
    )


def write_events(path: Path, events: Iterable[Event]) -> int:
    """How many events were written; gzipped if the name ends in `.gz`.

    The file appears under its name only when complete.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as raw:
            # No name and no time inside the gzip, so the same events make the same bytes.
            zipped = path.suffix == ".gz"
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) if zipped else raw as sink:
                for event in events:
                    sink.write(dump_event(event) + b"\n")
                    count += 1
        part.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def _lines(source: BufferedReader | gzip.GzipFile) -> Iterator[bytes]:
    """The lines; one over the limit of a record is cut just past it, so memory stays bounded."""
    limit = RECORD_BYTES_MAX + 2
    while line := source.readline(limit):
        yield line
        while len(line) == limit and not line.endswith(b"\n"):
            line = source.readline(limit)
