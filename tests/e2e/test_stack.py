"""Through everything, with the real processes: publish → rank → click → the ranking changes."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from feast import FeatureStore

from features.errors import Refused
from features.unpack import unpack_lists
from ranker.settings import RankerSettings
from ranker.wiring import Ranker
from streaming.records import Outgoing
from tests.browsing import engagement
from tests.e2e.conftest import Running
from tests.stock_feast import stock_store
from tests.waiting import until

ITEMS = [f"i{number}" for number in range(60)]
NEW_STATE = """
from stored import events, item, surface
from features.declare import activity_view, counters, last_seen

item_bookmarks = activity_view("item_bookmarks", item, events, [counters("bookmark"), last_seen()])
surface_bookmarks = activity_view("surface_bookmarks", surface, events, [counters("bookmark")])
"""
NEW_FEATURES = """
from bookmarks import item_bookmarks, surface_bookmarks

bookmark_counts = as_of_view(
    "bookmark_counts",
    [item_bookmarks],
    [
        count("bookmarks_sum_1h", "bookmark", "1h"),
        count("bookmarks_sum_all", "bookmark"),
        recency("bookmarked_s"),
    ],
)
surface_bookmark_counts = as_of_view(
    "surface_bookmark_counts", [surface_bookmarks], [count("bookmarks_sum_all", "bookmark")]
)
"""
SERVICE = "home_feed = feature_service("
LAST_VIEW = "        request_facts,\n"
NEW_VIEWS = "        bookmark_counts,\n        surface_bookmark_counts,\n"


def now_ms() -> int:
    return int(time.time() * 1000)


def test_a_click_changes_the_ranking_of_its_user_and_freshness_says_so(running: Running) -> None:
    body = {"user_id": "newcomer", "candidates": ITEMS, "limit": 60}
    before = running.rank(**body)
    assert before.degraded == []
    assert before.model != "popularity"
    assert before.freshness.user_age_ms is None
    clicks = [
        engagement(f"newcomer-{number}", now_ms(), 0, number, "click").model_copy(
            update={"user_id": "newcomer"}
        )
        for number in (4, 9, 14)
    ]
    running.stream.send(clicks)
    until(lambda: running.rank(**body).freshness.user_updated_at == clicks[-1].event_time, 30)
    after = running.rank(**body)
    assert after.freshness.user_age_ms is not None
    assert 0 <= after.freshness.user_age_ms < 10_000

    def places(feed: Any) -> int:
        return sum(item.position for item in feed.items if item.categories == ["c4"])

    assert places(after) < places(before)
    untouched = running.rank(user_id="another newcomer", candidates=ITEMS, limit=60)
    assert places(untouched) > places(after)


def test_the_feature_service_reads_the_same_bits_through_stock_feast(running: Running) -> None:
    store = stock_store(running.stack.feature_store)
    service = store.get_feature_service("home_feed")

    def unequal() -> list[tuple[str, str]]:
        differ = []
        for user, item, row, served in _served(running, store):
            found = store.get_online_features(service, [row], full_feature_names=True).to_dict()
            if _bits({name: found[name][0] for name in served}) != _bits(served):
                differ.append((user, item))
        return differ

    # The ranker may be behind Redis by its staleness bound; once nothing moves they are equal.
    until(lambda: not unequal(), 20.0, "for equal bits", pause_s=0.5)


def _served(
    running: Running, store: FeatureStore
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, float | None]]]:
    """Users and items, the row that stock Feast is asked by, and the features the ranker served."""
    now = now_ms()
    for user, items in (("u3", ["i3", "i4", "ghost"]), ("u7", ["i59"]), ("nobody", ["i1"])):
        feed = running.rank(user_id=user, candidates=items, now=now, features=True)
        assert feed.degraded == []
        vectors = _recent_vectors(store, user)
        for item in feed.items:
            row = {
                "user_id": user,
                "item_id": item.item_id,
                "author_id": item.author_id or "",
                "category": item.categories[0] if item.categories else "",
                "surface": "home",
                "request_surface": "home",
                "now": now,
                "recent_vectors": vectors,
            }
            assert item.features is not None
            assert sum(value is not None for value in item.features.values()) > 20
            yield user, item.item_id, row, item.features


def _recent_vectors(store: FeatureStore, user: str) -> list[float]:
    """The embeddings of a user's listed items, end to end, as a Feast client gathers them."""
    found = store.get_online_features(["user_activity:lists"], [{"user_id": user}])
    listed = unpack_lists(found.to_dict()["lists"][0], ["recent"]).get("recent", [])
    if not listed:
        return [0.0]
    rows: Sequence[dict[str, Any]] = [{"item_id": entry.item} for entry in listed]
    vectors = store.get_online_features(["item_embedding:embedding"], list(rows)).to_dict()
    return [component for vector in vectors["embedding"] for component in vector]


def _bits(features: dict[str, float | None]) -> dict[str, str | None]:
    return {
        name: None if value is None or value != value else float(value).hex()
        for name, value in features.items()
    }


def test_stock_feast_lists_our_views(running: Running) -> None:
    kinds = ("stream-feature-views", "on-demand-feature-views")
    with ThreadPoolExecutor() as pool:
        stored, demanded = pool.map(lambda kind: running.feast(kind, "list"), kinds)
    assert "user_activity" in stored
    assert "item_profile" in stored
    assert "user_item" in demanded
    assert "item_rates" in demanded


def test_the_commands_work_against_the_stack(running: Running) -> None:
    asked = ("rank", "u3", "--explain", "--explain-time", "-n", "3", "--url", running.url)
    feed = running.headrace(*asked)
    assert "user_row" in feed
    assert "features" in feed
    assert "how people react to this item" in feed
    assert "newest event of the user" in feed
    schema = json.loads(running.headrace("events", "schema"))
    assert schema["title"] == "Headrace event"
    running.sink.send(Outgoing("events", b"u1", b'{"type": "purchase"}'))
    running.sink.flush()
    until(lambda: "unknown type" in running.headrace("dead-letters", "list"), 30)
    assert "ranker" in running.headrace("status", "--data", str(running.stack.folder))


def test_a_model_that_does_not_fit_refuses_at_start_and_names_the_column(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = running.stack.model
    assert model is not None
    for file in model.iterdir():
        text = file.read_text().replace("item_rates__ctr_24h", "item_rates__ghost")
        (tmp_path / file.name).write_text(text)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(running.stack.feature_store))
    settings = RankerSettings(repo=running.stack.repo, model=tmp_path, kafka="")
    with pytest.raises(Refused, match=r"'item_rates__ghost'.*declare it again"):
        Ranker(settings)


def test_a_new_view_and_feature_are_served_after_feast_apply_without_a_restart(
    running: Running,
) -> None:
    repo = running.stack.repo
    (repo / "bookmarks.py").write_text(NEW_STATE)
    as_of = repo / "as_of.py"
    text = as_of.read_text().replace(SERVICE, f"{NEW_FEATURES}{SERVICE}")
    assert text.count(LAST_VIEW) == 1
    as_of.write_text(text.replace(LAST_VIEW, LAST_VIEW + NEW_VIEWS))
    running.feast("apply")
    applied = {name: child.pid for name, child in running.stack.children.items()}

    def features(item: str, **more: Any) -> dict[str, float | None]:
        feed = running.rank(user_id="u3", candidates=[item], features=True, **more)
        assert feed.model != "popularity"
        return feed.items[0].features or {}

    until(lambda: "bookmark_counts__bookmarks_sum_all" in features("i1"), 30)
    sent = 0

    def takes_hold() -> bool:
        """Route applies a new plan to events that come after it noticed: send until it has."""
        nonlocal sent
        sent += 1
        running.stream.send([engagement(f"first-{sent}", now_ms(), 1, 1, "bookmark")])
        running.stream.wait()
        return bool(features("i1")["bookmark_counts__bookmarks_sum_all"])

    until(takes_hold, 60, pause_s=0.1)
    time_ms = now_ms()
    marks = [engagement(f"mark-{n}", time_ms - n, n, 2, "bookmark") for n in range(5)]
    running.stream.send([*marks, *marks[:2]])
    until(lambda: features("i2")["bookmark_counts__bookmarks_sum_all"] == 5, 30)

    def surface_is_whole() -> bool:
        """All bookmarks were on one surface: those of the first item, and the five marks."""
        first = features("i1")["bookmark_counts__bookmarks_sum_all"]
        assert first is not None
        return features("i2")["surface_bookmark_counts__bookmarks_sum_all"] == first + 5

    until(surface_is_whole, 30)
    found = features("i2", now=time_ms + 7_000)
    assert found["bookmark_counts__bookmarked_s"] == 7.0
    assert found["bookmark_counts__bookmarks_sum_1h"] == 5
    assert features("i3")["bookmark_counts__bookmarks_sum_all"] == 0
    assert {name: child.pid for name, child in running.stack.children.items()} == applied
    assert all(running.stack.alive(name) for name in applied)


def test_while_valkey_does_not_answer_a_feed_still_comes_and_says_what_is_missing(
    running: Running,
) -> None:
    valkey = running.stack.children["valkey"].pid
    usual = running.rank(user_id="u3", candidates=ITEMS)
    os.kill(valkey, signal.SIGSTOP)
    try:
        feed = running.rank(user_id="u3", candidates=ITEMS)
        assert "user_row" in [stage.partition(":")[0] for stage in feed.degraded]
        assert len(feed.items) == 20
        assert all(item.known for item in feed.items)
        until(lambda: any("item_table" in s for s in running.rank(user_id="u3").degraded), 20)
    finally:
        os.kill(valkey, signal.SIGCONT)
    until(lambda: running.rank(user_id="u3").degraded == [], 30)
    assert {item.item_id for item in usual.items} <= set(ITEMS)
    assert running.rank(user_id="u3").freshness.user_updated_at is not None


def test_after_every_connection_to_valkey_is_cut_clicks_take_effect_again(
    running: Running,
) -> None:
    with redis.Redis.from_url(running.environment["HEADRACE_REDIS"]) as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
    click = engagement(f"after-{now_ms()}", now_ms(), 5, 1, "click")
    assert len(running.rank(user_id="u5", candidates=ITEMS).items) == 20
    running.stream.send([click])

    def took_effect() -> bool:
        feed = running.rank(user_id="u5", candidates=ITEMS)
        return feed.freshness.user_updated_at == click.event_time and feed.degraded == []

    until(took_effect, 30)
