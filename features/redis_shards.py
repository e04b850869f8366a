"""Which Redis server holds a key: one server for all, or the primaries of a Cluster by slot."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, urlsplit, urlunsplit

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from features.errors import Refused, Unavailable
from features.redis_link import Durability, Link, call


class Shards:
    """The servers as they stood when they were asked, one link to each primary.

    Nothing is looked up again: a server that is gone, or says that a key is another's, is a lost
    connection, and whoever resumes opens new shards.
    """

    def __init__(self, links: Sequence[Link], by_slot: Sequence[int] | None) -> None:
        self.links = links
        self._by_slot = by_slot

    @property
    def cluster(self) -> bool:
        """Whether the keys of one call must share a slot."""
        return self._by_slot is not None

    def of(self, key: bytes) -> int:
        """The number of the link that holds a key."""
        return 0 if self._by_slot is None else self._by_slot[key_slot(key)]

    def tag(self, key: bytes) -> str:
        """What a key's name begins with to live in the slot of another; empty without slots."""
        return f"{{{slot_tags()[key_slot(key)]}}}" if self.cluster else ""

    def tags(self, link: int) -> list[str]:
        """The tags of all slots a link holds; the empty one without slots."""
        if self._by_slot is None:
            return [""]
        return [f"{{{slot_tags()[s]}}}" for s, holder in enumerate(self._by_slot) if holder == link]

    def close(self) -> None:
        """Give all connections back."""
        for link in self.links:
            link.close()


class Topology(NamedTuple):
    """Where the keys are: the URL of every primary, and by slot the place of its holder there;
    None where there are no slots."""

    urls: tuple[str, ...]
    by_slot: tuple[int, ...] | None


def open_shards(url: str, durability: Durability) -> Shards:
    """Connect to the server of a URL, or to all primaries of the Cluster it belongs to.

    Raises Unavailable when none answers, or when a primary is away.
    """
    found = call(partial(topology, url))
    links: list[Link] = []
    try:
        for one in found.urls:  # one after the other: those before a failure are closed
            link = Link(partial(redis.Redis.from_url, one), durability)
            links.append(link)
    except BaseException:
        for link in links:
            link.close()
        raise
    return Shards(links, found.by_slot)


def topology(url: str) -> Topology:
    """Ask the server of a URL for the primaries it knows of.

    The URL may name several nodes of a Cluster, host:port,host:port; the first that answers is
    asked. Raises Unavailable when none does, or when a slot has no primary, and the client's own
    AuthenticationError when one lets us not in.
    """
    failures = []
    for seed in _seeds(url):
        client = redis.Redis.from_url(seed, socket_timeout=10.0, socket_connect_timeout=2.0)
        try:
            ranges = call(partial(_ranges, client))
        except Unavailable as error:
            if isinstance(error.__cause__, redis.AuthenticationError):
                raise error.__cause__ from None
            failures.append(str(error))
            continue
        finally:
            client.close()
        return Topology((seed,), None) if ranges is None else _of_cluster(seed, ranges)
    raise Unavailable("; ".join(failures))


Range = tuple[int, int, str, int]
"""First slot, last slot, host and port of their primary."""


def _ranges(client: "redis.Redis") -> list[Range] | None:
    """Who holds which slots; None where there are no slots."""
    try:
        known = cast(dict[str, Any], client.info("cluster"))
    except redis.exceptions.NoPermissionError:
        return None  # a Cluster would answer the first call with MOVED
    if not int(known.get("cluster_enabled", 0)):
        return None
    slots = cast(list[Any], client.execute_command("CLUSTER SLOTS", NEVER_DECODE=True))  # type: ignore[no-untyped-call]
    return [(int(a), int(b), _text(primary[0]), int(primary[1])) for a, b, primary, *_ in slots]


def _of_cluster(seed: str, ranges: Sequence[Range]) -> Topology:
    parts = urlsplit(seed)
    if parts.path.strip("/") not in ("", "0"):
        raise Refused("a Redis Cluster has database 0 alone: end HEADRACE_REDIS with /0")
    nodes = sorted({(host or parts.hostname or "", port) for _, _, host, port in ranges})
    by_slot = [-1] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, host, port in ranges:
        number = nodes.index((host or parts.hostname or "", port))
        by_slot[first : last + 1] = [number] * (last + 1 - first)
    if -1 in by_slot:
        raise Unavailable(f"the Redis Cluster has no primary for slot {by_slot.index(-1)}")
    return Topology(tuple(_url(parts, host, port) for host, port in nodes), tuple(by_slot))


def _url(parts: SplitResult, host: str, port: int) -> str:
    """Another node, with the user, password and TLS of the URL."""
    user, at, _ = parts.netloc.rpartition("@")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return urlunsplit(parts._replace(netloc=user + at + address))


def _seeds(url: str) -> list[str]:
    """One URL for each host:port that a URL names."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=user + at + host)) for host in hosts.split(",")]


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


@cache
def slot_tags() -> list[str]:
    """For each slot the smallest number whose digits, as a hash tag, live there."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < REDIS_CLUSTER_HASH_SLOTS:
        found.setdefault(key_slot(b"%d" % number), str(number))
        number += 1
    return [found[slot] for slot in range(REDIS_CLUSTER_HASH_SLOTS)]
