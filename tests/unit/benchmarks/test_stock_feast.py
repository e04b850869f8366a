"""What the yardsticks of `rank` and `ingest` are asked, without any server."""

import itertools

from features.events import EngagementEvent, ImpressionEvent, ItemEvent, UserEvent
from features.spec import ActivityView, LatestView
from tests.benchmarks.ground import generated
from tests.benchmarks.ingest import distinct
from tests.benchmarks.serving import CANDIDATES, requests
from tests.benchmarks.stock_feast import fields_read
from tests.benchmarks.typed_rows import schema
from tests.plans import PLAN


def test_every_field_that_features_are_computed_from_is_read_once() -> None:
    read = fields_read(PLAN, "feed")
    assert set(read) == {"item_activity", "item_embedding", "item_profile", "user_activity"}
    for view in PLAN.views:
        assert isinstance(view, ActivityView | LatestView)
        names = (
            set(schema(view)) if isinstance(view, ActivityView) else {f.name for f in view.fields}
        )
        fields = read.get(view.name, [])
        assert set(fields) <= names
        assert len(fields) == len(set(fields))
    assert set(read["item_activity"]) == {
        "click_total", "click_10", "click_50", "click_value_50", "impression_10", "like_10",
        "click_value_total", "first_seen", "last_seen",
    }  # fmt: skip
    assert {"recent_time", "recent_action", "recent_author"} <= set(read["user_activity"])
    assert {"duration_ms", "created_at", "categories"} <= set(read["item_profile"])
    assert fields_read(PLAN, "own") == {
        "user_embedding": ["embedding"],
        "item_embedding": ["embedding"],
        "item_profile": ["duration_ms"],
    }


def test_generated_events_fill_a_request_whose_items_and_user_are_known() -> None:
    events = list(generated(2_000))
    of = {kind: [e for e in events if isinstance(e, kind)] for kind in (ItemEvent, UserEvent)}
    facts = [e for e in events if isinstance(e, ImpressionEvent | EngagementEvent)]
    assert len(facts) == 2_000
    assert events == sorted(events, key=lambda event: event.event_time)
    assert list(itertools.islice(generated(2_000), 5_500)) == events[:5_500]
    for asked in requests(events)[:5]:
        assert len(set(asked.request.candidates or [])) == CANDIDATES == len(asked.ids)
        assert {e.item_id for e in of[ItemEvent]} >= set(asked.request.candidates or [])  # type: ignore[union-attr]
        assert asked.request.now == events[-1].event_time + 1


def test_a_repeated_event_counts_once() -> None:
    events = list(itertools.islice(generated(1), 10))
    assert distinct([*events, *events[:3]]) == events
