"""Factors end to end: learnt by the command, sent, folded, trained on, and served."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from features.events import (
    Event,
    ItemEvent,
    UserEvent,
    parse_events,
)
from features.plan import FeatureRepo
from ranker.scoring.model import read_manifest
from streaming.embedding_events import embedding_event
from streaming.event_file import read_events, write_events
from streaming.kafka import Broker
from streaming.records import Record
from tests.browsing import browsing
from tests.town import Town

DAY_MS = 86_400_000
START_MS = 500 * DAY_MS
EVENTS = browsing(240, seed=4, start_ms=START_MS, step_ms=DAY_MS // 60)
COLUMN = "factors__log_odds"
UNTIL_MS = START_MS + 3 * DAY_MS


def command(*words: object) -> str:
    done = CliRunner().invoke(app, ["factors", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def refusal(*words: object) -> str:
    done = CliRunner().invoke(app, ["factors", *map(str, words)])
    assert done.exit_code != 0, done.output
    return " ".join(done.output.split())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    write_events(path, EVENTS)
    return path


def learn(file: Path, repo: Path, output: Path, *more: object) -> dict[str, bytes]:
    command("learn", file, "--repo", repo, "--output", output, "--until-ms", UNTIL_MS, *more)
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def vectors(folder: Path) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    found: dict[str, list[float]] = {}
    for whose in ("item", "user"):
        table = pq.read_table(folder / f"{whose}s.parquet")
        rows = table.column("embedding").to_pylist()
        found |= dict(zip(table.column(f"{whose}_id").to_pylist(), rows, strict=True))
    return {owner: np.array(row, np.float32) for owner, row in found.items()}


def test_the_same_events_make_the_same_files_and_what_comes_after_moves_nothing(
    file: Path, applied_repo: Path, tmp_path: Path
) -> None:
    known = learn(file, applied_repo, tmp_path / "one")
    assert sorted(known) == ["items.parquet", "users.parquet"]
    assert learn(file, applied_repo, tmp_path / "two") == known
    early = tmp_path / "early.jsonl"
    write_events(early, [event for event in EVENTS if event.event_time < UNTIL_MS])
    assert learn(early, applied_repo, tmp_path / "three") == known
    assert early.stat().st_size < file.stat().st_size
    fewer = learn(file, applied_repo, tmp_path / "four", "--from-ms", START_MS + DAY_MS)
    assert fewer != known
    assert vectors(tmp_path / "one").keys() == vectors(tmp_path / "four").keys()


def test_an_archive_teaches_what_its_events_do(
    file: Path, applied_repo: Path, tmp_path: Path
) -> None:
    town = Town()
    town.feed(EVENTS)
    town.events[1].append(Record(1, len(town.events[1]), b"", b"no event", town.clock_ms))
    town.archive(tmp_path / "archive")
    learn(file, applied_repo, tmp_path / "one")
    learn(tmp_path / "archive", applied_repo, tmp_path / "two")
    one, two = vectors(tmp_path / "one"), vectors(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[owner], two[owner]) for owner in one)


def sent(broker: str, topic: str) -> list[ItemEvent | UserEvent]:
    records = [record for record in Broker(broker, {}).scan(topic) if record.value is not None]
    found = []
    for event in parse_events([record.value for record in records]):
        assert isinstance(event, ItemEvent | UserEvent)
        found.append(event)
    return found


def test_a_night_sends_what_changed_since_the_one_before(
    file: Path, applied_repo: Path, tmp_path: Path, broker: str, unique: Callable[[str], str]
) -> None:
    topic, output = unique("events"), tmp_path / "factors"
    Broker(broker, {}).topics({topic: 2})
    asked = ("--send", "--kafka", broker, "--topic", topic, "--at-ms", UNTIL_MS)
    learn(file, applied_repo, output, *asked)
    first, known = sent(broker, topic), vectors(output)
    assert len(first) == len(known) == 80
    for event in first:
        owner = event.item_id if isinstance(event, ItemEvent) else event.user_id
        assert event.event_time == UNTIL_MS
        assert event.embeddings["factors"] == known[owner].tolist()
    learn(file, applied_repo, output, *asked)
    assert len(sent(broker, topic)) == 80
    more = ("--least", 0.05, "--until-ms", UNTIL_MS + DAY_MS // 4, "--at-ms", UNTIL_MS + 1)
    command("learn", file, "--repo", applied_repo, "--output", output, *asked, *more)
    news = [event for event in sent(broker, topic) if event.event_time == UNTIL_MS + 1]
    assert 0 < len(news) < 80
    told = {e.item_id if isinstance(e, ItemEvent) else e.user_id for e in news}
    now = vectors(output)
    for owner, vector in known.items():
        assert np.array_equal(now[owner], vector) == (owner not in told)


def test_what_was_learnt_is_trained_on_and_served_as_one_product(
    file: Path, applied_repo: Path, tmp_path: Path
) -> None:
    whole, model = tmp_path / "whole.jsonl", tmp_path / "model"
    command("backfill", file, "--output", whole)
    asked = ["train", str(whole), "--output", str(model), "--repo", str(applied_repo)]
    asked += ["--head", "click", "--trees", "20", "--from-ms", str(START_MS + 2 * DAY_MS)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    manifest = read_manifest(model)
    assert COLUMN in manifest.features
    assert manifest.heads[0].importance[COLUMN] > 0.02  # one of 61, and others know a taste too
    learn(file, applied_repo, tmp_path / "factors", "--until-ms", START_MS + 4 * DAY_MS)
    known = vectors(tmp_path / "factors")
    last = START_MS + 4 * DAY_MS
    plan = FeatureRepo(applied_repo).open().read()
    town = Town(plan=plan, model=model, service="home_feed")
    town.feed(EVENTS)
    items = [f"i{number}" for number in range(30)]
    bare = town.rank(last + 1_000, user_id="u3", candidates=items, limit=30)
    assert not bare.degraded
    column = town.log.newest()["columns"].index(COLUMN)
    assert {row[column] for row in town.log.newest()["vectors"]} == {None}
    town.feed([*_loaded(known, last)])
    feed = town.rank(last + 1_000, user_id="u3", candidates=items, limit=30)
    assert not feed.degraded
    assert feed.model == bare.model != "popularity"
    record = town.log.newest()
    found = dict(zip(record["items"], (row[column] for row in record["vectors"]), strict=True))
    product = {item: float(known["u3"] @ known[item]) for item in items}
    assert found.keys() == set(items)
    np.testing.assert_allclose([found[i] for i in items], [product[i] for i in items], atol=1e-5)
    liked = [place for place, one in enumerate(feed.items) if int(one.item_id[1:]) % 5 == 3]
    assert len(liked) == 6
    assert np.mean(liked) < 10  # of places 0 to 29


def _loaded(known: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]], at: int) -> list[Event]:
    """The events that send them."""
    return [
        embedding_event("user" if owner[0] == "u" else "item", owner, vector, "factors", at)
        for owner, vector in known.items()
    ]


def test_backfilled_events_are_those_that_were_given_and_the_nights_between(
    file: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.jsonl.gz"
    command("backfill", file, "--output", whole, "--utc-offset-hours", 0)
    every = list(read_events(whole))
    assert [event for event in every if not getattr(event, "embeddings", {})] == EVENTS
    nights = {event.event_time for event in every if getattr(event, "embeddings", {})}
    assert nights == {START_MS + n * DAY_MS for n in (1, 2, 3, 4)}


def test_what_cannot_be_done_is_said(file: Path, applied_repo: Path, tmp_path: Path) -> None:
    ground = ("--repo", applied_repo, "--output", tmp_path / "out")
    assert "write SEEN=ACTION" in refusal("learn", file, *ground, "--answers", "impression")
    nothing = refusal("learn", file, *ground, "--until-ms", START_MS)
    assert "tells of nothing that was seen before" in nothing
    assert "--until-ms" in nothing
    assert "a version of their own" in refusal("learn", file, *ground, "--version", "")
    assert "or raise --sightings-max" in refusal("learn", file, *ground, "--sightings-max", 3)
    assert "or raise --owners-max" in refusal("learn", file, *ground, "--owners-max", 1)
    assert "no file" in refusal("learn", tmp_path / "absent.jsonl", *ground)
    undeclared = refusal(
        "learn", file, *ground, "--send", "--version", "v9", "--until-ms", UNTIL_MS
    )
    assert "no view keeps embeddings of items, version 'v9'" in undeclared
    assert not (tmp_path / "out").exists()
    assert "name another" in refusal("backfill", file, "--output", file)
    backwards = tmp_path / "backwards.jsonl"
    write_events(backwards, reversed(EVENTS))
    assert "in order of event_time" in refusal("backfill", backwards, "--output", tmp_path / "o")
    assert not (tmp_path / "o").exists()
