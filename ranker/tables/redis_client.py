"""The client that reads users' rows: of one Redis, or of a Redis Cluster."""

from typing import Final, Protocol, Self, cast
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection

from features.entities import Hash

CONNECT_TIMEOUT_S: Final = 5.0


class Rows(Protocol):
    """Reads whole hashes, for the loop that runs."""

    async def hgetall(self, key: bytes) -> Hash:
        """A hash, empty when there is none. Raises redis.RedisError or OSError."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class OneRedis:
    """Reads from one Redis, over connections that do nothing else.

    What the client's own command does around its connection (locks, a look whether anything came
    unasked, counts of what the pool does) takes as long again as the round trip.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._idle: list[AbstractConnection] = []
        """The last one was used last."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def hgetall(self, key: bytes) -> Hash:
        """A hash, empty when there is none; when the connection fails, the client is asked, which
        knows when and where to try again."""
        try:
            return await self._ask(key)
        except (redis.ConnectionError, OSError):
            return cast(Hash, await self._client.hgetall(key))  # type: ignore[misc, arg-type]

    async def aclose(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._idle.pop().disconnect()
        await self._client.aclose()

    async def _ask(self, key: bytes) -> Hash:
        idle = self._idle
        connection = idle.pop() if idle else self._connection()
        try:
            # Connects where there is no connection, or none any more.
            await connection.send_command("HGETALL", key)
            # Who stops waiting for the answer closes the connection: nobody else may read it.
            found = await connection.read_response()
        finally:
            idle.append(connection)
        return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))

    def _connection(self) -> AbstractConnection:
        pool = self._client.connection_pool
        return cast(AbstractConnection, pool.make_connection())  # type: ignore[no-untyped-call]


def rows_of(url: str) -> Rows:
    """Reads from the Redis at a URL, or from the Cluster whose nodes it names: host:port,host:port.

    Only to connect has a limit of its own: who reads a row gives it a deadline, and for a second
    one the client would begin a task at every command.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    first, *others = hosts.split(",")
    if not others:
        return OneRedis(
            Redis.from_url(url, socket_timeout=None, socket_connect_timeout=CONNECT_TIMEOUT_S)
        )
    nodes = [address.rpartition(":") for address in others]
    cluster = RedisCluster.from_url(
        urlunsplit(parts._replace(netloc=user + at + first, path="")),
        startup_nodes=[ClusterNode(host, int(port)) for host, _, port in nodes],
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
    )
    return cast(Rows, cluster)
