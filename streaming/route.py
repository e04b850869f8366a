"""Route: events into blocks of updates, one block per target partition and step.

A step is a pure function of the log and of what the router remembers of it. Nothing is looked
up, so nothing depends on the order in which partitions are read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from features.events import BadEvent
from features.reader import Reader
from features.updates import partition_of
from streaming.blocks import Block, BlockHeader, encode_block, split_by_target
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

    def step(self, partition: int, records: Sequence[Record], projection: Reader[Any]) -> Routed:
        """Route consecutive records of one partition under one plan."""
        routed = Routed()
        accepted = self._accepted(partition, records, projection, routed)
        routed.counts["accepted"] += len(accepted)
        sizes = {record.offset: len(record.value or b"") for record in records}
        first = records[0].offset
        for events in _pieces(accepted, sizes, projection):
            covered = first, events[-1][0]
            self._blocks(partition, covered, events, projection, routed)
            first = events[-1][0] + 1
        return routed

    def _blocks(
        self,
        partition: int,
        covered: tuple[int, int],
        events: list[tuple[int, Any]],
        projection: Reader[Any],
        routed: Routed,
    ) -> None:
        """One block per target partition, of events whose offsets they cover."""
        columns = projection.updates(events)
        routed.counts["updates"] += len(columns)
        targets = np.array(
            [partition_of(key, self._settings.targets) for key in columns.keys], np.int64
        )
        for target, part in split_by_target(columns, targets).items():
            header = BlockHeader(
                plan=projection.plan.version,
                generation=self._generation,
                source=partition,
                first=covered[0],
                last=covered[1],
                incarnation=self._incarnation,
                sequence=self._sequence[partition, target],
            )
            self._sequence[partition, target] += 1
            content = encode_block(Block(header, part))
            routed.outgoing.append(Outgoing(self._settings.updates, None, content, target))
            routed.counts["blocks"] += 1

    def _accepted(
        self, partition: int, records: Sequence[Record], projection: Reader[Any], routed: Routed
    ) -> list[tuple[int, Any]]:
        """The events that count, noting repeats and sending dead letters."""
        resume_at, dedup = self._resume_at[partition], self._dedup[partition]
        accepted: list[tuple[int, Any]] = []
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
            self._newest[partition] = routed.newest_event_time = newest
            accepted.append((record.offset, event))
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


def _pieces(
    events: Sequence[tuple[int, Any]], sizes: Mapping[int, int], projection: Reader[Any]
) -> Iterator[list[tuple[int, Any]]]:
    """The events in runs that fit into one block even if all went to one target."""
    piece: list[tuple[int, Any]] = []
    weight = 0
    for offset, event in events:
        more = projection.update_count(event) * UPDATE_BYTES
        more += projection.copies * sizes[offset]
        if piece and weight + more > BLOCK_BYTES:
            yield piece
            piece, weight = [], 0
        piece.append((offset, event))
        weight += more
    if piece:
        yield piece
