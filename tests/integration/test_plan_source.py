"""A registry that did not change is not read again, and one that did is."""

import time
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from feast.infra.registry.sql import SqlRegistry

from features import plan
from features.declare import activity_view, counters, entity, events_source, last_seen
from features.errors import Refused
from features.plan import FeatureRepo, PlanSource

EVENTS = events_source(archive=Path("archive"))
ITEM = entity("item", "item_id")


class Clock:
    """Monotonic seconds as a test has them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Registry:
    """A Feast registry in SQLite, and how often it was read whole."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        (folder / "feature_store.yaml").write_text(
            "project: watched\nprovider: local\nentity_key_serialization_version: 3\n"
            f"registry: {{registry_type: sql, path: 'sqlite:///{folder}/registry.db'}}\n"
        )
        self.folder, self.clock, self.reads = folder, Clock(), 0
        self.store = FeatureStore(str(folder))
        self.apply("click")
        patch.setattr(plan, "time", self.clock)
        whole = SqlRegistry.proto

        def proto(registry: SqlRegistry) -> Any:
            self.reads += 1
            return whole(registry)

        patch.setattr(SqlRegistry, "proto", proto)

    def apply(self, *counted: str) -> None:
        """What `feast apply` does, in a later second than the change before."""
        time.sleep(1.1)
        state = [counters(*counted, rings=[("5m", 12)]), last_seen()]
        view = activity_view("item_activity", ITEM, EVENTS, state)
        self.store.apply([ITEM, EVENTS, view])

    def later(self, plans: PlanSource, seconds: float) -> tuple[tuple[str, ...], int]:
        """The actions of the plan so much later, and how often the registry was read for it."""
        before, self.clock.now = self.reads, self.clock.now + seconds
        actions = plans.read().actions
        return actions, self.reads - before


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(tmp_path, monkeypatch)


def test_a_registry_is_read_until_it_has_settled_and_when_it_changed(registry: Registry) -> None:
    plans = FeatureRepo(registry.folder).open()
    found = [registry.later(plans, 1.0) for _ in range(6)]
    assert [reads for _, reads in found] == [1, 1, 1, 1, 0, 0]
    assert {actions for actions, _ in found} == {("click",)}
    registry.apply("click", "like")
    found = [registry.later(plans, 1.0) for _ in range(6)]
    assert [reads for _, reads in found] == [1, 1, 1, 1, 0, 0]
    assert {actions for actions, _ in found} == {("click", "like")}


def test_a_registry_is_read_now_and_then_whatever_it_says(registry: Registry) -> None:
    plans = FeatureRepo(registry.folder).open()
    for _ in range(4):
        registry.later(plans, 1.0)
    assert [registry.later(plans, 20.0)[1] for _ in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_a_registry_that_is_refused_is_refused_until_it_is_mended(registry: Registry) -> None:
    plans = FeatureRepo(registry.folder).open()
    for _ in range(5):
        registry.later(plans, 1.0)
    time.sleep(1.1)
    views: list[Any] = registry.store.list_stream_feature_views()
    registry.store.apply([], objects_to_delete=views, partial=False)
    for _ in range(6):
        with pytest.raises(Refused, match="holds no view"):
            registry.later(plans, 1.0)
    registry.apply("like")
    assert registry.later(plans, 1.0)[0] == ("like",)
