"""The archived serving log, record by record, without holding more than a row group of it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from streaming.logs.files import LogFile, LogFiles, between, parts_of
from streaming.logs.schema import RANKING_LOG

_HEADS = ("offset", "request_id", "now", "items")
_WHOLE = ("offset", "value")


class Where(NamedTuple):
    """One record of the serving log: life and partition of its topic, and offset."""

    generation: int
    partition: int
    offset: int


class Head(NamedTuple):
    """What a record is about."""

    where: Where
    now: int
    request_id: str
    items: tuple[str, ...]


class ServedLog:
    """The records of the archived serving log, each once, in order of offset."""

    def __init__(self, files: LogFiles) -> None:
        self._files = files
        self._listed: dict[tuple[int, int], list[LogFile]] = {}
        for file in files.all(RANKING_LOG.name):
            self._listed.setdefault(file.name[:2], []).append(file)

    def heads(self) -> Iterator[Head]:
        """What each record is about; what is no record is left out."""
        for where, rows in self._tables(_HEADS):
            now = rows.column("now").cast(pa.int64()).to_pylist()
            names = (rows.column(name).to_pylist() for name in ("offset", "request_id", "items"))
            for at, (offset, request, items) in zip(now, zip(*names, strict=True), strict=True):
                if at is not None and request is not None and items:
                    yield Head(Where(*where, offset), at, request, tuple(items))

    def records(self) -> Iterator[tuple[Where, dict[str, Any]]]:
        """The records themselves."""
        for where, rows in self._tables(_WHOLE):
            offsets = np.asarray(rows.column("offset")).tolist()
            for offset, value in zip(offsets, rows.column("value"), strict=True):
                if value.is_valid:
                    yield Where(*where, offset), orjson.loads(value.as_py())

    def _tables(self, columns: tuple[str, ...]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for where, mine in self._listed.items():
            for part in parts_of(mine):
                with self._files.open(part.file) as file:
                    for group in range(file.num_row_groups):
                        rows = file.read_row_group(group, columns=list(columns))
                        yield where, between(rows, part.first, part.last)
