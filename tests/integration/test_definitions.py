"""Definitions of a running system change at definite offsets, or not at all."""

import itertools
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from feast import FeatureStore
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.feature_store import SETTINGS, write_settings
from deploy.ports import HOST
from features.declare import activity_view, counters, entity, events_source, last_seen, newest
from features.entities import Hash
from features.events import EngagementEvent, Event
from features.plan import FeatureRepo
from features.project import Projection
from features.row_store import MemoryRows
from features.spec import Plan
from streaming.aggregate import Aggregator
from streaming.kafka import Broker
from streaming.plans import load_plan, store_plan
from streaming.records import Outgoing, Record
from tests.pipeline import GENERATION, blocks_by_target, new_router, unmarked
from tests.waiting import until
from tests.workers import PARTITIONS, Stream, stream_of_its_own

PROJECT = "changing"
EVENTS = events_source(archive=Path("archive"))
ITEM = entity("item", "item_id")


def _view(rings: Sequence[tuple[str, int]], counted: Sequence[str], listed: Sequence[str]) -> Any:
    state = [counters(*counted, rings=rings), newest("recent", listed, 20), last_seen()]
    return activity_view("item_activity", ITEM, EVENTS, state)


BEFORE = _view([("5m", 12)], ["click", "like"], ["click"])
AFTER = _view([("5m", 12), ("1h", 24)], ["click", "like", "visit"], ["click", "visit"])
REFUSED = _view([("5m", 24), ("1h", 24)], ["click", "like", "visit"], ["click", "visit"])
NOW = 1_700_000_000_000
numbers = itertools.count()


def _events(count: int) -> list[Event]:
    """Clicks, likes and visits of many users on a few items, over some hours."""
    return [
        EngagementEvent(
            event_id=f"e{n}",
            event_time=NOW + (n * 7919) % 40_000_000,
            user_id=f"u{n % 50}",
            item_id=f"i{n % 11}",
            action=("click", "visit", "like", "click", "visit")[n % 5],
        )
        for n in itertools.islice(numbers, count)
    ]


@pytest.fixture
def repo(empty_valkey: str, tmp_path: Path) -> Path:
    """A feature repository of its own, not applied yet."""
    folder = tmp_path / "repo"
    folder.mkdir()
    ours = Path(__file__).parents[2] / "feature_repo" / SETTINGS
    shutil.copy(ours, folder / SETTINGS)
    port = urlsplit(empty_valkey).port
    assert port is not None
    write_settings(folder, folder / SETTINGS, port)
    text = (folder / SETTINGS).read_text().replace("project: headrace", f"project: {PROJECT}")
    (folder / SETTINGS).write_text(text)
    return folder


@pytest.fixture
def made(empty_valkey: str, repo: Path, tmp_path: Path) -> Iterator[Stream]:
    """A stream over a broker of its own."""
    with stream_of_its_own(empty_valkey, repo, tmp_path) as one:
        yield one


def _apply(repo: Path, view: Any) -> Plan:
    """What `feast apply` does, without the time it takes to start."""
    FeatureStore(str(repo)).apply([EVENTS, ITEM, view])
    return FeatureRepo(repo).open().read()


def _starts(made: Stream) -> dict[int, int]:
    """The offset from which the second definition applies, by partition."""
    with redis.Redis.from_url(made.redis) as client:
        found = {p: client.hget(f"headrace:{PROJECT}:starts:1/{p}", "1") for p in range(PARTITIONS)}
    return {p: int(offset) for p, offset in found.items() if offset is not None}


def _recounted(
    made: Stream, before: Plan, after: Plan, starts: dict[int, int]
) -> dict[bytes, Hash]:
    """The rows of all events in the log, each counted under the plan of its offset."""
    records: dict[int, list[Record]] = {}
    for record in Broker(made.broker, {}).scan(made.events):
        records.setdefault(record.partition, []).append(record)
    store, sent = MemoryRows(), list[tuple[bool, Outgoing]]()
    for partition, listed in records.items():
        router = new_router(incarnation=f"p{partition}", partition=partition)
        for late, of in ((False, before), (True, after)):
            part = [r for r in listed if (r.offset >= starts[partition]) == late]
            if part:
                routed = router.step({partition: part}, Projection(of))
                sent += [(late, outgoing) for outgoing in routed.outgoing]
    sent.sort(key=lambda pair: pair[0])
    for of in (before, after):
        store_plan(store, of)
    aggregator = Aggregator(before, store)
    for target, blocks in blocks_by_target([outgoing for _, outgoing in sent]).items():
        aggregator.own(target, GENERATION, 0)
        for offset, block in blocks:
            aggregator.use(load_plan(store, block.header.plan))
            aggregator.step({target: [(offset, block)]})
    return unmarked(store.rows)


def _scraped(made: Stream, name: str, kind: str) -> float:
    port = made.alive[name].port
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if f'kind="{kind}"' in line)


def _headrace_plan(made: Stream) -> Result:
    return CliRunner().invoke(app, ["plan"], env=made.environment())


def _log(made: Stream, name: str) -> str:
    return (made.logs / f"{name}.log").read_text()


def test_an_action_and_a_window_count_from_definite_offsets_and_a_corrupting_change_is_refused(
    made: Stream, repo: Path
) -> None:
    before = _apply(repo, BEFORE)
    made.start("route", "aggregate")
    made.send(_events(1500))
    after = _apply(repo, AFTER)
    until(lambda: _busy(made) == PARTITIONS, 60, "for the new plan")
    starts = _starts(made)
    assert all(offset > 0 for offset in starts.values())
    made.send(_events(1500))
    expected = _recounted(made, before, after, starts)
    assert expected != _recounted(made, before, after, dict.fromkeys(starts, 0))
    made.wait_for(expected)
    for partition, offset in starts.items():
        said = (
            f"plan {after.version} applies to partition {partition} from offset {offset}: it adds"
        )
        assert said in _log(made, "route")
    listing = _headrace_plan(made)
    assert listing.exit_code == 0, listing.output
    for part in ("click_1h, ", "recent: visit, ", "visit_total"):
        (line,) = [line for line in listing.stdout.splitlines() if part in line]
        assert all(f"{p}:{offset}" in line for p, offset in starts.items())

    _apply(repo, REFUSED)
    until(lambda: _scraped(made, "route", "plan_refused") == 1, 60, "for the refusal")
    assert "'click_5m' of view 'item_activity' was click events in 12 × 5m" in _log(made, "route")
    made.send(_events(300))
    made.wait_for(_recounted(made, before, after, starts))
    refused = _headrace_plan(made)
    assert refused.exit_code == 2
    assert "declare it under another name" in " ".join(refused.output.split())


def _busy(made: Stream) -> int:
    """How many partitions have taken the second definition over, while events come in."""
    made.send(_events(50))
    return len(_starts(made))
