"""Events sent to a real broker end up as rows in a real Redis, whatever happens on the way."""

import contextlib
import os
import random
import shutil
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import Program, running, spawn, stop, wait_until_ready
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, UserEvent
from features.plan import FeatureRepo
from features.spec import Plan
from streaming.adapters import kuairand
from tests import kafka_server
from tests.data import FOLDER
from tests.pipeline import final_rows
from tests.records import bad_records, far_future_records, good_events
from tests.workers import Stream, stream

MAX_AHEAD_MS = 300_000


@pytest.fixture(scope="session")
def plan(applied_repo: Path) -> Plan:
    """The plan of our own feature repository."""
    return FeatureRepo(applied_repo).open().read()


@pytest.fixture(params=["in-memory", "apache"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """A broker of each kind, of the test's own: no group of another test is known there."""
    if request.param == "in-memory":
        return servers.broker(free_port())
    if (why := kafka_server.missing()) is not None:
        pytest.skip(why)
    return kafka_server.apache_kafka(free_port(), tmp_path / "kafka")


@pytest.fixture
def own_broker(program: Program, tmp_path: Path) -> Iterator[str]:
    """The address of that broker while it runs."""
    with running(program, tmp_path / "broker.log", kafka_server.START_TIMEOUT_S) as child:
        yield f"{HOST}:{child.port}"


@pytest.fixture
def made(
    own_broker: str, empty_valkey: str, applied_repo: Path, tmp_path: Path
) -> Iterator[Stream]:
    """A stream on a broker of its own."""
    with stream(own_broker, empty_valkey, applied_repo, tmp_path, uuid.uuid4().hex[:8]) as one:
        yield one


def _real_events(count: int) -> list[Event]:
    """What happened first in KuaiRand, and what is known of its items; else made-up events."""
    folder = FOLDER / "kuairand"
    if not folder.is_dir():
        return good_events(7, count)
    known: list[Event] = []
    happened: list[Event] = []
    for event in kuairand.events(folder):
        (known if isinstance(event, ItemEvent | UserEvent) else happened).append(event)
        if len(happened) == count:
            break
    ids = {entity_id for event in happened for entity_id in _ids(event)}
    return [event for event in known if ids.intersection(_ids(event))] + happened


def _ids(event: Event) -> list[str]:
    """The user and items an event names, apart by a prefix."""
    match event:
        case ImpressionEvent():
            return [f"u{event.user_id}", *(f"i{shown.item_id}" for shown in event.items)]
        case EngagementEvent():
            return [f"u{event.user_id}", f"i{event.item_id}"]
        case ItemEvent():
            return [f"i{event.item_id}"]
    return [f"u{event.user_id}"]


def _last_of_all(run: str) -> list[Event]:
    """Events for every partition: once they are folded, so is all that was sent before."""
    return [
        EngagementEvent(
            event_id=f"{run}-{n}",
            event_time=1_700_000_000_000 + n,
            user_id=f"last-{n}",
            item_id=f"last-{n}",
            action="click",
        )
        for n in range(40)
    ]


def _ends_as(made: Stream, sent: Sequence[Event], plan: Plan) -> None:
    """The rows become those of an uninterrupted run, and stay so when all was read."""
    made.wait_for(final_rows(sent, plan))
    last = _last_of_all("last")
    made.send(last)
    made.wait_for(final_rows([*sent, *last], plan))


def test_real_events_sent_twice_end_up_as_the_rows_computed_in_one_process(
    made: Stream, plan: Plan
) -> None:
    events = _real_events(4000)
    rng = random.Random(1)
    made.send(events[:2000])  # some before the workers ever ran
    made.start("route", "aggregate")
    made.send([*rng.sample(events[:2000], 500), *events[2000:], *rng.choices(events, k=500)])
    _ends_as(made, events, plan)


def test_bad_records_are_buried_with_their_reasons_and_the_good_ones_folded(
    made: Stream, plan: Plan
) -> None:
    good = good_events(11, 2000)
    now_ms = time.time_ns() // 1_000_000
    bad = [value for _, value in bad_records(11, 10_000)]
    bad += far_future_records(11, 100, now_ms + 3_600_000, MAX_AHEAD_MS)
    rng = random.Random(2)
    keyed = [(f"u{n % 50}".encode(), value) for n, value in enumerate(bad)]
    made.start("route", "aggregate")
    for start in range(0, 2000, 500):
        made.send(good[start : start + 500])
        part = keyed[start // 500 :: 4]
        made.send_values(rng.sample(part, len(part)))
    _ends_as(made, good, plan)
    letters = made.letters()
    assert Counter(letter.value for letter in letters) == Counter(bad)
    assert all(letter.reason and letter.topic == made.events for letter in letters)
    assert sum("ahead of its append time" in letter.reason for letter in letters) == 100
    assert len({letter.reason for letter in letters}) > 50
    assert made.is_alive("route")
    assert made.is_alive("aggregate")


def test_workers_killed_in_mid_stream_leave_the_rows_of_an_uninterrupted_run(
    made: Stream, plan: Plan
) -> None:
    events = good_events(13, 12_000)
    # No checkpoint before the kill, so that all rows are ahead of it.
    made.settings = {"HEADRACE_CHECKPOINT_INTERVAL_MS": "600000"}
    made.start("route", "aggregate")
    made.send(events[:3000])
    made.wait_until_folding(50)
    made.send(events[3000:6000])
    made.kill("aggregate")
    made.send(events[6000:9000])
    made.kill("route")
    made.send(events[9000:])
    made.rewind_route(plan.project, 400)
    made.start("route", "aggregate")
    _ends_as(made, events, plan)


def test_a_redis_that_stalls_then_crashes_and_comes_back_with_older_rows_is_caught_up_with(
    own_broker: str, applied_repo: Path, plan: Plan, tmp_path: Path
) -> None:
    events = good_events(17, 9000)
    valkey = servers.valkey(free_port(), tmp_path / "data")
    url, log = f"redis://{HOST}:{valkey.port}/0", tmp_path / "valkey.log"
    with (
        contextlib.ExitStack() as stack,
        stream(own_broker, url, applied_repo, tmp_path, "redis") as made,
    ):
        first = spawn(valkey, log)
        stack.callback(stop, [first])
        wait_until_ready([(valkey, first)], 30)
        made.start("route", "aggregate")
        made.send(events[:3000])
        made.wait_until_folding(50)
        os.killpg(first.pid, signal.SIGSTOP)
        made.send(events[3000:5000])
        shutil.copytree(tmp_path / "data", tmp_path / "earlier")
        os.killpg(first.pid, signal.SIGCONT)
        rows = made.row_count()
        made.send(_last_of_all("between"))
        made.wait_until_folding(rows + 80)
        made.wait_until_idle()  # so that nobody asks Redis while it is away
        os.killpg(first.pid, signal.SIGKILL)
        os.waitpid(first.pid, 0)
        # What a power cut does: everything written since then is lost, acknowledged or not.
        shutil.rmtree(tmp_path / "data")
        shutil.move(tmp_path / "earlier", tmp_path / "data")
        second = spawn(valkey, log)
        stack.callback(stop, [second])
        wait_until_ready([(valkey, second)], 30)
        made.send(events[5000:])
        _ends_as(made, [*events[:5000], *_last_of_all("between"), *events[5000:]], plan)
