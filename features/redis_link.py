"""One Redis server that rows are written to, and what may be believed of it."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, Literal, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.errors import BadInput, Unavailable

Durability = Literal["aof", "replicas", "none"]
R = TypeVar("R")

Call = tuple[Sequence[bytes], list[Any]]
"""Keys and arguments of one run of a script."""

SEAL_TIMEOUT_MS: Final = 5000
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.AskError,  # and MOVED: the keys are another server's now
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)
_CERTIFICATE: Final = (
    "and if it asks for a certificate, that it knows who signed HEADRACE_REDIS_CERT_FILE; its log "
    "says more"
)
_AWAY_WORDS = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS")


class Link:
    """Two connections to one server: one writes while the other may wait for a promise.

    WAIT and WAITAOF speak for the connection that wrote, so `seal` hands it to a waiting thread
    and goes on with the other. Both are made at once, at the start; one that is lost is an error
    for good, because a server that came back, or stopped being primary, may have lost what was
    written (rule 5).
    """

    def __init__(self, client: Callable[..., "redis.Redis"], durability: Durability) -> None:
        """`client` makes a client from the keywords of `redis.Redis`."""
        self.durability: Durability = durability
        self._clients = [
            client(
                max_connections=1,
                socket_timeout=10.0,
                retry=Retry(NoBackoff(), 0),
                redis_connect_func=_connect_once(),
            )
            for _ in range(2)
        ]
        self._active = 0
        self._sealing: Future[bool] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="seal")
        try:
            for one in self._clients:
                call(one.ping)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connections back."""
        self._pool.shutdown(cancel_futures=True)
        for client in self._clients:
            client.close()

    @property
    def client(self) -> "redis.Redis":
        """The connection that writes now."""
        return self._clients[self._active]

    def seal(self, key: str) -> "Future[bool]":
        """Ask for what was written so far to be made durable; `key` is written to ask for it.

        The answer is whether the server confirmed it in time.
        """
        if self._sealing is not None:
            wait([self._sealing])  # the other connection is still in use there
        client = self.client
        self._active = 1 - self._active
        self._sealing = self._pool.submit(self.confirmed, client, key)
        return self._sealing

    def confirmed(self, client: "redis.Redis", key: str) -> bool:
        """Whether the server confirms all writes before now; Unavailable when it cannot be asked.

        The write made here comes after those of the other connection as well, whose own seal may
        have failed.
        """
        if self.durability == "none":
            return True
        call(lambda: client.set(key, b"1"))
        try:
            if self.durability == "aof":
                return cast(list[int], call(lambda: client.waitaof(1, 0, SEAL_TIMEOUT_MS)))[0] >= 1
            return cast(int, call(lambda: client.wait(1, SEAL_TIMEOUT_MS))) >= 1
        except redis.ResponseError:
            return False  # this server knows no such command

    def scripted(self, script: str, calls: Sequence[Call]) -> list[Any]:
        """Run a script for each (keys, arguments), pipelined; loads it where it is not known."""
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        for attempt in range(2):
            pipe = self.client.pipeline(transaction=False)
            if attempt:
                pipe.script_load(script)
            for keys, arguments in calls:
                pipe.evalsha(digest, len(keys), *keys, *arguments)
            try:
                answers: list[Any] = call(pipe.execute)
                return answers[1:] if attempt else answers
            except redis.exceptions.NoScriptError:
                continue
        raise Unavailable("Redis forgets scripts as fast as they are loaded")


def call(function: Callable[[], R]) -> R:
    """Run a Redis call; what only the server's absence can cause becomes Unavailable."""
    try:
        return function()
    except redis.exceptions.NoScriptError:
        raise
    except redis.AuthenticationError as error:
        raise Unavailable(
            f"Redis does not let this user in ({error}): check user and password in HEADRACE_REDIS"
        ) from error
    except redis.exceptions.NoPermissionError as error:
        raise Unavailable(
            f"Redis denies this user a command or a key ({error}): extend its ACL; "
            "`headrace doctor` says by what"
        ) from error
    except _AWAY as error:
        raise Unavailable(_away(error)) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise Unavailable(f"Redis is full: {error}") from error
    except redis.ResponseError as error:
        cause = str(error).rpartition("caused error: ")[2]
        if cause.startswith("HEADRACE"):
            raise BadInput(
                f"{cause.removeprefix('HEADRACE ')}: use the version of Headrace that wrote the "
                "row, or backfill into a new project"
            ) from error
        if cause.startswith(("OOM", "UNBLOCKED", *_AWAY_WORDS)):
            raise Unavailable(f"Redis cannot serve now: {error}") from error
        raise


def _away(error: Exception) -> str:
    """Why a server does not answer, with what to check where the client's word tells."""
    text = f"Redis does not answer: {type(error).__name__} {error}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}: check HEADRACE_REDIS_CA_FILE, and that its certificate names the address"
    if "ssl" in text.lower():
        return f"{text}: check that this port speaks TLS, {_CERTIFICATE}"
    if "Timeout connecting" in text:
        return f"{text}: check address and network, and whether this port speaks TLS"
    if "closed by server" in text or "reset by peer" in text:
        return f"{text}: check whether this port speaks TLS (rediss://), {_CERTIFICATE}"
    return text


def _connect_once() -> Callable[[Any], None]:
    """What runs when a connection is made; the second time it refuses."""
    made: list[bool] = []

    def connect(connection: Any) -> None:
        if made:
            raise redis.ConnectionError("the connection was lost")
        connection.on_connect()
        made.append(True)

    return connect
