"""A broker in memory: groups that move partitions under their members, and late appends."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from features.errors import Unavailable
from streaming.records import Listener, Outgoing, Record


@dataclass
class Topic:
    """Logs by partition; `shown` is how much of each can be read."""

    logs: list[list[Record]]
    shown: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, partitions: int) -> "Topic":
        """A topic to append to."""
        return cls([[] for _ in range(partitions)], [0] * partitions)

    def append(self, partition: int, value: bytes) -> None:
        """Write one record at the end, to be read at once."""
        log = self.logs[partition]
        log.append(Record(partition, len(log), None, value, 0))
        self.shown[partition] = len(log)


@dataclass
class Group:
    """Who owns what in truth, and the committed offsets."""

    topic: Topic
    owners: dict[int, str] = field(default_factory=dict)
    tenures: dict[int, int] = field(default_factory=dict)
    """How often each partition has changed hands: who gets one back gained it anew."""
    committed: dict[int, int] = field(default_factory=dict)

    def rebalance(self, members: Sequence[str], rng: random.Random) -> None:
        """Share the partitions out anew; the members hear of it when they poll."""
        parts = range(len(self.topic.logs))
        owners = {p: rng.choice(members) for p in parts} if members else {}
        for p in parts:
            self.tenures[p] = self.tenures.get(p, 0) + (owners.get(p) != self.owners.get(p))
        self.owners = owners

    def of(self, member: str) -> dict[int, int]:
        """The partitions of a member, and since which change of hands."""
        return {p: self.tenures.get(p, 0) for p, owner in self.owners.items() if owner == member}


class SimulatedSource:
    """A member of a group: a `RecordSource` that may be a zombie without knowing it."""

    def __init__(
        self,
        group: Group,
        member: str,
        rng: random.Random,
        pause: Callable[[bool], None],
        failure_rate: Callable[[], float],
    ) -> None:
        self._group, self._member = group, member
        self._rng, self._pause, self._rate = rng, pause, failure_rate
        self._listener: Listener | None = None
        self._owned: dict[int, int] = {}
        self._position: dict[int, int] = {}
        self._stopped: set[int] = set()
        self._held = False

    def subscribe(self, listener: Listener) -> None:
        self._listener = listener

    def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        self._pause(True)
        assert self._listener is not None
        changed: set[int] = set()
        if self._rng.random() > self._rate() * 8:  # else a zombie does not hear of it yet
            truth = self._group.of(self._member)
            lost = sorted(p for p, t in self._owned.items() if truth.get(p) != t)
            gained = sorted(p for p, t in truth.items() if self._owned.get(p) != t)
            changed = {*lost, *gained}
            self._owned = truth
            self._stopped.difference_update(changed)
            if lost:
                self._listener.lost(lost)
            if gained:
                self._listener.gained(gained)
        if self._held:
            return {}
        polled: dict[int, list[Record]] = {}
        for partition in sorted(self._owned.keys() - changed - self._stopped):
            at = self._position[partition]
            end = min(at + self._rng.randint(0, 12), self._group.topic.shown[partition])
            if end > at:
                polled[partition] = self._group.topic.logs[partition][at:end]
                self._position[partition] = end
        return polled

    def committed(self, partition: int) -> int | None:
        self._pause(False)
        return self._group.committed.get(partition)

    def beginning(self, partition: int) -> int:
        return 0

    def seek(self, partition: int, offset: int) -> None:
        self._position[partition] = offset

    def commit(self, offsets: Mapping[int, int]) -> None:
        self._pause(False)
        fails = self._rng.random() < self._rate()
        happens = not fails or self._rng.random() < 0.5
        truth = self._group.of(self._member)
        if any(truth.get(p) != self._owned.get(p, -1) for p in offsets):
            raise Unavailable("a commit of one that is no longer a member")
        if happens:
            self._group.committed |= offsets
        self._pause(False)
        if fails:
            raise Unavailable("nobody knows whether the commit was taken")

    def hold(self, held: bool) -> None:
        self._held = held

    def stop(self, partition: int) -> None:
        self._stopped.add(partition)

    def end(self, partition: int) -> int | None:
        return self._group.topic.shown[partition]

    def close(self) -> None:
        """The group learns of it from the simulator."""


class SimulatedSink:
    """A `RecordSink` whose records arrive in order per partition, but when they like.

    What was sent by one that died may still arrive, long after its successor began.
    """

    def __init__(
        self,
        updates: Topic,
        letters: list[Outgoing],
        rng: random.Random,
        pause: Callable[[bool], None],
        failure_rate: Callable[[], float],
    ) -> None:
        self._updates, self._letters, self._rng = updates, letters, rng
        self._pause, self._rate = pause, failure_rate
        self._queued: dict[int, list[bytes]] = defaultdict(list)
        self._on_its_way: dict[int, int] = {}

    def send(self, outgoing: Outgoing) -> None:
        self._pause(False)
        if outgoing.partition is None:
            self._letters.append(outgoing)
            return
        self._queued[outgoing.partition].append(outgoing.value)
        if self._rng.random() < 0.3:
            self.arrive()

    def flush(self) -> None:
        while any(self._queued.values()):
            self._pause(False)
            if self._rng.random() < self._rate():
                self.abandon()
                raise Unavailable("a record was not acknowledged")
            self.arrive()
        self._pause(False)

    def close(self) -> None:
        self.abandon()

    def arrive(self) -> None:
        """Some of what is queued arrives, in order within each partition."""
        for partition, values in self._queued.items():
            for _ in range(self._rng.randint(0, len(values))):
                value = values.pop(0)
                # A producer that did not hear the acknowledgement sends it once more.
                for _ in range(2 if self._rng.random() < self._rate() else 1):
                    self._updates.append(partition, value)

    def abandon(self) -> None:
        """Nobody waits any longer: only what is on its way may still arrive."""
        for values in self._queued.values():
            del values[self._rng.randint(0, len(values)) :]

    @property
    def arrived(self) -> bool:
        """Whether nothing is on its way."""
        return not any(self._queued.values())
