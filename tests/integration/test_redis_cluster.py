"""The stream over a Redis Cluster whose primaries die under load."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from deploy import servers
from deploy.ports import HOST, free_port
from deploy.processes import running
from features.events import Event
from features.plan import FeatureRepo
from tests.pipeline import final_rows
from tests.records import good_events
from tests.redis_cluster import Cluster
from tests.waiting import until
from tests.workers import Stream, stream

SETTINGS = {"HEADRACE_DURABILITY": "replicas", "HEADRACE_CHECKPOINT_INTERVAL_MS": "300"}
UNREPLICATED_S = 0.7
"""Longer than it takes to save a checkpoint that nothing makes true."""


@pytest.fixture
def made(cluster: Cluster, applied_repo: Path, tmp_path: Path) -> Iterator[Stream]:
    """A stream into the Cluster, on a broker of its own."""
    unique = uuid.uuid4().hex[:8]
    with (
        running(servers.broker(free_port()), tmp_path / "broker.log") as broker,
        stream(
            f"{HOST}:{broker.port}", cluster.url, applied_repo, tmp_path, unique, SETTINGS
        ) as one,
    ):
        yield one


def _send_slowly(made: Stream, events: list[Event]) -> None:
    for start in range(0, len(events), 250):
        made.send(events[start : start + 250])


def _kill_with_what_only_it_has(cluster: Cluster, victim: int) -> None:
    """Let a primary take writes for a while that its replica never sees, then kill it."""
    with redis.Redis(HOST, victim) as client:
        client.config_set("requirepass", "unknown to the replica, which so cannot come back")
        client.client_kill_filter(_type="slave")
        before = _rows_written(client)
        enough = before + 100
        until(lambda: _rows_written(client) > enough, 20, "for rows that are not replicated", 0.02)
        time.sleep(UNREPLICATED_S)
    cluster.kill(victim)


def _rows_written(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_hset"]["calls"])  # type: ignore[index]


def test_a_primary_killed_under_load_costs_no_row_and_no_operator(
    made: Stream, cluster: Cluster, applied_repo: Path
) -> None:
    plan = FeatureRepo(applied_repo).open().read()
    events, later = good_events(23, 10_000), good_events(29, 1000)
    made.start("route", "aggregate")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send_slowly, made, events)
        made.wait_until_folding(200)
        victim = cluster.primaries()[0]
        replica = cluster.replica_of(victim)
        _kill_with_what_only_it_has(cluster, victim)
        until(lambda: replica in cluster.primaries(), 30, "for the replica to take over", 0.05)
        sending.result()
    made.wait_for(final_rows(events, plan))
    cluster.mend()
    assert cluster.role(victim) == "slave up"
    made.send(later)
    made.wait_for(final_rows([*events, *later], plan))
    assert made.is_alive("route")
    assert made.is_alive("aggregate")
