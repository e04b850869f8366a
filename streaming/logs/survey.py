"""What an archive holds: spans, gaps and duplicates of each partition of each log."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from features.layout import Ints
from streaming.logs.files import LogFile, LogFiles, between, parts_of


class Gap(NamedTuple):
    """Offsets that no file holds between two that do."""

    first: int
    last: int


class Survey(NamedTuple):
    """One partition of a log, in one life of its topic."""

    kind: str
    generation: int
    partition: int
    first: int
    last: int
    files: int
    records: int
    from_ms: int
    to_ms: int
    gaps: tuple[Gap, ...]
    overlaps: int
    """Offsets that more than one file holds; readers take each once."""
    faults: int
    """Records that are no event."""
    repeats: int
    """Events whose id came before in the partition; replay drops those within the horizon."""


def survey(files: LogFiles) -> Iterator[Survey]:
    """Every partition there is, file by file."""
    for kind in files.kinds():
        listed: dict[tuple[int, int], list[LogFile]] = {}
        for file in files.all(kind):
            listed.setdefault(file.name[:2], []).append(file)
        for mine in listed.values():
            yield _survey(files, kind, mine)


def gaps_of(files: Sequence[LogFile]) -> tuple[Gap, ...]:
    """What is missing between the files of one partition, in their order."""
    pairs = pairwise(parts_of(files))
    return tuple(Gap(a.last + 1, b.first - 1) for a, b in pairs if b.first > a.last + 1)


def _survey(files: LogFiles, kind: str, mine: Sequence[LogFile]) -> Survey:
    records = faults = held = 0
    times: list[int] = []
    ids: list[Ints] = []
    for part in parts_of(mine):
        with files.open(part.file) as file:
            wanted = ["offset", "append_time"]
            wanted += [n for n in ("identity", "fault") if n in file.schema_arrow.names]
            rows = between(file.read(columns=wanted), part.first, part.last)
        held += part.last - part.first + 1
        records += len(rows)
        if not len(rows):
            continue
        appended = np.asarray(rows.column("append_time").cast(pa.int64()))
        times += [int(appended.min()), int(appended.max())]
        if "fault" in rows.schema.names:
            faults += len(rows) - rows.column("fault").null_count
            ids.append(np.asarray(rows.column("identity").drop_null(), np.int64))
    every = np.concatenate(ids) if ids else np.zeros(0, np.int64)
    spanned = sum(file.name.last - file.name.first + 1 for file in mine)
    return Survey(
        kind=kind,
        generation=mine[0].name.generation,
        partition=mine[0].name.partition,
        first=mine[0].name.first,
        last=max(file.name.last for file in mine),
        files=len(mine),
        records=records,
        from_ms=min(times, default=0),
        to_ms=max(times, default=0),
        gaps=gaps_of(mine),
        overlaps=spanned - held,
        faults=faults,
        repeats=len(every) - len(np.unique(every)),
    )
