"""A Redis of two shards that fail over and lose what no seal has covered."""

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import mmh3

from features.entities import Hash, RowWrite
from features.errors import Unavailable
from features.row_store import Checkpoint, MemoryRows, Seal

R = TypeVar("R")
SHARDS = 2
Operation = Callable[[MemoryRows], object]


class Shard:
    """A primary: what it holds, what of that is safe, and the writes in between, in order."""

    def __init__(self, make: Callable[[], MemoryRows]) -> None:
        self.state, self._safe = make(), make()
        self._unsafe: list[Operation] = []
        self._count = 0
        self.epoch = 0

    def write(self, operation: Callable[[MemoryRows], R]) -> R:
        """Change the primary; nothing is safe yet."""
        self._unsafe.append(operation)
        self._count += 1
        return operation(self.state)

    @property
    def count(self) -> int:
        """How many writes there were, ever."""
        return self._count

    def secure(self, count: int) -> None:
        """The first `count` writes survive from now on."""
        pending = count - (self._count - len(self._unsafe))
        for operation in self._unsafe[: max(0, pending)]:
            operation(self._safe)
        del self._unsafe[: max(0, pending)]

    def fail_over(self, lost: int) -> None:
        """A replica takes over that has not seen the last writes; those are gone for good."""
        kept = max(0, len(self._unsafe) - lost)
        self.secure(self._count - len(self._unsafe) + kept)
        self._unsafe.clear()
        self.state = copy.deepcopy(self._safe)
        self.epoch += 1


class SimulatedRedis:
    """Shards, and the requests that reach them long after their senders gave up."""

    def __init__(self, make: Callable[[], MemoryRows], seals_lie: bool) -> None:
        self.shards = [Shard(make) for _ in range(SHARDS)]
        self._late: list[tuple[Shard, int, Operation]] = []
        self.seals_lie = seals_lie
        self.open: list[SimulatedRows] = []

    @property
    def is_quiet(self) -> bool:
        """Whether no request is on its way."""
        return not self._late

    def delay(self, shard: Shard, operation: Operation) -> None:
        """A request that its sender gives up, and that arrives some day."""
        self._late.append((shard, shard.epoch, operation))

    def arrive(self, rng: random.Random) -> None:
        """One of the late requests arrives, unless the primary it was sent to is gone."""
        shard, epoch, operation = self._late.pop(rng.randrange(len(self._late)))
        if shard.epoch == epoch:
            shard.write(operation)

    def rows(self) -> dict[bytes, Hash]:
        """All rows as they stand."""
        return {key: row for shard in self.shards for key, row in shard.state.rows.items()}

    def checkpoint(self, partition: int) -> tuple[int, Checkpoint | None]:
        """The checkpoint as it stands, and how often its shard has failed over."""
        shard = self.shard_of(b"checkpoint:%d" % partition)
        return shard.epoch, shard.state.checkpoint(partition)

    def shard_of(self, name: bytes) -> Shard:
        """The shard of a key."""
        return self.shards[mmh3.hash(name, 7, signed=False) % SHARDS]

    def fail_over(self, rng: random.Random) -> None:
        """One shard's replica takes over; some clients go on with the old primary for a while."""
        shard = rng.choice(self.shards)
        for store in self.open:
            if rng.random() < 0.3:
                store.isolated[id(shard)] = copy.deepcopy(shard.state)
        shard.fail_over(rng.choice((0, 1, 3, 10, 1000)))

    def end_isolation(self) -> None:
        """The old primaries are gone."""
        for store in self.open:
            store.isolated.clear()


class SimulatedRows:
    """A connection to the simulated Redis: a `RowStore` that fails as a real one may.

    As with `RedisRows`, a connection that failed once fails for good.
    """

    def __init__(
        self,
        redis: SimulatedRedis,
        rng: random.Random,
        pause: Callable[[], None],
        failure_rate: Callable[[], float],
    ) -> None:
        self._redis, self._rng, self._pause, self._rate = redis, rng, pause, failure_rate
        self.epochs = {id(shard): shard.epoch for shard in redis.shards}
        self.isolated: dict[int, MemoryRows] = {}
        self._dead = False
        redis.open.append(self)

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        found: dict[bytes, Hash] = {}
        for shard in self._redis.shards:
            part = [key for key in keys if self._redis.shard_of(key) is shard]
            if part:
                rows = self._ask(shard, _reading(part))
                found |= dict(zip(part, rows, strict=True))
        return [found[key] for key in keys]

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        done: dict[bytes, bool] = {}
        for shard in self._redis.shards:
            part = [w for w in writes if self._redis.shard_of(w.key) is shard]
            if part:
                torn = part[: self._rng.randint(0, len(part))]
                answers = self._tell(shard, _writing(part), _writing(torn))
                done |= dict(zip((w.key for w in part), answers, strict=True))
        return [done[w.key] for w in writes]

    def seal(self) -> Seal:
        self._alive(None)
        return _Sealing(self, [(shard, shard.count) for shard in self._redis.shards])

    def keys(self, join_key: str) -> list[bytes]:
        return [k for s in self._redis.shards for k in self._ask(s, lambda r: r.keys(join_key))]

    def checkpoint(self, partition: int) -> Checkpoint | None:
        shard = self._redis.shard_of(b"checkpoint:%d" % partition)
        return self._ask(shard, lambda rows: rows.checkpoint(partition))

    def save_checkpoint(self, partition: int, checkpoint: Checkpoint) -> None:
        shard = self._redis.shard_of(b"checkpoint:%d" % partition)
        self._tell(shard, lambda rows: rows.save_checkpoint(partition, checkpoint))

    def remember(self, name: str, field: str, value: str) -> str:
        shard = self._redis.shard_of(name.encode())
        return self._tell(shard, lambda rows: rows.remember(name, field, value))

    def remembered(self, name: str) -> dict[str, str]:
        shard = self._redis.shard_of(name.encode())
        return self._ask(shard, lambda rows: rows.remembered(name))

    def raise_to(self, name: str, numbers: Mapping[str, int]) -> dict[str, int]:
        shard = self._redis.shard_of(name.encode())
        return self._tell(shard, lambda rows: rows.raise_to(name, numbers))

    def generation(self, topic: str, topic_id: str) -> int:
        shard = self._redis.shard_of(topic.encode())
        return self._tell(shard, lambda rows: rows.generation(topic, topic_id))

    def close(self) -> None:
        self._dead = True
        if self in self._redis.open:
            self._redis.open.remove(self)

    def sealed(self, counts: Sequence[tuple[Shard, int]]) -> bool | None:
        """The answer to WAIT on every shard, if it is there."""
        self._alive(None)
        if self._rng.random() < self._rate():
            return False
        if self._rng.random() < 0.5:
            return None
        for shard, count in counts:
            self._alive(shard)
            if id(shard) in self.isolated:  # no replica hears an old primary
                return False
            if not self._redis.seals_lie:
                shard.secure(count)
        return True

    def wait(self) -> None:
        """Let others run while an answer is awaited."""
        self._pause()

    def _ask(self, shard: Shard, question: Callable[[MemoryRows], R]) -> R:
        self._alive(shard)
        if self._rng.random() < self._rate():
            raise self._lost()
        return question(self._server(shard))

    def _tell(
        self,
        shard: Shard,
        operation: Callable[[MemoryRows], R],
        torn: Operation | None = None,
    ) -> R:
        self._alive(shard)
        if id(shard) in self.isolated:
            return operation(self.isolated[id(shard)])
        if self._rng.random() >= self._rate():
            answer = shard.write(operation)
            self._pause()  # done, but its sender has not heard of it
            return answer
        fate = self._rng.choice(("never", "now", "torn", "late", "late"))
        if fate == "late":
            self._redis.delay(shard, operation)
        elif fate != "never":
            shard.write((torn or operation) if fate == "torn" else operation)
        raise self._lost()

    def _server(self, shard: Shard) -> MemoryRows:
        return self.isolated.get(id(shard), shard.state)

    def _alive(self, shard: Shard | None) -> None:
        self._pause()
        shards = self._redis.shards if shard is None else [shard]
        moved = [s for s in shards if s.epoch != self.epochs[id(s)] and id(s) not in self.isolated]
        if self._dead or moved:
            raise self._lost()

    def _lost(self) -> Unavailable:
        self.close()
        return Unavailable("the connection was lost")


def _reading(keys: Sequence[bytes]) -> Callable[[MemoryRows], list[Hash]]:
    return lambda rows: rows.read(keys)


def _writing(writes: Sequence[RowWrite]) -> Callable[[MemoryRows], list[bool]]:
    return lambda rows: rows.write(writes)


class _Sealing:
    def __init__(self, store: SimulatedRows, counts: Sequence[tuple[Shard, int]]) -> None:
        self._store, self._counts = store, counts

    def safe(self) -> bool | None:
        return self._store.sealed(self._counts)

    def settled(self) -> bool:
        while (answer := self.safe()) is None:
            self._store.wait()
        return answer
