"""Where live rows come from: an index of keys, reads of rows, and the store's word of changes."""

import contextlib
import select
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from features.codec import entity_prefix
from features.entities import Hash
from features.errors import Refused, Unavailable
from features.redis_shards import slot_tags, topology

INVALIDATIONS: Final = "__redis__:invalidate"
ANSWER_TIMEOUT_S: Final = 5.0
SCAN_COUNT: Final = 1_000
SLOTS_PER_CALL: Final = 500
MOVES_MAX: Final = 8
"""How often a row may be on its way to another node before we give up."""
LOOK_S: Final = 1.0
"""How often the primaries of a Cluster are compared with those that are listened to."""


class Feed(Protocol):
    """Rows of some entities and news of their changes, from the moment it was opened.

    `invalidated` is called by one thread, the rest by another. Every call raises `Unavailable`
    when the store is away or the news are lost; then the feed is closed and another one opened.
    A row that changed before a `read` of it began is read as changed; every later change is told.
    """

    def keys(self, join_key: str) -> Iterable[bytes]:
        """The keys of all rows of an entity; a row that vanished may still be among them, and one
        may be told twice."""

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        """The whole hash of each key, empty where there is none."""

    def invalidated(self, timeout_s: float) -> list[bytes] | None:
        """Keys that changed, [] when none did for so long, None when all may have changed.

        Each return proves that the news still come.
        """

    def close(self) -> None:
        """Give the connections back."""


OpenFeed = Callable[[str, Sequence[str]], Feed]
"""Opens a feed of a project's entities, given by join key."""


def redis_feeds(url: str) -> OpenFeed:
    """Opens feeds from a Redis, or from the Redis Cluster that a URL leads to."""
    return lambda project, join_keys: RedisFeed(url, project, join_keys)


class RedisFeed:
    """A `Feed` over the index sets of RedisRows and Redis's own invalidation push.

    The push comes in RESP2 to the very connection that asked for it (redirected to itself), one to
    each primary, so that what is lost with a connection is known. Redis drops it by itself when it
    does not read fast enough. Of a Cluster every primary is listened to: slots may move between
    them, and a row is told of by whoever holds it. When the primaries themselves are others (a
    failover, a new node), news may have been missed, and the feed is lost.
    """

    def __init__(self, url: str, project: str, join_keys: Sequence[str]) -> None:
        self._url = url
        self._project = project
        self._nodes: list[_Node] = []
        prefixes = [entity_prefix(join_key) for join_key in join_keys]
        with _reached():
            self._topology = topology(url)
        try:
            for one in self._topology.urls:
                self._nodes.append(_Node(one, prefixes))
        except BaseException:
            self.close()
            raise
        self._looked_at = time.monotonic()

    def keys(self, join_key: str) -> Iterator[bytes]:
        """The keys of all rows of an entity, some of them twice while rows are added."""
        index = f"headrace:{self._project}:index:{join_key}"
        by_slot = self._topology.by_slot
        with _reached():
            if by_slot is None:
                yield from self._nodes[0].client.sscan_iter(index, count=SCAN_COUNT)
                return
            for number, node in enumerate(self._nodes):
                tags = [slot_tags()[s] for s, holder in enumerate(by_slot) if holder == number]
                for start in range(0, len(tags), SLOTS_PER_CALL):
                    pipe = node.client.pipeline(transaction=False)
                    for tag in tags[start : start + SLOTS_PER_CALL]:
                        pipe.smembers(f"{{{tag}}}{index}")
                    for members in pipe.execute():
                        yield from members

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        """The hash of each key; empty where the key holds something else."""
        found: dict[bytes, Hash] = {}
        with _reached():
            for attempt in range(MOVES_MAX):
                left = [key for key in keys if key not in found]
                if not left:
                    break
                if attempt:
                    time.sleep(0.01 * attempt)
                    self._look()
                self._ask(left, found)
        if len(found) < len(set(keys)):
            raise Unavailable("rows move between the nodes of the Redis Cluster too fast to read")
        return [found[key] for key in keys]

    def invalidated(self, timeout_s: float) -> list[bytes] | None:
        """Keys that changed, as the servers pushed them."""
        with _reached():
            self._await(timeout_s)
            cluster = self._topology.by_slot is not None
            if cluster and time.monotonic() - self._looked_at > LOOK_S:
                self._look()
            keys: list[bytes] = []
            for node in self._nodes:
                told = node.news(timeout_s)
                if told is None:
                    return None
                keys += told
        return keys

    def close(self) -> None:
        """Close all connections."""
        for node in self._nodes:
            node.close()

    def _await(self, timeout_s: float) -> None:
        """Wait until there is something to hear from any node."""
        if not any(node.told() for node in self._nodes):
            select.select([node.socket for node in self._nodes], [], [], timeout_s)

    def _ask(self, keys: Sequence[bytes], found: dict[bytes, Hash]) -> None:
        """Read what its holder has; what is on its way to another node is left out."""
        by_slot = self._topology.by_slot
        of: dict[int, list[bytes]] = {}
        for key in keys:
            of.setdefault(0 if by_slot is None else by_slot[key_slot(key)], []).append(key)
        for number, mine in of.items():
            self._nodes[number].ask(mine)
        on_their_way: list[tuple[bytes, redis.exceptions.AskError]] = []
        for number, mine in of.items():
            for key, answer in zip(mine, self._nodes[number].answers(len(mine)), strict=True):
                if isinstance(answer, redis.exceptions.MovedError):
                    continue
                if isinstance(answer, redis.exceptions.AskError):
                    on_their_way.append((key, answer))
                elif isinstance(answer, redis.ResponseError):
                    if not _is_other_type(answer):
                        raise answer
                    found[key] = {}
                else:
                    found[key] = dict(zip(answer[::2], answer[1::2], strict=True))
        # Not before every node's answers are read: they would be taken for those to this.
        for key, answer in on_their_way:
            moved = self._node_at(answer.host, answer.port).asking(key)
            if moved is not None:
                found[key] = moved

    def _node_at(self, host: str, port: int) -> "_Node":
        for url, node in zip(self._topology.urls, self._nodes, strict=True):
            parts = urlsplit(url)
            if (parts.hostname, parts.port) == (host, port):
                return node
        raise Unavailable(
            "the Redis Cluster moves rows to a node that was not one of its primaries"
        )

    def _look(self) -> None:
        """See where the slots are now; Unavailable when other nodes hold them than were tracked."""
        found = topology(self._url)
        if found.urls != self._topology.urls:
            raise Unavailable("the primaries of the Redis Cluster are others now")
        self._topology = found
        self._looked_at = time.monotonic()


class _Node:
    """One server: the connection that hears, and those that read."""

    def __init__(self, url: str, prefixes: Sequence[bytes]) -> None:
        # We reconnect, and count that as a loss; the client must not do it behind our back.
        settings = {
            "socket_timeout": ANSWER_TIMEOUT_S,
            "socket_connect_timeout": ANSWER_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }
        pool = redis.ConnectionPool.from_url(url, **settings)
        pool.connection_kwargs |= {"protocol": 2, "decode_responses": False}
        self._news = cast(Any, pool.make_connection())
        self._reads = cast(Any, pool.make_connection())
        self._heard_at = 0.0
        self.client = redis.Redis.from_url(url, single_connection_client=False, **settings)
        try:
            with _reached():
                self._news.connect()
                self._reads.connect()
                self._track(prefixes)
        except BaseException:
            self.close()
            raise

    @property
    def socket(self) -> Any:
        """What `select` waits for."""
        if self._news._sock is None:  # noqa: SLF001 - the client shows it nowhere else
            raise redis.ConnectionError("the connection that hears was lost")
        return self._news._sock  # noqa: SLF001

    def told(self) -> bool:
        """Whether there is something to hear."""
        return bool(self._news.can_read(timeout=0))

    def news(self, silence_s: float) -> list[bytes] | None:
        """Keys told since the last call, None for all; a node silent for longer is asked for a
        sign."""
        keys: list[bytes] = []
        if not self.told() and time.monotonic() - self._heard_at >= silence_s:
            # Not PING, which a server whose disk is full answers by an error.
            self._news.send_command("SUBSCRIBE", INVALIDATIONS)
            while (message := self._news.read_response())[0] != b"subscribe":
                if message[2] is None:
                    return None
                keys += message[2]
            self._heard_at = time.monotonic()
        while self.told():
            message = self._news.read_response()
            if message[2] is None:
                return None
            keys += message[2]
            self._heard_at = time.monotonic()
        return keys

    def ask(self, keys: Sequence[bytes]) -> None:
        """Send for the hashes of keys."""
        commands = [b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys]
        self._reads.send_packed_command([b"".join(commands)])

    def answers(self, count: int) -> Iterator[Any]:
        """What came, in order: fields and values in turn, or an error."""
        for _ in range(count):
            try:
                yield self._reads.read_response()
            except redis.ResponseError as error:
                yield error

    def asking(self, key: bytes) -> Hash | None:
        """The hash of a key that is on its way here; None when it is not here either."""
        self._reads.send_command("ASKING")
        self._reads.read_response()
        self.ask([key])
        (answer,) = self.answers(1)
        if isinstance(answer, redis.ResponseError):
            return None
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def close(self) -> None:
        """Close its connections."""
        for connection in (self._news, self._reads):
            with contextlib.suppress(redis.RedisError, OSError):
                connection.disconnect()
        self.client.close()

    def _track(self, prefixes: Sequence[bytes]) -> None:
        number = self._command("CLIENT", "ID")
        wanted = [part for prefix in prefixes for part in ("PREFIX", prefix)]
        self._command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", *wanted)
        self._command("SUBSCRIBE", INVALIDATIONS)

    def _command(self, *command: Any) -> Any:
        self._news.send_command(*command)
        return self._news.read_response()


def wait_s(failures: int) -> float:
    """How long to wait before opening a feed again after so many failures in a row."""
    return min(0.05 * 2.0 ** min(failures - 1, 10), 2.0)


def _is_other_type(error: Exception) -> bool:
    return isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE")


@contextmanager
def _reached() -> Iterator[None]:
    """Turn the client's errors into ours; none of them names the URL, which may hold a password."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise Refused(
            f"Redis does not let the ranker in ({error}): check user and password; it needs "
            "CLIENT TRACKING, SUBSCRIBE, SSCAN and HGETALL"
        ) from error
    except redis.ResponseError as error:
        raise Unavailable(f"Redis cannot serve now: {error}") from error
    except (redis.RedisError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
