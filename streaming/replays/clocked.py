"""Recorded events tick by tick: what was appended within each, of all partitions together."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from features.layout import Ints
from streaming.replays.recorded import Place, Recorded


class Tick(NamedTuple):
    """Records appended before an instant and not in a tick before."""

    end_ms: int
    parts: list[tuple[Place, pa.Table]]

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(len(rows) for _, rows in self.parts)


class _Held:
    """The rows of one partition that are not in a tick yet."""

    def __init__(self, rows: Iterator[pa.Table]) -> None:
        self._rows = rows
        self._latest = 0
        self._table: pa.Table | None = None
        self._times: Ints = np.zeros(0, np.int64)
        self._more()

    @property
    def due_ms(self) -> int | None:
        """When the next record was appended; a log may tell of an earlier one after it."""
        return int(self._times[0]) if len(self._times) else None

    def before(self, end_ms: int) -> Iterator[pa.Table]:
        """The rows that were appended before an instant."""
        while len(self._times):
            stop, table = int(np.searchsorted(self._times, end_ms)), self._table
            assert table is not None
            if stop:
                yield table.slice(0, stop)
            if stop < len(self._times):
                self._table, self._times = table.slice(stop), self._times[stop:]
                return
            self._more()

    def _more(self) -> None:
        self._table = next(self._rows, None)
        times: Ints = np.zeros(0, np.int64)
        if self._table is not None:
            times = np.asarray(self._table.column("append_time").cast(pa.int64()), np.int64)
            times = np.maximum(np.maximum.accumulate(times), self._latest)
            self._latest = int(times[-1])
        self._times = times


def clocked(
    recorded: Recorded,
    columns: Sequence[str],
    firsts: Mapping[Place, int],
    stops: Mapping[Place, int],
    tick_ms: int,
) -> Iterator[Tick]:
    """Ticks that hold something, in order of time."""
    held = {
        place: _Held(recorded.rows(place, firsts[place], stops.get(place), columns))
        for place in recorded.places()
    }
    due = [(at, place) for place, one in held.items() if (at := one.due_ms) is not None]
    heapq.heapify(due)
    while due:
        end_ms = (due[0][0] // tick_ms + 1) * tick_ms
        parts = []
        while due and due[0][0] < end_ms:
            _, place = heapq.heappop(due)
            parts += [(place, rows) for rows in held[place].before(end_ms)]
            at = held[place].due_ms
            if at is not None:
                heapq.heappush(due, (at, place))
        yield Tick(end_ms, parts)
