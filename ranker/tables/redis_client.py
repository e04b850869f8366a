"""The client that reads users' rows: of one Redis, or of a Redis Cluster."""

from typing import Final, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster

CONNECT_TIMEOUT_S: Final = 5.0


def async_client(url: str) -> Redis:
    """A client of the Redis at a URL, or of the Cluster whose nodes it names: host:port,host:port.

    The Cluster's is no `Redis`, but what is asked of it here (`hgetall`, `aclose`) is the same.
    Only to connect has a limit of its own: who reads a row gives it a deadline, and for a second
    one the client would begin a task at every command.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    first, *others = hosts.split(",")
    if not others:
        return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=CONNECT_TIMEOUT_S)
    nodes = [address.rpartition(":") for address in others]
    cluster = RedisCluster.from_url(
        urlunsplit(parts._replace(netloc=user + at + first, path="")),
        startup_nodes=[ClusterNode(host, int(port)) for host, _, port in nodes],
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
    )
    return cast(Redis, cluster)
