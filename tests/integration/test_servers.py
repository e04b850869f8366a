"""The servers of the fixtures speak their real protocols."""

from collections.abc import Callable

import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic


def test_the_broker_keeps_what_was_produced(broker: str, unique: Callable[[str], str]) -> None:
    topic = unique("events")
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(topic, 2, 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=broker)
    producer.send(topic, b"value", key=b"key", partition=1).get(timeout=10)
    producer.close()

    consumer = KafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 1)])
    record = next(consumer)
    consumer.close()
    assert (record.key, record.value, record.offset) == (b"key", b"value", 0)


def test_a_test_that_asks_for_an_empty_valkey_gets_one(empty_valkey: str) -> None:
    with redis.Redis.from_url(empty_valkey) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
