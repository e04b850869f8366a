"""The Kafka side of the seams in `streaming.records`. Nothing else in `streaming` knows Kafka."""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import TopicPartition as Partition
from kafka.admin import NewTopic
from kafka.coordinator.base import MemberState
from kafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from kafka.structs import OffsetAndMetadata

from features.errors import Refused, Unavailable
from features.tls import handshake_fault
from streaming.records import Listener, Outgoing, Record
from streaming.stall import StallWatch

R = TypeVar("R")

log = logging.getLogger("headrace.kafka")

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024
TOPIC: Final = {
    "max.message.bytes": str(RECORD_BYTES_MAX),
    # The time that `max_ahead_ms` is counted from is the log's, not the sender's.
    "message.timestamp.type": "LogAppendTime",
}
"""What a topic is created with."""
FLUSH_TIMEOUT_S: Final = 35.0
TOPIC_TIMEOUT_S: Final = 10.0
SILENT_S, QUIET_MS = 2.0, 20
"""After so long without a record a source asks at this pace."""
CALL_MS: Final = 5_000
JOIN_MS: Final = 1_000
"""A stop waits for it; the members of a group answer within a heartbeat or two."""
COMMIT_TIMEOUT_MS: Final = 1_000
FORGETFUL: Final = ("tansu_cluster",)
"""Ids of clusters whose topics are gone when they stop."""


@dataclass(frozen=True, slots=True)
class Broker:
    """How to reach Kafka."""

    bootstrap: str
    security: Mapping[str, Any]
    fetch_wait_ms: int = 100
    """How long it may hold a fetch for which there is nothing yet."""

    @property
    def client(self) -> dict[str, Any]:
        """Settings of every client.

        The reconnect bound matters: with the default a client stalls for tens of seconds, or for
        good, after a broker restarts.
        """
        return {
            "bootstrap_servers": self.bootstrap.split(","),
            "reconnect_backoff_max_ms": 500,
            "bootstrap_timeout_ms": 10_000,
            **self.security,
        }

    def topics(self, wanted: Mapping[str, int], replicas: int = 1) -> None:
        """Create the topics that are missing; refuse one with another number of partitions."""
        with reached(self):
            admin = KafkaAdminClient(**self.client)
        try:
            with reached(self):
                missing = {t: n for t, n in wanted.items() if t not in set(admin.list_topics())}
                fresh = [NewTopic(t, n, replicas, topic_configs=TOPIC) for t, n in missing.items()]
                if fresh:
                    with suppress(TopicAlreadyExistsError):  # another worker was first
                        admin.create_topics(fresh)
            for topic, partitions in wanted.items():
                has = len(_described(admin, topic)["partitions"])
                if has != partitions:
                    raise Refused(
                        f"topic {topic!r} has {has} partitions, the settings say {partitions}: "
                        "the number is fixed at creation; set it back, or replay into a new topic"
                    )
        finally:
            admin.close()

    def topic_id(self, topic: str) -> str:
        """The id the broker gave the topic when it was created."""
        with reached(self):
            admin = KafkaAdminClient(**self.client)
            try:
                return str(_described(admin, topic).get("topic_id"))
            finally:
                admin.close()

    def has(self, topic: str) -> bool:
        """Whether there is such a topic."""
        with reached(self):
            admin = KafkaAdminClient(**self.client)
            try:
                return topic in set(admin.list_topics())
            finally:
                admin.close()

    def forgets(self) -> bool:
        """Whether this is the broker of the local stack, which keeps its topics in memory."""
        with reached(self):
            admin = KafkaAdminClient(**self.client)
            try:
                return str(admin.describe_cluster().get("cluster_id")) in FORGETFUL
            finally:
                admin.close()

    def source(self, topic: str, group: str) -> "KafkaSource":
        """A member of a consumer group on one topic."""
        with reached(self):
            return KafkaSource(self, topic, group)

    def sink(self) -> "KafkaSink":
        """A producer."""
        with reached(self):
            return KafkaSink(self)

    def ends(self, topic: str) -> dict[int, int]:
        """The offset after the last record of each partition."""
        with reached(self):
            consumer = _consumer(self, None)
            try:
                numbers = consumer.partitions_for_topic(topic) or set()
                ends = consumer.end_offsets([Partition(topic, number) for number in numbers])
                return {tp.partition: offset for tp, offset in ends.items()}
            finally:
                consumer.close()

    def span(
        self, topic: str, partition: int, first: int, stop: int | None, idle_ms: int = 1500
    ) -> Iterator[list[Record]]:
        """The records of a partition from an offset, below `stop` or until none comes."""
        with reached(self):
            consumer = _consumer(self, None)
            place = Partition(topic, partition)
            consumer.assign([place])
            oldest = consumer.beginning_offsets([place])[place]
            consumer.seek(place, max(first, oldest))
        try:
            while True:
                with reached(self):
                    polled = consumer.poll(timeout_ms=idle_ms, max_records=10_000)
                records = [_record(one) for found in polled.values() for one in found]
                wanted = [one for one in records if stop is None or one.offset < stop]
                if wanted:
                    yield wanted
                if not records or len(wanted) < len(records):
                    return
        finally:
            consumer.close()

    def scan(self, topic: str, idle_ms: int = 1500) -> Iterator[Record]:
        """Every record of a topic from its beginning, until none comes for `idle_ms`."""
        with reached(self):
            consumer = _consumer(self, None)
            numbers = consumer.partitions_for_topic(topic) or set()
            consumer.assign([Partition(topic, number) for number in numbers])
            consumer.seek_to_beginning()
        try:
            while True:
                with reached(self):
                    polled = consumer.poll(timeout_ms=idle_ms)
                if not polled:
                    return
                for records in polled.values():
                    yield from map(_record, records)
        finally:
            consumer.close()


class KafkaSource:
    """A `RecordSource` over kafka-python's consumer.

    The client tells of rebalances on its own IO thread, where no call may block. There, gained
    partitions are only pinned (paused at a made-up position); the listener hears of them in
    `poll`, on the worker's thread, and sets the real position before anything is read.
    """

    def __init__(self, broker: Broker, topic: str, group: str) -> None:
        self._topic = topic
        self._broker = broker
        self._consumer = _consumer(broker, group)
        self._changes: queue.SimpleQueue[tuple[bool, list[int]]] = queue.SimpleQueue()
        self._listener: Listener | None = None
        self._held = False
        self._watch = StallWatch()
        self._readable: set[int] = set()
        """Partitions that the listener knows of and has not stopped."""
        self._uncommitted: dict[int, int] = {}

    def subscribe(self, listener: Listener) -> None:
        """Join the group; the listener is told inside `poll`."""
        self._listener = listener
        rebalance = _Rebalance(self._consumer, self._changes)
        self._consumer.subscribe([self._topic], listener=rebalance)
        # A leader that hears of the topic only after it shared out its partitions does so twice: by
        # the answer to this it knows them.
        with reached(self._broker):
            self._consumer.beginning_offsets([Partition(self._topic, 0)], timeout_ms=CALL_MS)

    def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        """New records by partition."""
        # A client whose broker stands still spins through its wait, and keeps a little of each turn
        # until the request is given up: hundreds of megabytes. One turn a call keeps nothing, but
        # is not enough to join a group.
        quiet = self._watch.silent_s > SILENT_S and self._is_member
        try:
            at_once = self._join() or quiet
            polled = self._consumer.poll(timeout_ms=0 if at_once else timeout_ms)
        except OffsetOutOfRangeError as error:
            raise Refused(
                f"topic {self._topic!r} no longer holds the offsets to resume from ({error}): "
                "records were deleted before they were read; replay that span from the archive"
            ) from error
        except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
            raise Unavailable(_denied(error)) from error
        except KafkaError as error:
            raise Unavailable(f"Kafka: {error}") from error
        changed = self._tell()
        if quiet and not polled:
            time.sleep(min(timeout_ms, QUIET_MS) / 1000)
        if polled or self._held:
            self._watch.moved()
        elif self._watch.due():
            self._look()
        return {
            tp.partition: [_record(r) for r in records]
            for tp, records in polled.items()
            if tp.partition not in changed
        }

    def _tell(self) -> set[int]:
        """Pass rebalances on to the listener; returns the partitions they touched."""
        changed: set[int] = set()
        while not self._changes.empty():
            gained, partitions = self._changes.get()
            changed.update(partitions)
            assert self._listener is not None
            if not gained:
                self._readable.difference_update(partitions)
                for number in partitions:  # another member's commits count from here on
                    self._uncommitted.pop(number, None)
                self._listener.lost(partitions)
                continue
            owned = {tp.partition for tp in self._consumer.assignment()}
            self._readable.update(owned.intersection(partitions))
            self._listener.gained([number for number in partitions if number in owned])
            if not self._held:
                self._resume([Partition(self._topic, n) for n in partitions if n in owned])
        return changed

    def _join(self) -> bool:
        """Go through a change of the group in one wait, if there is one; whether there was.

        A poll that is given up in the middle of a join may cost its answer: one that comes between
        two polls is dropped, and the group joined anew; one that comes after the leader has shared
        out the partitions is waited for no more (kafka-python 3.0.12). The first is rare enough
        where waits are long; the second is asked for again.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - nothing public tells them apart
        if not coordinator.need_rejoin():
            if coordinator.state is not MemberState.REBALANCING:
                return False
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=JOIN_MS)
        return True

    @property
    def _is_member(self) -> bool:
        """Whether the group has taken this client in, and no rebalance is under way."""
        return bool(self._consumer.group_metadata().state is MemberState.STABLE)

    def _look(self) -> None:
        """Nothing came for a while: raise Unavailable, for a new client, when that is a fault."""
        consumer = self._consumer
        assigned = consumer.assignment()
        owned = {tp for tp in assigned if tp.partition in self._readable}
        try:
            ends = consumer.end_offsets(owned, timeout_ms=CALL_MS) if owned else {}
            at = {tp: consumer.position(tp, timeout_ms=1_000) for tp in owned}
        except KafkaError as error:
            raise Unavailable(f"Kafka: {error}") from error
        fault = self._watch.fault(
            self._is_member,
            {tp.partition: offset for tp, offset in at.items() if offset is not None},
            {tp.partition: offset for tp, offset in ends.items()},
        )
        if fault is not None:
            raise Unavailable(f"Kafka: topic {self._topic!r}: {fault}")

    def _resume(self, partitions: Iterable[Any]) -> None:
        """Read on, but neither what was stopped nor what is only pinned yet."""
        self._consumer.resume(*(tp for tp in partitions if tp.partition in self._readable))

    def committed(self, partition: int) -> int | None:
        """The group's committed offset."""
        offset: int | None = self._call(self._consumer.committed, partition)
        return offset

    def beginning(self, partition: int) -> int:
        """The oldest offset still there."""
        offset: int = self._call(lambda tp: self._consumer.beginning_offsets([tp])[tp], partition)
        return offset

    def seek(self, partition: int, offset: int) -> None:
        """Read from this offset on."""
        self._call(lambda tp: self._consumer.seek(tp, offset), partition)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit next offsets to read, and what an earlier call could not.

        A broker that is away is no fault here: what was not committed is read again, and known.
        To end the incarnation for it would cost the group a session each time a broker restarts.
        """
        owned = {tp.partition for tp in self._consumer.assignment()}
        self._uncommitted = {
            number: offset
            for number, offset in {**self._uncommitted, **offsets}.items()
            if number in owned
        }
        if not self._uncommitted:
            return
        wanted = {
            Partition(self._topic, number): OffsetAndMetadata(offset, "", -1)
            for number, offset in self._uncommitted.items()
        }
        try:
            self._consumer.commit(wanted, timeout_ms=COMMIT_TIMEOUT_MS)
        except KafkaError as error:
            if not error.retriable:
                raise Unavailable(f"Kafka did not take a commit: {error}") from error
            log.warning("Kafka does not take a commit now, the next one makes up for it: %s", error)
        else:
            self._uncommitted = {}

    def hold(self, held: bool) -> None:
        """Stop or resume handing out records."""
        self._held = held
        assigned = self._consumer.assignment()
        if held:
            self._consumer.pause(*assigned)
        else:
            self._resume(self._consumer.paused())

    def stop(self, partition: int) -> None:
        """Hand out no more records of a partition."""
        self._readable.discard(partition)
        self._call(self._consumer.pause, partition)

    def end(self, partition: int) -> int | None:
        """The offset after the last record, as the last fetch knew it."""
        try:
            end: int | None = self._consumer.highwater(Partition(self._topic, partition))
        except KafkaError:  # no longer ours
            return None
        return end

    def close(self) -> None:
        """Leave the group without committing; a broker that is away does not hear of it."""
        with suppress(KafkaError):
            self._consumer.close(autocommit=False)

    def _call(self, function: Callable[[Any], R], partition: int) -> R:
        try:
            return function(Partition(self._topic, partition))
        except KafkaError as error:
            raise Unavailable(f"Kafka: {error}") from error


class KafkaSink:
    """A `RecordSink` over kafka-python's idempotent producer."""

    def __init__(self, broker: Broker) -> None:
        self._producer = KafkaProducer(
            **broker.client,
            acks="all",
            enable_idempotence=True,
            # What a turn sends goes in one request at its flush. Without a linger the first record
            # leaves alone, and every further request costs the broker as much as all together.
            linger_ms=5,
            batch_size=262_144,
            compression_type="lz4",
            max_request_size=RECORD_BYTES_MAX + 65_536,
            delivery_timeout_ms=31_000,
        )
        self._pending: list[Any] = []

    def send(self, outgoing: Outgoing) -> None:
        """Queue a record."""
        try:
            future = self._producer.send(
                outgoing.topic,
                value=outgoing.value,
                key=outgoing.key,
                partition=outgoing.partition,
                headers=list(outgoing.headers),
            )
        except KafkaError as error:
            raise Unavailable(f"Kafka did not take a record: {error}") from error
        self._pending.append(future)

    def flush(self) -> None:
        """Return once all queued records are acknowledged."""
        pending, self._pending = self._pending, []
        try:
            self._producer.flush(timeout=FLUSH_TIMEOUT_S)
            for future in pending:
                future.get(timeout=0.1)
        except KafkaError as error:
            raise Unavailable(f"Kafka did not acknowledge a record: {error}") from error

    def close(self) -> None:
        """Drop what is queued and close."""
        try:
            self._producer.close(timeout=2)
        except KafkaError:
            # The client gives up before it ends its thread, which would send what is queued later,
            # behind the back of the next incarnation.
            self._producer._sender.force_close()  # noqa: SLF001
            with suppress(KafkaError):
                self._producer.close(timeout=2)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes rebalances for the worker's thread."""

    def __init__(
        self, consumer: KafkaConsumer, changes: "queue.SimpleQueue[tuple[bool, list[int]]]"
    ) -> None:
        self._consumer = consumer
        self._changes = changes

    def on_partitions_revoked(self, revoked: Sequence[Any]) -> None:
        if revoked:
            self._changes.put((False, [tp.partition for tp in revoked]))

    def on_partitions_assigned(self, assigned: Sequence[Any]) -> None:
        for partition in assigned:
            self._consumer.seek(partition, 0)
        self._consumer.pause(*assigned)
        self._changes.put((True, [tp.partition for tp in assigned]))


def open_sink(bootstrap: str) -> KafkaSink:
    """A producer on a broker without security settings, for the command line."""
    return Broker(bootstrap, {}).sink()


def _described(admin: KafkaAdminClient, topic: str) -> Mapping[str, Any]:
    """What the broker knows of a topic; waits for one that was created only now.

    A controller acknowledges a topic before every broker has heard of it: until then it has no
    partitions, or partitions without a leader, which a consumer would take as the truth.
    """
    deadline = time.monotonic() + TOPIC_TIMEOUT_S
    while True:
        found: Mapping[str, Any]
        (found,) = admin.describe_topics([topic])
        if found["partitions"] and not any(p["error_code"] for p in found["partitions"]):
            return found
        if time.monotonic() > deadline:
            raise Unavailable(
                f"topic {topic!r} has no partitions that can be used (error code "
                f"{found.get('error_code')}): check that its brokers run"
            )
        time.sleep(0.05)


def _consumer(broker: Broker, group: str | None) -> KafkaConsumer:
    return KafkaConsumer(
        **broker.client,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="none" if group else "earliest",
        session_timeout_ms=6_000,
        # By its heartbeat a member hears that another has left, or wants in: until then what the
        # other read is read by nobody.
        heartbeat_interval_ms=500,
        max_poll_records=5_000,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=broker.fetch_wait_ms,
        fetch_min_bytes=1,
        # A member that once heard of no partitions waits so long to hear of them.
        metadata_max_age_ms=30_000,
    )


def _record(record: Any) -> Record:
    headers = tuple(record.headers) if record.headers else ()
    return Record(
        record.partition, record.offset, record.key, record.value, record.timestamp, headers
    )


@contextmanager
def reached(broker: Broker) -> Iterator[None]:
    """Turn the client's many ways to fail into one that says what to check."""
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        raise Unavailable(f"Kafka has not created a topic yet: {error}") from error
    except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
        raise Unavailable(_denied(error)) from error
    except KafkaError as error:
        raise Unavailable(
            f"Kafka at {broker.bootstrap} cannot be used ({error}): {_to_check(broker)}"
        ) from error


def _denied(error: KafkaError) -> str:
    return f"Kafka denies this user ({error}): allow it by an ACL; `headrace doctor` says what"


def _to_check(broker: Broker) -> str:
    """What is worth a look, by how the client should get in and how far a handshake comes."""
    security = broker.security
    protocol = security.get("security_protocol", "PLAINTEXT")
    if protocol.endswith("SSL"):
        host, _, port = broker.bootstrap.split(",")[0].strip().rpartition(":")
        files = (security.get(f"ssl_{name}") for name in ("cafile", "certfile", "keyfile"))
        if (fault := handshake_fault(host.strip("[]"), int(port), *files)) is not None:
            return fault
    if protocol.startswith("SASL"):
        return (
            f"check user {security.get('sasl_plain_username')!r}, its password and "
            f"{security.get('sasl_mechanism')}, and that this port speaks {protocol}"
        )
    return f"check that the broker runs, and that this port speaks {protocol}"


def quiet_logs() -> None:
    """Keep the client's own account of failures out of our logs: we say what to check, once."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
