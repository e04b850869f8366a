"""The serving log over a real broker, and without one."""

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from ranker.kafka import RECORD_BYTES_MAX, KafkaServingLog, NoServingLog, quiet_logs
from streaming.kafka import Broker
from tests.waiting import until


@pytest.fixture
def away() -> Iterator[KafkaServingLog]:
    """A log whose Kafka is not there."""
    log = KafkaServingLog(f"{HOST}:{free_port()}", {}, records_max=5, bytes_max=1000)
    yield log
    log.close(0)


def test_what_is_put_arrives_with_its_key(any_broker: str, unique: Callable[[str], str]) -> None:
    topic = unique("rankings")
    log = KafkaServingLog(any_broker, {}, topic=topic, partitions=2)
    expected = {(b"user%d" % (i % 50), b"record %d" % i) for i in range(2000)}
    for key, record in expected:
        log.put(record, key)
    log.close()
    assert (log.sent, log.dropped, log.waiting) == (2000, 0, 0)
    assert {(r.key, r.value) for r in Broker(any_broker, {}).scan(topic)} == expected


def test_a_record_of_megabytes_arrives(any_broker: str, unique: Callable[[str], str]) -> None:
    topic = unique("rankings")
    log = KafkaServingLog(any_broker, {}, topic=topic)
    log.put(b"x" * 3_000_000, b"user")
    log.put(b"x" * (RECORD_BYTES_MAX + 1), b"user")
    log.close()
    assert (log.sent, log.dropped) == (1, 1)


def test_without_kafka_putting_takes_no_time_and_drops_are_counted(away: KafkaServingLog) -> None:
    began = time.monotonic()
    for _ in range(1000):
        away.put(b"record", b"user")
    assert time.monotonic() - began < 0.5
    assert (away.dropped, away.waiting) == (995, 5)
    assert not away.connected
    began = time.monotonic()
    away.close(0.2)
    assert time.monotonic() - began < 5
    assert (away.sent, away.dropped, away.waiting) == (0, 1000, 0)


def test_bytes_are_bounded_as_well(away: KafkaServingLog) -> None:
    for _ in range(5):
        away.put(b"x" * 400, b"user")
    assert (away.dropped, away.waiting) == (3, 2)


def test_what_waited_is_sent_when_kafka_comes(tmp_path: Path) -> None:
    port = free_port()
    log = KafkaServingLog(f"{HOST}:{port}", {})
    log.put(b"early", b"user")
    with running(servers.broker(port), tmp_path / "broker.log"):
        until(lambda: log.sent == 1, 20)
        assert log.connected
        log.close()
    assert log.dropped == 0


# A client that tries to connect again leaves its sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_records_that_kafka_does_not_take_in_time_are_dropped(tmp_path: Path) -> None:
    quiet_logs()
    port = free_port()
    log = KafkaServingLog(f"{HOST}:{port}", {}, delivery_timeout_ms=1_000, records_max=3)
    with running(servers.broker(port), tmp_path / "broker.log"):
        log.put(b"first", b"user")
        until(lambda: log.sent == 1, 20)
    for _ in range(3):
        log.put(b"lost", b"user")
    until(lambda: log.dropped == 3, 20)
    assert log.waiting == 0
    log.close(0.5)
    gc.collect()


def test_after_closing_records_are_dropped(broker: str, unique: Callable[[str], str]) -> None:
    log = KafkaServingLog(broker, {}, topic=unique("rankings"))
    log.close()
    log.put(b"record", b"user")
    log.close()
    assert (log.sent, log.dropped) == (0, 1)


def test_a_log_that_keeps_nothing() -> None:
    log = NoServingLog()
    log.put(b"record", b"user")
    log.close()
