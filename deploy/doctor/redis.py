"""Redis: who answers, whether rows are safe there, what our user may do, and its clock."""

import re
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, cast

import redis

from deploy.doctor.finding import Finding, ok
from features.codec import MARKER_FIELD, STRING_TYPE, entity_key
from features.redis_link import Durability, call
from features.redis_rows import RedisRows
from features.redis_shards import topology

MEMORY_SHARE_MAX: Final = 0.8
CLOCK_NOTE_S, CLOCK_FAULT_S = 1.0, 30.0
SAMPLE_KEYS: Final = 1_000
OLDEST: Final = 7
_ALLOWED: Final = "return redis.acl_check_cmd(unpack(ARGV)) and 1 or 0"


def look(url: str, project: str, durability: Durability) -> Iterator[Finding]:
    """Every primary in turn. Raises Unavailable, or Refused for a policy that loses rows."""
    found = call(lambda: topology(url))
    kind = "a Cluster" if found.by_slot else "one server"
    yield ok("redis", f"{kind}, {len(found.urls)} primary" + ("" if len(found.urls) == 1 else "s"))
    for place in found.urls:
        client = redis.Redis.from_url(place, socket_timeout=5.0, socket_connect_timeout=2.0)
        try:
            yield from _server(client, project, durability)
        finally:
            client.close()
    yield from _policy(url, project, durability)


def _policy(url: str, project: str, durability: Durability) -> Iterator[Finding]:
    """What the workers themselves ask at their start."""
    store = RedisRows(url, project, durability=durability)
    try:
        notes = store.check()
    finally:
        store.close()
    for note in notes:
        what, _, mend = note.rpartition(": ")
        yield Finding("redis/policy", "note", what, mend)
    if not notes:
        yield ok("redis/policy", f"evicts nothing, durability {durability} can be met")


def _server(client: "redis.Redis", project: str, durability: Durability) -> Iterator[Finding]:
    where = "{host}:{port}".format(**client.connection_pool.connection_kwargs)
    info = cast(dict[str, Any], call(client.info))
    yield from _version(where, info)
    yield from _memory(where, info)
    yield from _disk(where, info, durability)
    yield from _clock(where, client)
    yield from _expiry(where, client, info)
    yield from _rights(where, client, project, durability)


def _version(where: str, info: dict[str, Any]) -> Iterator[Finding]:
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version"))
    says = f"{where} is {name} {version}"
    if int(version.partition(".")[0]) < OLDEST:
        yield Finding("redis/version", "fault", says, "use Redis 7 or Valkey, or newer")
    else:
        yield ok("redis/version", says)


def _memory(where: str, info: dict[str, Any]) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    mb = f"{where} uses {used / 1e6:,.0f} MB"
    if not most:
        mend = "set maxmemory, so that a full machine is an error to writers and not a kill"
        yield Finding("redis/memory", "note", f"{mb} and has no maxmemory", mend)
    elif used > MEMORY_SHARE_MAX * most:
        mend = "give it more memory, or the project fewer views: a full Redis stops the workers"
        yield Finding("redis/memory", "fault", f"{mb} of {most / 1e6:,.0f} MB", mend)
    else:
        yield ok("redis/memory", f"{mb} of {most / 1e6:,.0f} MB")


def _disk(where: str, info: dict[str, Any], durability: Durability) -> Iterator[Finding]:
    wrong = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if info.get(name, "ok") != "ok"
    ]
    if wrong:
        says = f"{where} cannot write to its disk ({', '.join(wrong)})"
        mend = "make room on the disk, and see the server's log"
        yield Finding("redis/disk", "fault", says, mend)
    elif durability != "none" and not info.get("aof_enabled"):
        says = f"{where} has no append-only file"
        mend = "CONFIG SET appendonly yes: a server that restarts comes back empty"
        yield Finding("redis/disk", "fault" if durability == "aof" else "note", says, mend)
    else:
        yield ok("redis/disk", f"{where} writes to its disk")


def _clock(where: str, client: "redis.Redis") -> Iterator[Finding]:
    before = time.time()
    seconds, micros = cast(tuple[int, int], call(client.time))
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    yield clock("redis/clock", where, skew)


def clock(check: str, where: str, skew_s: float) -> Finding:
    """What a clock is that differs from ours by so much."""
    says = f"the clock of {where} and ours differ by {skew_s:+.2f} s"
    if abs(skew_s) < CLOCK_NOTE_S:
        return ok(check, says)
    level = "fault" if abs(skew_s) > CLOCK_FAULT_S else "note"
    mend = "let both follow one time server: windows, freshness and HEADRACE_MAX_AHEAD_MS need it"
    return Finding(check, level, says, mend)  # type: ignore[arg-type]


def _expiry(where: str, client: "redis.Redis", info: dict[str, Any]) -> Iterator[Finding]:
    databases = [known for name, known in info.items() if re.fullmatch(r"db\d+", name)]
    if not any(int(known.get("expires", 0)) for known in databases):
        yield ok("redis/expiry", f"no key of {where} expires")
        return
    keys = list(islice(client.scan_iter(count=500), SAMPLE_KEYS))
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.pttl(key)
            pipe.hexists(key, MARKER_FIELD.decode())
        answers = pipe.execute(raise_on_error=False)
    pairs = zip(answers[::2], answers[1::2], strict=True)
    ending = sum(ttl > 0 and row is True for ttl, row in pairs)
    if ending:
        says = f"{ending} of {len(keys)} sampled keys of {where} are rows that expire"
        mend = "PERSIST them and find who sets it (key_ttl_seconds?): a row without marker is wrong"
        yield Finding("redis/expiry", "fault", says, mend)
    else:
        yield ok("redis/expiry", f"keys of others expire on {where}, no sampled row of ours")


def _rights(
    where: str, client: "redis.Redis", project: str, durability: Durability
) -> Iterator[Finding]:
    """By the server's own word of what our user may do; nothing is written."""
    try:
        lacks = {
            process: [" ".join(command[:2]) for command in commands if not _may(client, command)]
            for process, commands in needed(project, durability).items()
        }
    except redis.exceptions.NoPermissionError as error:
        says = f"{where} lets this user run no script, which workers need ({error})"
        yield Finding("redis/rights", "fault", says, "ACL SETUSER … +evalsha +script|load")
        return
    except redis.ResponseError as error:
        yield Finding("redis/rights", "note", f"{where} cannot tell what this user may: {error}")
        return
    for process, commands in lacks.items():
        if commands:
            says = f"{where} denies this user what {process} needs: {', '.join(commands)}"
            mend = "ACL SETUSER … with these commands, on all keys and channels of the project"
            yield Finding("redis/rights", "fault", says, mend)
    if not any(lacks.values()):
        yield ok("redis/rights", f"this user may do on {where} what every process needs")


def needed(project: str, durability: Durability) -> dict[str, list[list[str]]]:
    """The commands that processes give, on keys such as they use, by process."""
    row = entity_key("item_id", STRING_TYPE, "doctor", project).decode("latin-1")
    fact = f"headrace:{project}:doctor"
    waits = {"aof": [["WAITAOF", "1", "0", "1"]], "replicas": [["WAIT", "1", "1"]], "none": []}
    return {
        "route and aggregate": [
            *(["EVALSHA", "0" * 40, "1", row], ["SCRIPT", "LOAD", "return 1"], ["INFO"]),
            *(["HSET", row, "f", "v"], ["HDEL", row, "f"], ["HGETALL", row], ["SADD", fact, "v"]),
            *(["SET", fact, "v"], ["GET", fact], ["HSETNX", fact, "f", "v"], ["HGETALL", fact]),
            *waits[durability],
        ],
        "the ranker": [
            *(["HGETALL", row], ["SSCAN", fact, "0"]),
            *(["CLIENT", "TRACKING", "ON"], ["SUBSCRIBE", "__redis__:invalidate"]),
        ],
    }


def _may(client: "redis.Redis", command: list[str]) -> bool:
    arguments = [part.encode("latin-1") for part in command]
    digest = client.script_load(_ALLOWED)  # workers need no EVAL
    return cast(int, client.evalsha(digest, 0, *arguments)) == 1  # type: ignore[arg-type]
