"""Bytes of Redis per row, by how many facts it has counted and listed.

Rows are folded from KuaiRand's events (or generated ones) and written to a Valkey with the
settings it has when nobody sets any; `MEMORY USAGE` with all samples says what each takes, key and
hash included. Facts are real people's and real items', in the order of time: the first n of those
who have as many, or of several people put together where nobody has.

The yardstick is the layout that was not chosen, of the same rows: see `typed_rows`.
"""

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import mmh3
import numpy as np
from redis import Redis

from features.activity import ActivityTable
from features.codec import MARKER_FIELD, updated_at_field
from features.entities import Hash
from features.events import EngagementEvent, Event, ImpressionEvent
from features.marker import Marker
from features.plan import FeatureRepo
from features.spec import ActivityView, Plan
from tests.benchmarks.ground import applied, events, scratch, valkey
from tests.benchmarks.report import Result
from tests.benchmarks.typed_rows import typed_fields
from tests.facts import decoded
from tests.plans import World

FACTS = (10, 20, 100, 1000)
ROWS = 40
EVENTS = 60_000
DEFAULT_LISTPACK_BYTES, RAISED_LISTPACK_BYTES = 64, 4096
"""`hash-max-listpack-value` as servers have it, and as the operator's guide has it."""
MARKER = Marker(1, 7, 1_234_567)

Fact = EngagementEvent | ImpressionEvent
Figures = dict[str, float]


def run(full: bool) -> Result:
    with scratch() as folder, valkey(folder) as port, applied(folder, port) as apply:
        recorded = [e for e in events(None if full else EVENTS) if isinstance(e, Fact)]
        plan = FeatureRepo(apply()).open().read()
        with Redis(port=port) as client:
            return measure(client, plan, recorded)


def measure(client: Redis, plan: Plan, recorded: Sequence[Fact]) -> Result:
    ours: Figures = {}
    typed: Figures = {}
    for kind, key in (("user", lambda e: e.user_id), ("item", _item)):
        histories = _histories(recorded, key)
        for facts in FACTS:
            chosen = list(_chosen(histories, facts))
            for suffix, listpack_bytes, rename in (
                ("", DEFAULT_LISTPACK_BYTES, str),
                ("_raised", RAISED_LISTPACK_BYTES, str),
                ("_19_digits", DEFAULT_LISTPACK_BYTES, _digits),
                ("_uuid", DEFAULT_LISTPACK_BYTES, _uuid),
            ):
                client.config_set("hash-max-listpack-value", listpack_bytes)
                rows = [_row(plan, history, kind, rename) for history in chosen]
                for side, place in ((ours, 0), (typed, 1)):
                    taken = [_bytes(client, key, sides[place]) for key, sides in rows]
                    side[f"bytes_per_{kind}_{facts}{suffix}"] = float(np.mean(taken))
    ratio = {name: typed[name] / taken for name, taken in ours.items()}
    return Result("memory", ours, typed, ratio)


def _item(event: Fact) -> str:
    return event.item_id if isinstance(event, EngagementEvent) else event.items[0].item_id


def _histories(recorded: Sequence[Fact], key: Callable[[Fact], str]) -> list[list[Fact]]:
    """What happened to each user or item, in the order of time."""
    found: dict[str, list[Fact]] = defaultdict(list)
    for event in recorded:
        found[key(event)].append(event)
    histories = list(found.values())
    random.Random(5).shuffle(histories)
    return histories


def _chosen(histories: list[list[Fact]], facts: int) -> Iterator[list[Fact]]:
    """Histories of as many facts: cut from those that have more, or put together."""
    long = [history for history in histories if len(history) >= facts]
    if len(long) >= ROWS:
        yield from (history[:facts] for history in long[:ROWS])
        return
    at = 0
    for _ in range(ROWS):
        together: list[Fact] = []
        while len(together) < facts:
            together += histories[at % len(histories)]
            at += 1
        yield sorted(together[:facts], key=lambda event: event.event_time)


def _row(
    plan: Plan, history: Sequence[Fact], kind: str, rename: Callable[[str], str]
) -> tuple[bytes, tuple[Hash, Hash]]:
    """The key of the one row these facts are about, and its hash in both layouts."""
    view = next(v for v in plan.activity if v.name == f"{kind}_activity")
    of: dict[str, str] = {f"{kind}_id": rename("27182")}
    world = World(_only(plan, view)).fold(_renamed(event, of, rename) for event in history)
    table = world.tables[view.entity.join_key]
    activity = table.tables[view.name]
    assert isinstance(activity, ActivityTable)
    table.markers[0] = MARKER
    (write,) = table.writes({view.name: np.zeros(1, np.int64)})
    ours = dict(zip(write.fields[::2], write.fields[1::2], strict=True))
    stamp = updated_at_field(view.name)
    typed = typed_fields(view, decoded(activity)) | {stamp: ours[stamp]}
    marker = {MARKER_FIELD: write.marker.encode()}
    return write.key, (ours | marker, typed | marker)


def _only(plan: Plan, view: ActivityView) -> Plan:
    return Plan(project=plan.project, topic="", activity=(view,), latest=(), as_of=(), services={})


def _renamed(event: Fact, of: Mapping[str, str], rename: Callable[[str], str]) -> Event:
    about = event if isinstance(event, EngagementEvent) else event.items[0]
    ids = {
        "item_id": of.get("item_id") or rename(about.item_id),
        "author_id": rename(about.author_id) if about.author_id else None,
    }
    user = {"user_id": of.get("user_id", event.user_id)}
    if isinstance(event, EngagementEvent):
        return event.model_copy(update=user | ids)
    return event.model_copy(update=user | {"items": [event.items[0].model_copy(update=ids)]})


def _digits(text: str) -> str:
    return str(1_800_000_000_000_000_000 + mmh3.hash64(text, signed=False)[0] % 10**17)


def _uuid(text: str) -> str:
    return str(uuid.UUID(bytes=mmh3.hash_bytes(text)))


def _bytes(client: Redis, key: bytes, content: Hash) -> int:
    client.delete(key)
    client.hset(key, mapping=content)  # type: ignore[arg-type]
    taken = client.memory_usage(key, samples=0)
    assert isinstance(taken, int)
    return taken
