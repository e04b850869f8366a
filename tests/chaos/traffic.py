"""Events sent without pause from a seed, with repeats and bad records, through a broker that dies.

A batch that was not acknowledged is sent again as a whole by a new producer, as a careful sender
would; the log may so hold a record twice, and the recount takes the log as it is.
"""

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Iterator

from features.codec import STRING_TYPE, entity_key
from features.errors import Unavailable
from features.events import EngagementEvent, dump_event, record_key
from features.updates import partition_of
from streaming.kafka import Broker, KafkaSink
from streaming.records import Outgoing
from tests.records import bad_records, good_events

BATCH = 50
_CHUNK = 2000
_AGAIN_S = 0.2


class Traffic:
    """A thread that sends about so many records a second until it is closed."""

    def __init__(self, broker: Broker, topic: str, seed: str, per_second: float) -> None:
        self.acknowledged: set[str] = set()
        """Ids of events the broker said it has."""
        self.sent = 0
        self.resent = 0
        self._broker, self._topic = broker, topic
        self._rng = random.Random(seed)
        self._pause_s = BATCH / per_second
        self._probes: queue.SimpleQueue[tuple[str, Outgoing]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._thread.start()

    def probe(self, events: list[tuple[int, EngagementEvent]]) -> None:
        """Send these events, each to a partition, with the next batch."""
        for partition, event in events:
            outgoing = Outgoing(self._topic, b"probe", dump_event(event), partition)
            self._probes.put((event.event_id, outgoing))

    def close(self) -> None:
        """Stop once everything handed over is acknowledged."""
        self._stopping.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "the broker takes no records"
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            self._send_all()
        except BaseException as error:
            self._failed = error
            raise

    def _send_all(self) -> None:
        sink: KafkaSink | None = None
        records = self._records()
        while not self._stopping.is_set() or not self._probes.empty():
            batch = [next(records) for _ in range(BATCH)]
            while not self._probes.empty():
                batch.append(self._probes.get())
            sink = self._acknowledge(sink, [outgoing for _, outgoing in batch])
            self.acknowledged.update(name for name, _ in batch if name)
            self._stopping.wait(self._rng.uniform(0, 2 * self._pause_s))
        if sink is not None:
            sink.close()

    def _acknowledge(self, sink: KafkaSink | None, batch: list[Outgoing]) -> KafkaSink:
        while True:
            try:
                sink = sink or self._broker.sink()
                for outgoing in batch:
                    sink.send(outgoing)
                sink.flush()
            except Unavailable:
                if sink is not None:
                    sink.close()
                sink = None
                self.resent += len(batch)
                time.sleep(_AGAIN_S)
            else:
                self.sent += len(batch)
                return sink

    def _records(self) -> Iterator[tuple[str, Outgoing]]:
        """Ids and records: mostly new events, some sent before, lately or long ago, some bad."""
        recent: deque[tuple[str, Outgoing]] = deque(maxlen=300)
        older: deque[tuple[str, Outgoing]] = deque(maxlen=20_000)
        seed = self._rng.randrange(2**31)
        while True:
            seed += 1
            bad = bad_records(seed, 40)
            for event in good_events(seed, _CHUNK):
                draw = self._rng.random()
                if draw < 0.04 and recent:
                    yield self._rng.choice(recent)
                elif draw < 0.05 and older:
                    yield self._rng.choice(older)
                elif draw < 0.055:
                    value = self._rng.choice(bad)[1]
                    if len(value) < 100_000:
                        yield "", Outgoing(self._topic, b"%d" % self._rng.randrange(50), value)
                made = Outgoing(self._topic, record_key(event), dump_event(event))
                recent.append((event.event_id, made))
                older.append((event.event_id, made))
                yield event.event_id, made


def probes(name: str, project: str, partitions: int) -> dict[bytes, tuple[int, EngagementEvent]]:
    """For each partition an event whose item's row lies in the same partition of `updates`.

    By the key of that row, which exists once the event is folded.
    """
    found: dict[bytes, tuple[int, EngagementEvent]] = {}
    for partition in range(partitions):
        number = 0
        while True:
            item = f"{name}-{partition}-{number}"
            key = entity_key("item_id", STRING_TYPE, item, project)
            if partition_of(key, partitions) == partition:
                break
            number += 1
        found[key] = (
            partition,
            EngagementEvent(
                event_id=item,
                event_time=1_700_000_000_000,
                user_id=f"probe-{partition}",
                item_id=item,
                action="click",
            ),
        )
    return found
