"""Route: events into blocks of updates, one block per target partition and step, whatever the
number of partitions they came from.

A step is a pure function of the log and of what the router remembers of it. Nothing is looked
up, so nothing depends on the order in which partitions are read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np

from features.events import BadEvent
from features.reader import Reader
from features.updates import partition_of
from streaming.blocks import Block, BlockHeader, Span, by_target, encode_block, part_of
from streaming.dead_letters import dead_letter
from streaming.dedup import Dedup
from streaming.records import Outgoing, Record

BLOCK_BYTES: Final = 8 * 1024 * 1024
"""A block is cut about here, well below what a broker takes as one record."""
UPDATE_BYTES: Final = 150
"""What one update weighs: its columns, and what is around the id in its key."""


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """What decides a router's output beside the log."""

    events: str
    updates: str
    dead_letters: str
    targets: int
    """Partitions of `updates`."""
    horizon: int
    """Offsets within which a repeated event id is dropped."""
    max_ahead_ms: int
    """How far past its append time an event may claim to have happened."""
    late_after_ms: int = 3_600_000
    """How far behind the newest event of its partition an event is called late; it counts."""


@dataclass(slots=True)
class Routed:
    """What one step sends, and what it saw."""

    outgoing: list[Outgoing] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Events by fate: accepted (of them late), repeated, dead; and updates, blocks."""
    newest_event_time: int = 0


class Router:
    """The state of one `route` incarnation for the partitions it owns."""

    def __init__(self, settings: RouteSettings, generation: int, incarnation: str) -> None:
        self._settings = settings
        self._generation = generation
        self._incarnation = incarnation
        self._dedup: dict[int, Dedup] = {}
        self._resume_at: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        """Newest event time by partition, of what was accepted: its watermark."""
        self._sequence: Counter[tuple[int, int]] = Counter()

    def own(self, partition: int, resume_at: int) -> int:
        """Take over a partition; returns where to read from: the dedup span before it."""
        self._dedup[partition] = Dedup(self._settings.horizon)
        self._resume_at[partition] = resume_at
        return max(0, resume_at - self._settings.horizon)

    def disown(self, partition: int) -> None:
        """Forget a partition."""
        self._dedup.pop(partition, None)
        self._resume_at.pop(partition, None)
        self._newest.pop(partition, None)

    def step(self, arrived: Mapping[int, Sequence[Record]], projection: Reader[Any]) -> Routed:
        """Route consecutive records of partitions under one plan."""
        routed = Routed()
        taken: list[_Taken] = []
        for partition, records in arrived.items():
            taken += self._accepted(partition, records, projection, routed)
        routed.counts["accepted"] += len(taken)
        first = {partition: records[0].offset for partition, records in arrived.items()}
        for piece in _pieces(taken, projection):
            self._blocks(piece, first, projection, routed)
            first |= {one.source: one.offset + 1 for one in piece}
        return routed

    def _blocks(
        self,
        events: Sequence["_Taken"],
        first: Mapping[int, int],
        projection: Reader[Any],
        routed: Routed,
    ) -> None:
        """One block per target partition, of events that cover their sources from some offsets."""
        columns = projection.updates(enumerate(one.event for one in events))
        routed.counts["updates"] += len(columns)
        last = {one.source: one.offset for one in events}
        places = {source: place for place, source in enumerate(last)}
        event, source = columns.offset, np.array([places[one.source] for one in events], np.int64)
        columns = replace(columns, offset=np.array([one.offset for one in events], np.int64)[event])
        targets = [partition_of(key, self._settings.targets) for key in columns.keys]
        for target, chosen in by_target(columns, np.array(targets, np.int64)).items():
            counts = np.bincount(source[event[chosen]], minlength=len(places)).tolist()
            header = BlockHeader(
                plan=projection.plan.version,
                generation=self._generation,
                incarnation=self._incarnation,
                spans=tuple(
                    Span(source, first[source], last[source], self._number(source, target), count)
                    for source, count in zip(places, counts, strict=True)
                    if count
                ),
            )
            content = encode_block(Block(header, part_of(columns, chosen)))
            routed.outgoing.append(Outgoing(self._settings.updates, None, content, target))
            routed.counts["blocks"] += 1

    def _number(self, source: int, target: int) -> int:
        """The number of the next block from a source to a target."""
        self._sequence[source, target] += 1
        return self._sequence[source, target] - 1

    def _accepted(
        self, partition: int, records: Sequence[Record], projection: Reader[Any], routed: Routed
    ) -> list["_Taken"]:
        """The events that count, noting repeats and sending dead letters."""
        resume_at, dedup = self._resume_at[partition], self._dedup[partition]
        accepted: list[_Taken] = []
        parsed = projection.parse([record.value for record in records])
        for record, event in zip(records, parsed, strict=True):
            if isinstance(event, BadEvent):
                if record.offset >= resume_at:
                    self._bury(record, event.reason, routed)
                continue
            identity = projection.identity(event)
            if identity is not None and dedup.repeated(identity, record.offset):
                routed.counts["repeated"] += record.offset >= resume_at
                continue
            if record.offset < resume_at:
                continue
            reason = self._refusal(record, event, projection)
            if reason is not None:
                self._bury(record, reason, routed)
                continue
            newest = max(self._newest.get(partition, 0), event.event_time)
            routed.counts["late"] += newest - event.event_time > self._settings.late_after_ms
            self._newest[partition] = newest
            routed.newest_event_time = max(routed.newest_event_time, newest)
            accepted.append(_Taken(partition, record.offset, len(record.value or b""), event))
        return accepted

    def _refusal(self, record: Record, event: Any, projection: Reader[Any]) -> str | None:
        ahead = event.event_time - record.append_time
        if ahead > self._settings.max_ahead_ms:
            return (
                f"event_time: {ahead} ms ahead of its append time, "
                f"the limit is {self._settings.max_ahead_ms}"
            )
        return projection.refusal(event)

    def _bury(self, record: Record, reason: str, routed: Routed) -> None:
        routed.counts["dead"] += 1
        settings = self._settings
        routed.outgoing.append(dead_letter(settings.dead_letters, settings.events, record, reason))


class _Taken(NamedTuple):
    """An event that counts, and where it stood."""

    source: int
    offset: int
    size: int
    """Bytes of its record."""
    event: Any


def _pieces(events: Sequence[_Taken], projection: Reader[Any]) -> Iterator[list[_Taken]]:
    """The events in runs that fit into one block even if all went to one target."""
    piece: list[_Taken] = []
    weight = 0
    for one in events:
        more = projection.update_count(one.event) * UPDATE_BYTES + projection.copies * one.size
        if piece and weight + more > BLOCK_BYTES:
            yield piece
            piece, weight = [], 0
        piece.append(one)
        weight += more
    if piece:
        yield piece
