"""Dead letters: records that could not be folded, kept whole with the reason and their origin."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from streaming.records import Outgoing, Record

REASON_BYTES_MAX = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was refused."""

    reason: str
    topic: str
    partition: int
    offset: int
    append_time: int
    key: bytes | None
    value: bytes


def dead_letter(to: str, topic: str, record: Record, reason: str) -> Outgoing:
    """The dead letter of a record: its own bytes, and headers that say why and from where."""
    headers = (
        ("reason", reason.encode()[:REASON_BYTES_MAX]),
        ("topic", topic.encode()),
        ("partition", b"%d" % record.partition),
        ("offset", b"%d" % record.offset),
        ("append_time", b"%d" % record.append_time),
    )
    return Outgoing(to, record.key, record.value or b"", None, headers)


def read_dead_letter(record: Record) -> DeadLetter:
    """The dead letter in a record of the dead-letters topic."""
    headers = dict(record.headers)
    return DeadLetter(
        reason=headers.get("reason", b"unknown").decode(errors="replace"),
        topic=headers.get("topic", b"unknown").decode(errors="replace"),
        partition=int(headers.get("partition", b"-1")),
        offset=int(headers.get("offset", b"-1")),
        append_time=int(headers.get("append_time", b"0")),
        key=record.key,
        value=record.value or b"",
    )


def distinct(letters: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
    """Each dead record once: a `route` that restarts may bury the same record again."""
    seen: set[tuple[str, int, int]] = set()
    for letter in letters:
        origin = (letter.topic, letter.partition, letter.offset)
        if origin not in seen:
            seen.add(origin)
            yield letter
