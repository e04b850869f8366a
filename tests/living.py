"""A town whose people are shown what is ranked for them, and answer: recorded traffic for tests."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from deploy.cli import app
from features.events import Event, ImpressionEvent, ShownItem
from features.plan import FeatureRepo
from ranker.request import RankResponse
from ranker.rules import read_rules
from ranker.scoring.value import read_weights
from streaming.event_file import write_events
from tests.browsing import CATEGORIES, browsing, engagement
from tests.town import Town

START_MS = 500 * 86_400_000
HISTORY = browsing(150, seed=3, start_ms=START_MS)
ITEMS = [f"i{number}" for number in range(40)]
REQUESTS = 24
LIMIT = 10
"""Items that each is shown."""


def trained(repo: Path, folder: Path, name: str, until_ms: int) -> Path:
    """A model of what happened before an instant, by the command, for a repository."""
    file, model = folder / "events.jsonl", folder / name
    write_events(file, HISTORY)
    command = ["train", str(file), "--output", str(model), "--repo", str(repo)]
    command += ["--head", "click", "--head", "skip", "--trees", "15", "--until-ms", str(until_ms)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return model


def lived(repo: Path, model: Path, step_ms: int = 60_000, **of: Any) -> Town:
    """The town after everybody was ranked for and answered, a step of time between two."""
    town = Town(
        plan=FeatureRepo(repo).open().read(),
        model=model,
        weights=read_weights(repo / "value.yaml"),
        service="home_feed",
        rules=read_rules(repo / "feed.yaml"),
        **of,
    )
    town.feed(HISTORY)
    now = max(event.event_time for event in HISTORY) + 1_000
    for number in range(REQUESTS):
        user = number % 8
        candidates = None if town.sources else ITEMS
        feed = town.rank(now, user_id=f"u{user}", candidates=candidates, limit=LIMIT)
        town.feed(answered(feed, user, now))
        now += step_ms
    return town


def answered(feed: RankResponse, user: int, now: int) -> list[Event]:
    """The impression of a feed, seen twice, and a click on each item of the user's taste; those
    on the first place come late."""
    shown = [ShownItem(item_id=one.item_id, author_id=one.author_id) for one in feed.items]
    events: list[Event] = [
        ImpressionEvent(
            event_id=f"{feed.request_id}-shown-{again}",
            event_time=now + 1 + again,
            request_id=feed.request_id,
            user_id=f"u{user}",
            surface="home",
            items=shown,
        )
        for again in range(2)
    ]
    for place, one in enumerate(feed.items):
        item = int(one.item_id[1:])
        if likes(user, item):
            late = 10_000 if place == 0 else 100 * place
            fact = f"{feed.request_id}-{place}"
            events.append(engagement(fact, now + late, user, item, "click", feed.request_id))
    return events


def likes(user: int, item: int) -> bool:
    """Whether a user clicks an item that is shown to them."""
    return (item - user) % CATEGORIES == 0 or (item * 7 + user) % 11 == 0


def clicks(record: dict[str, Any], place: int) -> bool:
    """Whether what a record of the serving log shows at a place was clicked, soon or late."""
    return likes(int(record["user_id"][1:]), int(record["items"][place][1:]))
