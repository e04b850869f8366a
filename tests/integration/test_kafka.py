"""What the Kafka adapter promises, over each kind of broker."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from kafka import KafkaProducer

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import Child, running, spawn, stop, wait_until_ready
from streaming.kafka import Broker, KafkaSource
from streaming.records import Outgoing, Record
from tests import kafka_server
from tests.waiting import until

JOIN_TIMEOUT_S = 60.0
"""A group of two is through with its changes in some seconds, on a busy machine in many."""


class Reader:
    """A member of a group that reads from the beginning and keeps what it got."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.got: list[Record] = []
        self.owned: set[int] = set()
        source.subscribe(self)

    def gained(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self.source.seek(partition, self.source.beginning(partition))
        self.owned.update(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        self.owned.difference_update(partitions)

    def has(self, count: int, timeout_ms: int = 50) -> bool:
        """Poll once; whether so many records came by now."""
        for records in self.source.poll(timeout_ms).values():
            self.got += records
        return len(self.got) >= count


def _send(broker: Broker, topic: str, values: Sequence[bytes]) -> None:
    sink = broker.sink()
    for value in values:
        sink.send(Outgoing(topic, None, value))
    sink.flush()
    sink.close()


def test_all_who_ask_for_a_new_topic_at_once_see_its_partitions(
    any_broker: str, unique: Callable[[str], str]
) -> None:
    wanted = [unique("events") for _ in range(10)]

    def ask(_: int) -> list[str]:
        broker = Broker(any_broker, {})
        for topic in wanted:
            broker.topics({topic: 4})
        return [broker.topic_id(topic) for topic in wanted]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0])) == 10


def test_a_record_bears_the_time_of_the_log_whatever_its_sender_says(
    apache_kafka: str, unique: Callable[[str], str]
) -> None:
    topic, broker = unique("events"), Broker(apache_kafka, {})
    broker.topics({topic: 1})
    before = time.time_ns() // 1_000_000
    producer = KafkaProducer(bootstrap_servers=apache_kafka)
    producer.send(topic, b"from the future", timestamp_ms=before + 10**9).get(timeout=10)
    producer.close()
    (record,) = broker.scan(topic)
    assert abs(record.append_time - before) < 60_000


# A client that tries to connect again leaves its sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sink_whose_broker_is_gone_closes_without_a_word_and_sends_nothing_later(
    tmp_path: Path,
) -> None:
    before = set(threading.enumerate())
    with running(servers.broker(free_port()), tmp_path / "broker.log") as child:
        broker = Broker(f"{HOST}:{child.port}", {})
        broker.topics({"events": 1})
        sink = broker.sink()
        sink.send(Outgoing("events", None, b"first"))
        sink.flush()
    sink.send(Outgoing("events", None, b"never"))
    sink.close()
    until(lambda: set(threading.enumerate()) <= before, 10, "for the client's thread to end")


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Callable[[], Broker]]:
    """Starts an Apache Kafka; once more: kills it and starts it again on its data."""
    if (why := kafka_server.missing()) is not None:
        pytest.skip(why)
    program = kafka_server.apache_kafka(free_port(), tmp_path / "kafka")
    with ExitStack() as stack:
        children: list[Child] = []

        def start() -> Broker:
            stop(children, grace_s=0)
            child = spawn(program, tmp_path / "broker.log")
            children[:] = [child]
            stack.callback(stop, [child])
            wait_until_ready([(program, child)], kafka_server.START_TIMEOUT_S)
            return Broker(f"{HOST}:{program.port}", {})

        yield start


def test_a_member_reads_on_after_its_broker_was_killed_and_came_back(
    restartable: Callable[[], Broker],
) -> None:
    broker = restartable()
    broker.topics({"events": 2})
    reader = Reader(broker.source("events", "readers"))
    _send(broker, "events", [b"%d" % n for n in range(100)])
    until(lambda: reader.has(100), 30, "for the first records")
    broker = restartable()
    _send(broker, "events", [b"%d" % n for n in range(100, 200)])
    wanted = {b"%d" % n for n in range(200)}
    until(lambda: reader.has(0) and {r.value for r in reader.got} == wanted, 60, "for all")
    reader.source.close()


def test_a_member_that_polls_for_an_instant_at_a_time_joins_at_once(
    any_broker: str, unique: Callable[[str], str]
) -> None:
    """The client alone drops the answer of a join that comes between two polls, and joins anew."""
    topic, broker = unique("events"), Broker(any_broker, {})
    broker.topics({topic: 2})
    reader, polls = Reader(broker.source(topic, unique("group"))), 0
    while reader.owned != {0, 1}:
        polls += 1
        assert polls <= 10
        reader.has(0, timeout_ms=1)
        time.sleep(0.05)
    reader.source.close()


def test_a_member_without_partitions_hears_that_it_is_in(
    any_broker: str, unique: Callable[[str], str]
) -> None:
    """A spare worker is healthy: it would be restarted for ever otherwise."""
    topic, group, broker = unique("events"), unique("group"), Broker(any_broker, {})
    broker.topics({topic: 1})
    told: list[Sequence[int]] = []

    class Spare(Reader):
        def gained(self, partitions: Sequence[int]) -> None:
            super().gained(partitions)
            told.append(partitions)

    first, over = Reader(broker.source(topic, group)), threading.Event()
    spare = Spare(broker.source(topic, group))

    def poll_until_over(member: Reader) -> None:  # each in a thread of its own: joining blocks
        while not over.is_set():
            member.has(0)

    with ExitStack() as closing, ThreadPoolExecutor(2) as threads:
        closing.callback(first.source.close)
        closing.callback(spare.source.close)
        polling = [threads.submit(poll_until_over, first)]
        try:
            until(lambda: first.owned == {0}, JOIN_TIMEOUT_S)
            polling.append(threads.submit(poll_until_over, spare))
            # Between two rounds of the group nobody owns the partition: wait for both to be true.
            until(
                lambda: bool(told) and len(first.owned) + len(spare.owned) == 1,
                JOIN_TIMEOUT_S,
                "for one owner and one spare",
            )
            assert told[-1] == sorted(spare.owned)
        finally:
            over.set()
        for done in polling:
            done.result()
