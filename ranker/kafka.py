"""The Kafka side of the ranker: what was served goes to a topic, and never holds a request up."""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

log = logging.getLogger("headrace")

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024
BATCH_BYTES: Final = 1024 * 1024
BACKOFF_MAX_S: Final = 2.0
KNOCK_TIMEOUT_S: Final = 2.0


class ServingLog(Protocol):
    """Takes records of what was served. Losing one must not cost a ranking."""

    dropped: int

    def put(self, record: bytes, key: bytes) -> None:
        """Take a record, at once; one there is no room for is dropped and counted."""

    def close(self, deadline_s: float = 5.0) -> None:
        """Send what was taken, for at most so long; the rest is dropped and counted."""


class NoServingLog:
    """A serving log that keeps nothing."""

    dropped = 0

    def put(self, record: bytes, key: bytes) -> None:
        """Forget the record."""

    def close(self, deadline_s: float = 5.0) -> None:
        """Nothing to send."""


class KafkaServingLog:
    """Produces records to a topic from a thread of its own.

    Records count against the limits until Kafka has acknowledged them or they are given up,
    because the client's own buffer has no bound.
    """

    def __init__(
        self,
        bootstrap: str,
        security: Mapping[str, Any],
        *,
        topic: str = "rankings",
        partitions: int = 4,
        replicas: int = 1,
        records_max: int = 10_000,
        bytes_max: int = 64 * 1024 * 1024,
        delivery_timeout_ms: int = 30_000,
    ) -> None:
        self._client: dict[str, Any] = {
            "bootstrap_servers": bootstrap.split(","),
            "reconnect_backoff_max_ms": 500,
            "bootstrap_timeout_ms": 2_000,
            **security,
        }
        self._topic = NewTopic(
            topic, partitions, replicas, topic_configs={"max.message.bytes": str(RECORD_BYTES_MAX)}
        )
        self._records_max, self._bytes_max = records_max, bytes_max
        self._delivery_timeout_ms = delivery_timeout_ms
        self._room = threading.Condition()
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._records = self._bytes = 0
        self._closing = False
        self._given_up = threading.Event()
        self.sent = 0
        """Records that Kafka acknowledged."""
        self.dropped = 0
        """Records that were lost: no room, or not acknowledged in time."""
        self.connected = False
        self._thread = threading.Thread(target=self._run, name="serving-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records taken and not acknowledged yet."""
        return self._records

    def put(self, record: bytes, key: bytes) -> None:
        """Queue a record, or drop it when there is no room."""
        size = len(record) + len(key)
        with self._room:
            full = self._records >= self._records_max or self._bytes + size > self._bytes_max
            if full or self._closing or size > RECORD_BYTES_MAX:
                self.dropped += 1
                return
            self._records += 1
            self._bytes += size
            self._queue.append((record, key))
            self._room.notify()

    def close(self, deadline_s: float = 5.0) -> None:
        """Send what is queued, then end the thread."""
        until = time.monotonic() + deadline_s
        with self._room:
            self._closing = True
            self._room.notify_all()
            self._room.wait_for(lambda: not self._records, deadline_s)
            self._given_up.set()
            self._room.notify_all()
        self._thread.join(max(until - time.monotonic(), 0) + 1.0)
        with self._room:
            self.dropped += self._records
            self._records = self._bytes = 0

    def _run(self) -> None:
        failures = 0
        while not self._done():
            try:
                producer = self._connect()
            except (KafkaError, OSError) as error:
                failures += 1
                log.log(
                    logging.WARNING if failures == 1 else logging.DEBUG,
                    "serving log: Kafka is away, records wait and then are dropped: %s",
                    error,
                )
                self._given_up.wait(min(0.1 * 2.0**failures, BACKOFF_MAX_S))
                continue
            failures, self.connected = 0, True
            try:
                self._produce(producer)
            finally:
                self.connected = False
                producer.close(timeout=0.5)

    def _connect(self) -> KafkaProducer:
        """A producer, its topic created if it was missing."""
        _knock(self._client["bootstrap_servers"])
        admin = KafkaAdminClient(**self._client)
        try:
            if self._topic.name not in set(admin.list_topics()):
                admin.create_topics([self._topic])
        except TopicAlreadyExistsError:  # another ranker was first
            pass
        finally:
            admin.close()
        return KafkaProducer(
            **self._client,
            acks="all",
            linger_ms=50,
            # A record is some 40 KB: several of them make one request to the broker.
            batch_size=BATCH_BYTES,
            compression_type="lz4",
            max_block_ms=5_000,
            max_request_size=RECORD_BYTES_MAX + 65_536,
            delivery_timeout_ms=self._delivery_timeout_ms,
            request_timeout_ms=min(10_000, self._delivery_timeout_ms // 2),
        )

    def _produce(self, producer: KafkaProducer) -> None:
        """Pass records on until there will be no more."""
        while (taken := self._take()) is not None:
            record, key = taken
            size = len(record) + len(key)
            try:
                future = producer.send(self._topic.name, value=record, key=key)
            except KafkaError as error:
                self._settle(size, error)
                continue
            future.add_callback(lambda _, size=size: self._settle(size, None))
            future.add_errback(lambda error, size=size: self._settle(size, error))

    def _take(self) -> tuple[bytes, bytes] | None:
        """The next record; None once the log is closed and everything is settled or given up."""
        with self._room:
            self._room.wait_for(lambda: bool(self._queue) or self._done())
            return None if self._done() else self._queue.popleft()

    def _settle(self, size: int, error: BaseException | None) -> None:
        """A record is acknowledged, or lost."""
        with self._room:
            if not self._records:  # given up before
                return
            self._records -= 1
            self._bytes -= size
            if error is None:
                self.sent += 1
            else:
                self.dropped += 1
                log.debug("serving log: a record was not acknowledged: %s", error)
            self._room.notify_all()

    def _done(self) -> bool:
        return self._given_up.is_set() or (self._closing and not self._records)


def _knock(servers: Sequence[str]) -> None:
    """Raise OSError when nothing listens at any of the addresses.

    A client that fails to bootstrap leaves its sockets open; while Kafka is away we would make
    one every other second.
    """
    for place, server in enumerate(servers, 1):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK_TIMEOUT_S).close()
        except OSError:
            if place == len(servers):
                raise
        else:
            return


def quiet_logs() -> None:
    """Keep the client's own account of failures out of our logs: we say it once."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
