"""Training rows from the serving log: the join is what a slow recount by hand finds."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from deploy.cli import app
from deploy.training.made import Made, Span
from deploy.training.served import served
from features.errors import BadInput
from features.events import BadEvent, EngagementEvent, Event, ImpressionEvent, parse_events
from ranker.scoring.model import read_manifest
from streaming.archive_folder import ArrowFolder
from streaming.logs.files import LogFiles
from tests.living import LIMIT, REQUESTS, lived, trained
from tests.town import Town

WINDOW_MS = 5_000
OPEN_AT_THE_END_MS = 11_000
"""Late clicks come within it, and the last request may still be answered."""
ACTIONS = ("click", "skip")
Row = tuple[int, str, str, list[float], list[bool]]


@pytest.fixture(scope="module")
def town(applied_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Town:
    """Its log tells one ranking twice, and one whose page nobody saw."""
    folder = tmp_path_factory.mktemp("model")
    town = lived(applied_repo, trained(applied_repo, folder, "served", 10**15))
    town.log.records.append(town.log.records[3])
    unseen = town.log.all()[5] | {"request_id": "nobody-saw-it"}
    town.log.records.append((b"", json.dumps(unseen).encode()))
    return town


@pytest.fixture(scope="module")
def archive(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    town.archive(folder)
    return folder


def made(
    archive: Path,
    town: Town,
    span: Span,
    spill: Path | None = None,
    columns: Sequence[str] | None = None,
) -> Made:
    names = columns or [name for name, _ in town.plan.service_features("home_feed")]
    files = LogFiles(ArrowFolder(str(archive)))
    return served(files, str(archive), names, span, ACTIONS, spill, Progress(disable=True))


def events_of(town: Town) -> list[Event]:
    values = [record.value for records in town.events.values() for record in records]
    return [event for event in parse_events(values) if not isinstance(event, BadEvent)]


def recounted(
    town: Town, span: Span, window_ms: int
) -> list[tuple[int, str, str, list[float], list[bool]]]:
    """(now, request, item, vector, label by action) of every row there should be, by time."""
    events = events_of(town)
    newest = max(event.event_time for event in events)
    rows, met = [], set()
    for record in sorted(town.log.all(), key=lambda one: (one["now"], one["request_id"])):
        for place, item in enumerate(record["items"]):
            request = record["request_id"]
            seen = [
                event.event_time
                for event in events
                if isinstance(event, ImpressionEvent)
                and event.request_id == request
                and item in {shown.item_id for shown in event.items}
            ]
            closed = bool(seen) and min(seen) + window_ms <= newest
            if not closed or (request, item) in met or not span.holds(record["now"]):
                continue
            met.add((request, item))
            followed = {
                event.action
                for event in events
                if isinstance(event, EngagementEvent)
                and (event.request_id, event.item_id) == (request, item)
                and 0 <= event.event_time - min(seen) <= window_ms
            }
            vector = [np.nan if value is None else value for value in record["vectors"][place]]
            rows.append((record["now"], request, item, vector, [a in followed for a in ACTIONS]))
    return rows


def town_ends(town: Town) -> int:
    return max(event.event_time for event in events_of(town)) + 1


@pytest.mark.parametrize(
    ("window_ms", "requests"), [(WINDOW_MS, REQUESTS), (OPEN_AT_THE_END_MS, REQUESTS - 1)]
)
def test_rows_are_those_of_a_slow_recount(
    town: Town, archive: Path, tmp_path: Path, window_ms: int, requests: int
) -> None:
    expected = recounted(town, Span(), window_ms)
    found = made(archive, town, Span(window_ms=window_ms))
    rows = found.rows
    assert len(rows) == len(expected) == requests * LIMIT
    assert rows.now.tolist() == [row[0] for row in expected]
    np.testing.assert_array_equal(rows.matrix, np.array([row[3] for row in expected]))
    labels = np.array([row[4] for row in expected])
    for place, action in enumerate(ACTIONS):
        np.testing.assert_array_equal(rows.labels[action], labels[:, place])
    assert 0 < rows.labels["click"].sum() < len(rows)
    starts = [row[1] for row in expected]
    assert len(np.unique(rows.request)) == len(set(starts)) == found.requests
    assert (np.diff(rows.request) >= 0).all()
    assert found.events == len(events_of(town))
    for reason in ("repeated items", "items nobody saw"):
        assert f"{LIMIT} {reason}" in found.says
    open_yet = f"{LIMIT} items that may be answered yet" in found.says
    assert open_yet == (requests < REQUESTS)
    spilt = made(archive, town, Span(window_ms=window_ms), tmp_path / "rows").rows
    np.testing.assert_array_equal(spilt.matrix, rows.matrix)


def test_a_late_click_is_no_label_within_the_window_and_one_without_it(
    town: Town, archive: Path
) -> None:
    within = made(archive, town, Span(window_ms=WINDOW_MS)).rows
    ever = made(archive, town, Span()).rows
    same = ever.part(np.isin(ever.now, within.now))
    assert len(same) == len(within)
    late = np.flatnonzero(same.labels["click"] > within.labels["click"])
    assert len(late)
    assert (within.labels["click"] <= same.labels["click"]).all()


def test_a_span_is_of_the_requests_own_instants(town: Town, archive: Path) -> None:
    instants = sorted({record["now"] for record in town.log.all()})
    span = Span(instants[4], instants[9])
    assert set(made(archive, town, span).rows.now.tolist()) == set(instants[4:9])
    with pytest.raises(BadInput, match="holds no rankings from"):
        made(archive, town, Span(instants[-1] + 1))


def test_columns_are_found_by_name_and_rows_without_one_are_left_out(
    town: Town, archive: Path
) -> None:
    names = [name for name, _ in town.plan.service_features("home_feed")]
    every = made(archive, town, Span()).rows
    some = made(archive, town, Span(), columns=[names[7], names[2]]).rows
    np.testing.assert_array_equal(some.matrix, every.matrix[:, [7, 2]])
    none = made(archive, town, Span(), columns=[names[7], "nobody__served"])
    assert len(none.rows) == 0
    assert "items served with other columns" in none.says


def test_the_command_trains_a_model_that_serves(
    town: Town, archive: Path, applied_repo: Path, tmp_path: Path
) -> None:
    command = ["train", str(archive), "--from-rankings", "--repo", str(applied_repo)]
    command += ["--head", "click", "--trees", "10", "--held-back", "0.3"]
    command += ["--set", "min_data_in_leaf=5"]
    for name, more in {"plain": [], "thin": ["--negatives", "0.5", "--on-disk"]}.items():
        asked = [*command, "--output", str(tmp_path / name), "--window", "5s", *more]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        manifest = read_manifest(tmp_path / name)
        assert manifest.data_span.requests == REQUESTS
        assert manifest.data_span.events == len(events_of(town))
        assert 0 <= manifest.heads[0].metrics["held_back_auc"] <= 1
        assert manifest.heads[0].importance
        assert (manifest.fitting["seed"], manifest.fitting["trees"]) == (1, 10)
        town.model = tmp_path / name
        ranked = town.rank(town_ends(town), user_id="u1", candidates=["i1", "i2"])
        assert ranked.model == manifest.created_at.isoformat()
        assert f"{LIMIT} items nobody saw left out" in " ".join(done.output.split())
    refused = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "no"), "--repeats"])
    assert refused.exit_code == 1
    assert "--repeats is of events" in refused.output
