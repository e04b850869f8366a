"""Route and aggregate in one process, over lists for Kafka: what real ones must equal."""

from collections.abc import Iterable, Sequence

from features.codec import MARKER_FIELD
from features.entities import Hash
from features.events import Event, dump_event
from features.project import Projection
from features.row_store import MemoryRows, RowStore
from features.spec import Plan
from streaming.aggregate import Aggregator
from streaming.blocks import Block, decode_block
from streaming.records import Outgoing, Record
from streaming.route import Router, RouteSettings

LONG_AFTER = 9 * 10**12
GENERATION = 1
SETTINGS = RouteSettings(
    events="events",
    updates="updates",
    dead_letters="dead-letters",
    targets=3,
    horizon=1000,
    max_ahead_ms=1000,
)


def records_of(
    values: Iterable[bytes | None],
    start: int = 0,
    partition: int = 0,
    append_time: int = LONG_AFTER,
) -> list[Record]:
    """Consecutive records of one partition."""
    return [
        Record(partition, offset, None, value, append_time)
        for offset, value in enumerate(values, start)
    ]


def new_router(
    settings: RouteSettings = SETTINGS, incarnation: str = "a", partition: int = 0, at: int = 0
) -> Router:
    """A router that owns one partition and resumes at an offset."""
    router = Router(settings, GENERATION, incarnation)
    router.own(partition, at)
    return router


def routed(
    events: Sequence[Event], plan: Plan, batch: int = 100, settings: RouteSettings = SETTINGS
) -> list[Outgoing]:
    """Everything a router sends for events of one partition."""
    router, projection = new_router(settings), Projection(plan)
    records = records_of([dump_event(event) for event in events])
    return [
        outgoing
        for start in range(0, len(records), batch)
        for outgoing in router.step({0: records[start : start + batch]}, projection).outgoing
    ]


def blocks_by_target(outgoing: Iterable[Outgoing]) -> dict[int, list[tuple[int, Block]]]:
    """(offset, block) of each `updates` partition, as the log would hold them."""
    logs: dict[int, list[tuple[int, Block]]] = {}
    for record in outgoing:
        if record.topic == SETTINGS.updates:
            assert record.partition is not None
            log = logs.setdefault(record.partition, [])
            log.append((len(log), decode_block(record.value)))
    return logs


def fold_logs(
    logs: dict[int, list[tuple[int, Block]]], plan: Plan, store: RowStore, batch: int = 7
) -> None:
    """Fold whole logs into a store, uninterrupted."""
    aggregator = Aggregator(plan, store)
    for partition, blocks in sorted(logs.items()):
        start = aggregator.own(partition, GENERATION, 0)
        for at in range(start, len(blocks), batch):
            aggregator.step({partition: blocks[at : at + batch]})


def final_rows(events: Sequence[Event], plan: Plan) -> dict[bytes, Hash]:
    """The rows these events must end up as, without markers."""
    store = MemoryRows()
    fold_logs(blocks_by_target(routed(events, plan, batch=5000)), plan, store)
    return unmarked(store.rows)


def unmarked(rows: dict[bytes, Hash]) -> dict[bytes, Hash]:
    """Rows without their markers, which say how they came about."""
    return {
        key: {field: value for field, value in row.items() if field != MARKER_FIELD}
        for key, row in rows.items()
    }
