"""Row versions through Feast's offline joins, stock and ours: what was known at each instant.

The reference recounts from the events themselves: those of blocks whose span was over by then.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, RepoConfig
from feast.types import Array, Float32, Int64, String

from features import declare
from features.as_of import Reader
from features.events import EngagementEvent, Event, ItemEvent, UserEvent
from features.offline import FOLDER, version_views
from features.plan import compile_plan
from features.unpack import unpack_counts, unpack_lists
from features.updates import event_hash
from streaming.archive import SpanSettings
from streaming.archive_files import ArchiveFiles
from tests.archives import EARLY, Ground, arrived
from tests.pipeline import SETTINGS
from tests.plans import World
from tests.stored import feed_events

STOCK, OURS = "file", "features.offline_store.AsOfOfflineStore"
BATCH, STEP_MS = 4, 1_000
Pair = tuple[str, str, int]
"""User, item and instant."""
STORED = [
    "users:counts",
    "users:lists",
    "items:counts",
    "profile:author_id",
    "profile:event_hash",
]


def _objects(archive: Path) -> list[Any]:
    source = declare.events_source(archive=archive)
    user, item = declare.entity("user", "user_id"), declare.entity("item", "item_id")
    state = [
        declare.counters("click", rings=[("5m", 12), ("1h", 24)]),
        declare.first_seen(),
        declare.last_seen(),
        declare.newest("recent", ["click"], 5),
    ]
    users = declare.activity_view("users", user, source, state)
    items = declare.activity_view("items", item, source, state[:-1])
    fields = [
        declare.taken("author_id", String),
        declare.taken("categories", Array(String)),
        declare.taken("created_at", Int64),
        declare.taken("embedding", Array(Float32)),
    ]
    profile = declare.latest_view("profile", item, source, "item", fields)
    rates = declare.as_of_view(
        "rates",
        [items],
        [declare.count("clicks", "click"), declare.count("clicks_1h", "click", "1h")],
    )
    own = declare.as_of_view(
        "own",
        [users, profile],
        [
            declare.count("own_clicks", "click"),
            declare.recency("idle_s"),
            declare.affinity("affinity", "recent", ["click"], "author", "7d"),
            declare.age("age_s", "created_at", "profile"),
            declare.value("created_at", "created_at", "profile"),  # named as what it reads
        ],
    )
    vectors = declare.latest_view("vectors", user, source, "user", [declare.embedded("own", 3)])
    taste = declare.as_of_view(
        "taste",
        [vectors, profile],
        [
            declare.dot_product("product", "vectors", bias="created_at"),
            declare.dot_product("cosine", "vectors", normalize=True),
        ],
    )
    services = [
        declare.feature_service("feed", [rates, own]),
        declare.feature_service("liked", [taste]),
    ]
    return [user, item, users, items, profile, vectors, rates, own, taste, *services]


class History:
    """An archive of events, whose blocks came a second apart, and Feast clients that read it."""

    def __init__(self, folder: Path, events: Sequence[Event]) -> None:
        self.folder, self.events = folder, events
        store = self.store(STOCK)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store.apply(_objects(folder))
        self.plan = compile_plan(store.registry.proto(), "offline")
        plans = {self.plan.version: self.plan}
        self.ground = Ground(folder, folder / "state", plans, SpanSettings(2, 3_600_000))
        self._worlds: dict[int, World] = {}

    def archive(self) -> None:
        """Write the versions of all spans that are over."""
        one = replace(SETTINGS, targets=1)
        times = [EARLY + STEP_MS * n for n in range(len(self.events))]
        self.ground.run(arrived(self.events, self.plan, times, BATCH, one), self.plan)

    def store(self, kind: str) -> FeatureStore:
        """A Feast client with an offline store of a kind."""
        return FeatureStore(
            config=RepoConfig(
                project="offline",
                provider="local",
                registry=str(self.folder / "registry.db"),
                online_store=None,
                offline_store={"type": kind},
                entity_key_serialization_version=3,
                repo_path=self.folder,
            )
        )

    def known(self, now: int) -> Sequence[Event]:
        """The events of all spans that were over by then."""
        over = [r.high_water["1/0"] for r in self.ground.records() if r.appended_at <= now]
        return self.events[: max(over, default=-1) + 1]

    def recounted(self, user: str, item: str, now: int) -> dict[str, Any]:
        """What must be found of one user and one item: counted one by one, and as ranked."""
        events = self.known(now)
        clicks = [e for e in events if isinstance(e, EngagementEvent)]
        facts = [e for e in events if isinstance(e, ItemEvent) and e.item_id == item]
        last = facts[-1] if facts else None
        listed = [c.item_id for c in clicks if c.user_id == user][-5:]
        world = self._worlds.get(len(events))
        if world is None:
            world = self._worlds[len(events)] = World(self.plan).fold(events)
        moment = world.moment(
            now,
            user,
            [item],
            authors=[last.author_id if last else None],
            categories=[last.categories[0] if last else None],
        )
        ranked = Reader(self.plan, "feed", world.tables).matrix(moment)[0].tolist()
        names = [name for name, _ in self.plan.service_features("feed")]
        return {
            "users__click_total": sum(c.user_id == user for c in clicks) or None,
            "users__recent_item": listed or None,
            "items__click_total": sum(c.item_id == item for c in clicks) or None,
            "profile__author_id": last.author_id if last else None,
            "profile__event_hash": event_hash(last.event_id) if last else None,
            **dict(zip(names, ranked, strict=True)),
        }


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path, [_moved(event) for event in feed_events(60)])


def _told() -> Iterator[Event]:
    """A feed, and what users like in it."""
    for number, event in enumerate(feed_events(60)):
        yield event
        if number % 2 == 0:
            yield UserEvent(
                event_id=f"user{number}",
                event_time=event.event_time,
                user_id=f"u{number // 2 % 7}",
                embedding=[0.1, number / 7, -0.3],
            )


def _moved(event: Event) -> Event:
    """An event of small times, moved to the days of the archive."""
    moved = {"event_time": EARLY + STEP_MS * event.event_time // 2}
    if isinstance(event, ItemEvent):
        moved["created_at"] = moved["event_time"] - 5_000
    return event.model_copy(update=moved)


def _asked(pairs: Sequence[Pair]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [user for user, _, _ in pairs],
            "item_id": [item for _, item, _ in pairs],
            "event_timestamp": [datetime.fromtimestamp(now / 1000, UTC) for *_, now in pairs],
            "now": [now for *_, now in pairs],
        }
    )


def _pairs() -> list[Pair]:
    """Users, items and instants, from before anything was known; no two instants alike."""
    return [(f"u{n % 8}", f"i{n % 63}", EARLY - 1_500 + n * 7919 % 40_000) for n in range(120)]


def _found(history: History, kind: str, pairs: Sequence[Pair]) -> dict[Pair, dict[str, Any]]:
    store = history.store(kind)
    stored, ranked = (
        store.get_historical_features(_asked(pairs), features, full_feature_names=True)
        .to_arrow()
        .to_pylist()
        for features in (STORED, store.get_feature_service("feed"))
    )
    assert len(stored) == len(ranked) == len(pairs)
    found: dict[Pair, dict[str, Any]] = {}
    for row in [*stored, *ranked]:
        key = (row["user_id"], row["item_id"], row["now"])
        found.setdefault(key, {}).update(row)
    for row in found.values():
        for view in ("users", "items"):
            counts = unpack_counts(row.pop(f"{view}__counts"), ["click"])
            row[f"{view}__click_total"] = counts["click"].total if counts else None
        listed = unpack_lists(row.pop("users__lists"), ["recent"], ["click"]).get("recent", [])
        row["users__recent_item"] = [entry.item for entry in listed] or None
    return found


def _same(found: Any, expected: Any) -> bool:
    """Equal; nothing is null or not a number, however it is written."""
    nothing = [value is None or value != value for value in (found, expected)]
    if any(nothing):
        return all(nothing)
    return bool(list(found) == expected if isinstance(expected, list) else found == expected)


@pytest.mark.filterwarnings("ignore:Downcasting object dtype:FutureWarning")  # dask's
@pytest.mark.parametrize("kind", [STOCK, OURS])
def test_every_row_is_what_was_known_at_its_time_and_ranks_as_it_would_have(
    history: History, kind: str
) -> None:
    history.archive()
    pairs = _pairs()
    found = _found(history, kind, pairs)
    sizes = {len(history.known(now)) for *_, now in pairs}
    assert min(sizes) == 0
    assert len(sizes) > 10
    for pair in pairs:
        for name, expected in history.recounted(*pair).items():
            if name == "profile__event_hash" and kind == STOCK:
                continue  # a float of 53 bits by now
            assert _same(found[pair][name], expected), (pair, name, found[pair][name], expected)


def test_a_dot_product_is_of_the_embeddings_known_at_each_time(tmp_path: Path) -> None:
    history = History(tmp_path, [_moved(event) for event in _told()])
    history.archive()
    pairs = _pairs()
    store = history.store(OURS)
    found = (
        store.get_historical_features(
            _asked(pairs), store.get_feature_service("liked"), full_feature_names=True
        )
        .to_arrow()
        .to_pylist()
    )
    told = {(row["user_id"], row["item_id"], row["now"]): row for row in found}
    seen = set()
    for user, item, now in pairs:
        world = World(history.plan).fold(history.known(now))
        reader = Reader(history.plan, "liked", world.tables)
        (row,) = reader.matrix(world.moment(now, user, [item])).tolist()
        for name, expected in zip(reader.columns, row, strict=True):
            assert _same(told[user, item, now][name], expected), (user, item, now, name)
        seen.add(row[1])
    assert len(seen) > 20  # the cosine, without that of a user or an item nobody knew


def test_candidates_of_one_request_are_a_row_each(history: History) -> None:
    history.archive()
    now = EARLY + 20_500
    pairs = [(f"u{user}", f"i{item}", now) for user in range(3) for item in range(40)]
    found = _found(history, OURS, pairs)
    assert list(found) == pairs  # in the order they were asked for
    for pair in pairs:
        for name, expected in history.recounted(*pair).items():
            assert _same(found[pair][name], expected), (pair, name)


@pytest.mark.parametrize("kind", [STOCK, OURS])
def test_an_archive_that_holds_nothing_yet_answers_nulls(history: History, kind: str) -> None:
    ArchiveFiles(history.ground.folder).declare(version_views(history.plan))
    pairs = [("u1", "i1", EARLY), ("u2", "i2", EARLY + 1)]
    found = _found(history, kind, pairs)
    for pair in pairs:
        assert all(
            found[pair][name] is None
            for name in ("users__click_total", "users__recent_item", "items__click_total")
        )


@pytest.mark.parametrize("engine", ["pandas", "pyarrow"])
def test_others_read_the_files_as_one_table(history: History, engine: str) -> None:
    history.archive()
    folder = history.folder / FOLDER / "users"
    frame = pd.read_parquet(folder) if engine == "pandas" else pq.read_table(folder).to_pandas()
    assert set(frame["user_id"]) == {f"u{n}" for n in range(7)}
    assert frame[frame["appended_at"].dt.year > 1970]["counts"].notna().all()
