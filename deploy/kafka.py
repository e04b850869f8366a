"""What the doctor asks a Kafka: topics, their settings, groups, offsets, rights and time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer
from kafka import TopicPartition as Partition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError

from features.errors import Unavailable
from streaming.kafka import Broker, reached

SETTINGS: Final = (
    "cleanup.policy",
    "max.message.bytes",
    "message.timestamp.type",
    "min.insync.replicas",
    "retention.ms",
    "unclean.leader.election.enable",
)
NEWEST_TIMEOUT_MS: Final = 3_000


@dataclass(frozen=True)
class Topic:
    """A topic as its brokers tell it; maps are by partition."""

    id: str
    replicas: Mapping[int, int]
    in_sync: Mapping[int, int]
    leaderless: Sequence[int]
    settings: Mapping[str, str]
    """Empty when they may not be read, or the broker has none."""
    rights: frozenset[str] | None
    """What the user may do with it; None when the broker does not tell."""
    first: Mapping[int, int]
    end: Mapping[int, int]

    @property
    def partitions(self) -> int:
        """How many it has."""
        return len(self.replicas)


@dataclass(frozen=True)
class Group:
    """A consumer group."""

    members: int | None
    """None when the broker does not tell."""
    committed: Mapping[int, int]


@dataclass(frozen=True)
class Cluster:
    """The brokers together."""

    id: str
    brokers: int
    rights: frozenset[str] | None


class KafkaWard:
    """An admin's connection that changes nothing."""

    def __init__(self, broker: Broker) -> None:
        """Raises Unavailable when no broker lets us in."""
        self._broker = broker
        with reached(broker):
            self._admin = KafkaAdminClient(**broker.client)

    def close(self) -> None:
        """Give the connection back."""
        self._admin.close()

    def cluster(self) -> Cluster:
        """Who the brokers are."""
        with reached(self._broker):
            found = self._admin.describe_cluster()
        rights = found.get("authorized_operations")
        brokers = found.get("brokers") or ()
        return Cluster(str(found.get("cluster_id")), len(brokers), _rights(rights))

    def topic(self, name: str) -> Topic | None:
        """A topic; None when there is none, or when this user may not know of it."""
        with reached(self._broker):
            (found,) = self._admin.describe_topics([name])
        if found["error_code"] or not found["partitions"]:
            return None
        parts: Sequence[Mapping[str, Any]] = found["partitions"]
        numbers = [part["partition_index"] for part in parts]
        return Topic(
            id=str(found.get("topic_id")),
            replicas={p["partition_index"]: len(p["replica_nodes"]) for p in parts},
            in_sync={p["partition_index"]: len(p["isr_nodes"]) for p in parts},
            leaderless=[p["partition_index"] for p in parts if p["error_code"]],
            settings=self._settings(name),
            rights=_rights(found.get("authorized_operations")),
            first=self._offsets(name, numbers, OffsetSpec.EARLIEST),
            end=self._offsets(name, numbers, OffsetSpec.LATEST),
        )

    def group(self, name: str, topic: str) -> Group | None:
        """A consumer group and what it committed of a topic; None when it cannot be asked for."""
        try:
            offsets = self._admin.list_group_offsets({name: None})[name]
        except (KafkaError, KeyError):
            return None
        try:
            members = len(self._admin.describe_groups([name])[name]["members"])
        except (KafkaError, KeyError, ValueError):  # what some brokers answer is no right, or none
            members = None
        committed = {tp.partition: at.offset for tp, at in offsets.items() if tp.topic == topic}
        return Group(members, committed)

    def newest_append_ms(self, topic: str, ends: Mapping[int, int]) -> int | None:
        """The time of the newest record of one partition that has any; None when none does."""
        last = next((number for number, end in ends.items() if end > 0), None)
        if last is None:
            return None
        with reached(self._broker):
            consumer = KafkaConsumer(
                **self._broker.client, enable_auto_commit=False, auto_offset_reset="latest"
            )
            try:
                place = Partition(topic, last)
                consumer.assign([place])
                consumer.seek(place, ends[last] - 1)
                polled = consumer.poll(timeout_ms=NEWEST_TIMEOUT_MS)
            finally:
                consumer.close()
        times = [record.timestamp for records in polled.values() for record in records]
        return max(times, default=None)

    def _settings(self, topic: str) -> dict[str, str]:
        try:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            found = self._admin.describe_configs([resource], config_filter="all")
        except KafkaError:
            return {}
        settings = found.get("topic", {}).get(topic, {})
        return {name: str(settings[name]["value"]) for name in SETTINGS if name in settings}

    def _offsets(self, topic: str, numbers: Sequence[int], spec: Any) -> dict[int, int]:
        wanted = {Partition(topic, number): spec for number in numbers}
        try:
            found = self._admin.list_partition_offsets(wanted, timeout_ms=5_000)
        except KafkaError as error:
            raise Unavailable(
                f"the offsets of topic {topic!r} cannot be read ({error}): see whether its brokers "
                "run, and whether this user may DESCRIBE it"
            ) from error
        return {place.partition: at.offset for place, at in found.items()}


@contextmanager
def ward(broker: Broker) -> Iterator[KafkaWard]:
    """A `KafkaWard` that is closed at the end."""
    opened = KafkaWard(broker)
    try:
        yield opened
    finally:
        opened.close()


def _rights(told: Sequence[Any] | None) -> frozenset[str] | None:
    return None if told is None else frozenset(str(getattr(one, "name", one)) for one in told)
