"""What the benchmarks stand on: an applied copy of the feature repository, and events."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from deploy import servers
from deploy.feature_store import SETTINGS, applying, write_settings
from deploy.ports import free_port
from deploy.processes import running
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent
from streaming.adapters import kuairand
from tests.data import FOLDER

REPO = Path(__file__).parents[2] / "feature_repo"
KUAIRAND = FOLDER / "kuairand"
SERVICE = "home_feed"
START_MS = 1_650_812_741_436
ITEMS, USERS, SHOWN = 4_000, 1_000, 5


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        yield Path(name)


@contextmanager
def valkey(folder: Path) -> Iterator[int]:
    """The port of a Valkey as the local stack runs it: every write goes to its append-only file."""
    program = servers.valkey(free_port(), folder / "valkey")
    with running(program, folder / "valkey.log") as child:
        yield child.port


@contextmanager
def applied(folder: Path, redis_port: int, declared: Path = REPO) -> Iterator[Callable[[], Path]]:
    """Stock `feast apply` on a copy of a feature repository, begun; the call waits for it.

    The copy's own settings are in force while the `with` lasts.
    """
    repo = folder / "repo"
    shutil.copytree(declared, repo, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    settings = repo / SETTINGS
    write_settings(REPO, settings, redis_port)
    name = "FEAST_FS_YAML_FILE_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(settings)
    try:
        with applying(repo, settings, folder / "apply.log") as wait:

            def waited() -> Path:
                wait()
                return repo

            yield waited
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def events(limit: int | None) -> list[Event]:
    """What is known of items and users, then the first `limit` things that were shown or done.

    KuaiRand's where it is, else generated ones.
    """
    # Without what people saw before: those are no requests, and cost less than what follows.
    recorded = kuairand.events(KUAIRAND, history=False) if KUAIRAND.is_dir() else None
    everything = recorded or generated(limit or 400_000)
    found: list[Event] = []
    for event in everything:
        found.append(event)
        if not isinstance(event, ItemEvent | UserEvent):
            break
    return found + list(islice(everything, None if limit is None else limit - 1))


def generated(count: int, seed: int = 5) -> Iterator[Event]:
    """Items and users, then `count` impressions and clicks; no item is like another."""
    rng = random.Random(seed)
    about: list[dict[str, Any]] = [
        {"item_id": f"i{i}", "author_id": f"a{i % 900}", "categories": [f"c{i % 40}"]}
        for i in range(ITEMS)
    ]
    for i, of in enumerate(about):
        yield ItemEvent(
            event_id=f"item{i}",
            event_time=START_MS - 1,
            created_at=START_MS - i * 60_000,
            attributes={"duration_ms": 1000.0 * rng.randint(5, 300)},
            embedding=[rng.gauss(0, 0.1) for _ in range(64)],
            **of,
        )
    for i in range(USERS):
        yield UserEvent(
            event_id=f"user{i}",
            event_time=START_MS - 1,
            user_id=f"u{i}",
            attributes={"user_active_degree": "full_active", "register_days": float(i)},
        )
    made = 0
    while made < count:
        shown = rng.sample(about, SHOWN)
        context: dict[str, Any] = {
            "event_time": START_MS + 1000 * made,
            "request_id": f"r{made}",
            "user_id": f"u{min(int(rng.expovariate(0.01)), USERS - 1)}",
            "surface": rng.choice("01"),
        }
        yield ImpressionEvent(
            event_id=f"impression{made}", items=[ShownItem(**of) for of in shown], **context
        )
        made += 1
        for place, of in enumerate(shown):
            if made < count and rng.random() < 0.3:
                value = rng.randrange(100_000)
                yield EngagementEvent(
                    event_id=f"click{made}-{place}", action="click", value=value, **of, **context
                )
                made += 1
