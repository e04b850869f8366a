"""Records for tests, made from a seed: good events, and bad records of many named kinds."""

import json
import random
from collections.abc import Callable
from typing import Any

from features.events import (
    RECORD_BYTES_MAX,
    EngagementEvent,
    Event,
    ForgetEvent,
    ImpressionEvent,
    ItemEvent,
    ShownItem,
    UserEvent,
    dump_event,
)

START_MS = 1_650_812_741_436
HUGE_BYTES = 5_000_000
HUGE_MAX = 3  # of one kind per call: each holds megabytes
ACTIONS = ["click", "long_view", "save", "like", "share", "comment", "follow", "hide", "skip"]


def good_events(seed: int, n: int, start_ms: int = START_MS) -> list[Event]:
    """Events of all types (few of them `forget`), a second apart, each with its own event_id."""
    rng = random.Random(seed)
    return [_good(rng, f"good-{seed}-{i}", start_ms + 1000 * i) for i in range(n)]


def _good(rng: random.Random, event_id: str, event_time: int) -> Event:
    user_id, item_id = f"u{rng.randrange(50)}", f"i{rng.randrange(200)}"
    kind = rng.choices(["impression", "engagement", "item", "user", "forget"], [30, 50, 10, 9, 1])
    match kind[0]:
        case "impression":
            shown = [
                ShownItem(item_id=f"i{rng.randrange(200)}", author_id="a1", categories=["c1", "c2"])
                for _ in range(rng.randint(1, 5))
            ]
            return ImpressionEvent(
                event_id=event_id,
                event_time=event_time,
                request_id=f"r{event_id}",
                user_id=user_id,
                surface="home",
                items=shown,
            )
        case "engagement":
            return EngagementEvent(
                event_id=event_id,
                event_time=event_time,
                user_id=user_id,
                item_id=item_id,
                action=rng.choice(ACTIONS),
                value=rng.choice([None, rng.randrange(100_000)]),
                author_id=f"a{rng.randrange(20)}",
            )
        case "item":
            return ItemEvent(
                event_id=event_id,
                event_time=event_time,
                item_id=item_id,
                author_id=f"a{rng.randrange(20)}",
                categories=[f"c{rng.randrange(9)}"],
                created_at=event_time,
                attributes={"duration_ms": rng.random() * 1e5, "kind": "video", "live": False},
                embedding=[rng.uniform(-1, 1) for _ in range(8)],
            )
        case "user":
            return UserEvent(
                event_id=event_id,
                event_time=event_time,
                user_id=user_id,
                attributes={"register_days": rng.randrange(1000)},
                consent=rng.choice([None, True, False]),
            )
        case _:
            return ForgetEvent(event_id=event_id, event_time=event_time, user_id=f"gone-{event_id}")


def far_future_records(seed: int, n: int, append_time_ms: int, max_ahead_ms: int) -> list[bytes]:
    """Records that parse, but whose event_time is too far past the log's append time."""
    rng = random.Random(seed)
    records = []
    for i in range(n):
        ahead = max_ahead_ms + rng.choice([1, 60_000, 10 * 365 * 86_400_000])
        records.append(dump_event(_good(rng, f"future-{seed}-{i}", append_time_ms + ahead)))
    return records


def bad_records(seed: int, n: int) -> list[tuple[str, bytes]]:
    """`n` records that are no events, each with the name of its kind; all kinds in turn.

    A kind whose records weigh megabytes stands for itself three times at most, then a truncated
    record takes its turn.
    """
    rng = random.Random(seed)
    used = dict.fromkeys(HUGE, 0)
    records = []
    for i in range(n):
        kind = KINDS[i % len(KINDS)]
        if kind in used:
            used[kind] += 1
            if used[kind] > HUGE_MAX:
                kind = "truncated"
        event = json.loads(dump_event(_good(rng, f"bad-{seed}-{i}", START_MS + i)))
        records.append((kind, _MAKERS[kind](rng, event)))
    return records


def _json(event: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(event | changes).encode()


def _truncated(rng: random.Random, event: dict[str, Any]) -> bytes:
    whole = _json(event)
    return whole[: rng.randint(1, len(whole) - 1)]


def _flipped(rng: random.Random, event: dict[str, Any]) -> bytes:
    """A record with a byte that no UTF-8 text holds, at any place."""
    whole = bytearray(_json(event))
    whole[rng.randrange(len(whole))] = rng.choice([0xC0, 0xC1, 0xF5, 0xFF])
    return bytes(whole)


def _noise(rng: random.Random, event: dict[str, Any]) -> bytes:
    return b"\x00" + rng.randbytes(rng.randint(0, 200))


def _without(field: str) -> Callable[[random.Random, dict[str, Any]], bytes]:
    return lambda rng, event: _json({k: v for k, v in event.items() if k != field})


def _with(field: str, *values: Any) -> Callable[[random.Random, dict[str, Any]], bytes]:
    return lambda rng, event: _json(event, **{field: rng.choice(values)})


def _raw(*values: bytes) -> Callable[[random.Random, dict[str, Any]], bytes]:
    return lambda rng, event: rng.choice(values)


def _item(**fields: Any) -> Callable[[random.Random, dict[str, Any]], bytes]:
    base = {"type": "item", "item_id": "i1"}
    return lambda rng, event: _json(
        {"event_id": event["event_id"], "event_time": event["event_time"]} | base | fields
    )


def _impression(items: Any) -> Callable[[random.Random, dict[str, Any]], bytes]:
    base = {"type": "impression", "request_id": "r", "user_id": "u", "surface": "home"}
    return lambda rng, event: _json(
        {"event_id": event["event_id"], "event_time": event["event_time"], "items": items} | base
    )


_NAN, _INF = float("nan"), float("inf")
_MAKERS: dict[str, Callable[[random.Random, dict[str, Any]], bytes]] = {
    "empty": _raw(b"", b" ", b"\n", b"\t\r\n"),
    "truncated": _truncated,
    "invalid UTF-8": _flipped,
    "noise": _noise,
    "not an object": _raw(b"1", b"null", b"true", b'"event"', b"[]", b"[{}]", b"-0.0", b"NaN"),
    "array of an event": lambda rng, event: b"[" + _json(event) + b"]",
    "two events": lambda rng, event: _json(event) + b"," + _json(event),
    "two lines": lambda rng, event: _json(event) + b"\n" + _json(event),
    "stray bracket": _raw(b"]", b"}", b"],[", b'{"a":[{}', b"{}]}", b"1,2", b",", b"{},{}"),
    "byte order mark": lambda rng, event: b"\xef\xbb\xbf" + _json(event),
    "UTF-16": lambda rng, event: json.dumps(event).encode("utf-16"),
    "lone surrogate": lambda rng, event: _json(event, event_id="\ud800"),
    "deep nesting": lambda rng, event: (
        _json(event)[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    ),
    "open brackets": lambda rng, event: rng.choice([b"[", b'{"a":']) * 5000,
    "no type": _without("type"),
    "unknown type": _with("type", "purchase", "", "Impression", "x" * 1000, "a\nb"),
    "type of a wrong type": _with("type", None, 1, True, {}, ["item"]),
    "no event_id": _without("event_id"),
    "wrong event_id": _with("event_id", None, 7, "", "x" * 257, "x" * 100_000, {}, ["e"], 10**40),
    "no event_time": _without("event_time"),
    "negative time": _with("event_time", -1, -(10**12), -(2**63)),
    "huge time": _with("event_time", 2**63, 10**40, 1_650_812_741_436_000_000, 1e300),
    "NaN time": _with("event_time", _NAN, _INF, -_INF),
    "wrong time": _with("event_time", None, "1650812741436", 1.5, True, {}, "2022-04-25"),
    "endless number": lambda rng, event: _json(event, event_time=0).replace(
        b'"event_time": 0', b'"event_time": ' + b"9" * 10_000
    ),
    "unknown schema_version": _with("schema_version", 0, 2, 99, "1", True, None),
    "wrong user_id": lambda rng, event: _json(
        event | {"type": "user", "user_id": rng.choice([None, 5, "", "u" * 300, [], {}, True])}
    ),
    "wrong item_id": _item(item_id=12),
    "duplicate key, last one wrong": lambda rng, event: _json(event)[:-1] + b',"event_time":"x"}',
    "impression without items": _impression([]),
    "items of a wrong type": _impression("i1,i2"),
    "shown item of a wrong type": _impression([{"item_id": "i1"}, "i2"]),
    "too many items": _impression([{"item_id": "i"}] * 1001),
    "attribute of a wrong type": _item(attributes={"a": [1]}),
    "null attribute": _item(attributes={"a": None}),
    "NaN attribute": _item(attributes={"a": _NAN}),
    "too many attributes": _item(attributes={f"a{i}": i for i in range(65)}),
    "too many categories": _item(categories=["c"] * 65),
    "wrong categories": _item(categories="c1"),
    "NaN in the embedding": _item(embedding=[0.5, _NAN]),
    "infinite embedding": _item(embedding=[0.5, _INF]),
    "embedding beyond float32": _item(embedding=[1e39]),
    "long embedding": _item(embedding=[0.5] * 4097),
    "wrong flag": _item(ended="yes"),
    "5 MB of spaces": lambda rng, event: _json(event) + b" " * HUGE_BYTES,
    "5 MB of attributes": lambda rng, event: _json(
        event, x={str(i): "y" * 50 for i in range(HUGE_BYTES // 60)}
    ),
    "just over the limit": lambda rng, event: _json(event).ljust(RECORD_BYTES_MAX + 1),
}
HUGE = ("5 MB of spaces", "5 MB of attributes", "just over the limit")
KINDS = tuple(_MAKERS)
