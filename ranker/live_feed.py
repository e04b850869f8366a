"""Where live rows come from: an index of keys, reads of rows, and the store's word of changes."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.codec import entity_prefix
from features.entities import Hash
from features.errors import Refused, Unavailable

INVALIDATIONS: Final = "__redis__:invalidate"
ANSWER_TIMEOUT_S: Final = 5.0
SCAN_COUNT: Final = 1_000


class Feed(Protocol):
    """Rows of some entities and news of their changes, from the moment it was opened.

    `invalidated` is called by one thread, the rest by another. Every call raises `Unavailable`
    when the store is away or the news are lost; then the feed is closed and another one opened.
    A row that changed before a `read` of it began is read as changed; every later change is told.
    """

    def keys(self, join_key: str) -> list[bytes]:
        """The keys of all rows of an entity; a row that vanished may still be among them."""

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
    """Opens feeds from a Redis."""
    return lambda project, join_keys: RedisFeed(url, project, join_keys)


class RedisFeed:
    """A `Feed` over the index sets of RedisRows and Redis's own invalidation push.

    The push comes in RESP2 to the very connection that asked for it (redirected to itself), so
    there is one connection whose loss means that news are lost. Redis drops it by itself when it
    does not read fast enough.
    """

    def __init__(self, url: str, project: str, join_keys: Sequence[str]) -> None:
        self._project = project
        # We reconnect, and count that as a loss; the client must not do it behind our back.
        settings = {
            "socket_timeout": ANSWER_TIMEOUT_S,
            "socket_connect_timeout": ANSWER_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        }
        pool = redis.ConnectionPool.from_url(url, **settings)
        pool.connection_kwargs |= {"protocol": 2, "decode_responses": False}
        self._news = cast(Any, pool.make_connection())
        self._client = redis.Redis.from_url(url, single_connection_client=False, **settings)
        try:
            with _reached():
                self._news.connect()
                self._track([entity_prefix(join_key) for join_key in join_keys])
        except BaseException:
            self.close()
            raise

    def keys(self, join_key: str) -> list[bytes]:
        """The keys of all rows of an entity."""
        index = f"headrace:{self._project}:index:{join_key}"
        with _reached():  # a set that grows meanwhile is told twice of some members
            return list(dict.fromkeys(self._client.sscan_iter(index, count=SCAN_COUNT)))

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        """The hash of each key in one round trip; empty where the key holds something else."""
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)  # type: ignore[arg-type]
        with _reached():
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not _is_other_type(answer):
                    raise answer
        return [answer if isinstance(answer, dict) else {} for answer in answers]

    def invalidated(self, timeout_s: float) -> list[bytes] | None:
        """Keys that changed, as the server pushed them."""
        keys: list[bytes] = []
        with _reached():
            if not self._news.can_read(timeout=timeout_s):
                self._news.send_command("PING")
                while (message := self._next())[0] != b"pong":
                    if message[2] is None:
                        return None
                    keys += message[2]
            while self._news.can_read(timeout=0):
                message = self._next()
                if message[2] is None:
                    return None
                keys += message[2]
        return keys

    def close(self) -> None:
        """Close both connections."""
        with contextlib.suppress(redis.RedisError, OSError):
            self._news.disconnect()
        self._client.close()

    def _track(self, prefixes: Sequence[bytes]) -> None:
        number = self._ask("CLIENT", "ID")
        wanted = [part for prefix in prefixes for part in ("PREFIX", prefix)]
        self._ask("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", *wanted)
        self._ask("SUBSCRIBE", INVALIDATIONS)

    def _ask(self, *command: Any) -> Any:
        self._news.send_command(*command)
        return self._news.read_response()

    def _next(self) -> Any:
        """One message: [b"message", channel, keys or None], or [b"pong", …]."""
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
