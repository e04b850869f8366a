"""What crosses Kafka: records in, records out, and the seams that tests fill with lists."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One Kafka record as a worker reads it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    append_time: int
    """Milliseconds, by the log; the same at every re-read."""
    headers: tuple[tuple[str, bytes], ...] = ()


class Outgoing(NamedTuple):
    """One record to write."""

    topic: str
    key: bytes | None
    value: bytes
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Listener(Protocol):
    """Told of changes of ownership, inside `poll`."""

    def gained(self, partitions: Sequence[int]) -> None:
        """These partitions are ours now; set where to read with `seek` before they are read.

        None are, when the group took in more members than there are partitions.
        """

    def lost(self, partitions: Sequence[int]) -> None:
        """These partitions are no longer ours; what was cached for them is worth nothing."""


class RecordSource(Protocol):
    """Records of one topic, read as a member of a group. One thread only.

    Calls raise `Unavailable` when the broker is away for longer than the client bridges.
    """

    def subscribe(self, listener: Listener) -> None:
        """Join the group."""

    def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        """New records by partition, in offset order within each."""

    def committed(self, partition: int) -> int | None:
        """The group's committed offset."""

    def beginning(self, partition: int) -> int:
        """The oldest offset still there."""

    def seek(self, partition: int, offset: int) -> None:
        """Read from this offset on."""

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit next offsets to read, for the group and lag monitors."""

    def hold(self, held: bool) -> None:
        """Stop or resume handing out records; `poll` still keeps the membership alive."""

    def stop(self, partition: int) -> None:
        """Hand out no more records of a partition, until it is lost and gained again."""

    def end(self, partition: int) -> int | None:
        """The offset after the last record, as the last fetch knew it; for lag, not for truth."""

    def close(self) -> None:
        """Leave the group."""


class RecordSink(Protocol):
    """Writes records; those of one partition stay in order."""

    def send(self, outgoing: Outgoing) -> None:
        """Queue a record."""

    def flush(self) -> None:
        """Return once all queued records are acknowledged; raise `Unavailable` otherwise."""

    def close(self) -> None:
        """Drop what is queued and close."""
