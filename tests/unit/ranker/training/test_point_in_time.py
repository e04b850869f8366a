"""Point in time: whatever is planted after a request, no feature of its rows moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, UserEvent
from ranker.training.rows import TrainingRows
from tests.browsing import browsing
from tests.serving import replayed

EVENTS = browsing(60)
SHOWN = [event for event in EVENTS if isinstance(event, ImpressionEvent)]
BEFORE = replayed(EVENTS, ("click", "like"))


def planted(after: ImpressionEvent, delay_ms: int, action: str) -> list[Event]:
    """The label itself, for every item that was shown, and news of those items and the user."""
    when = after.event_time + delay_ms
    told: list[Event] = [
        EngagementEvent(
            event_id=f"planted:{after.event_id}:{place}",
            event_time=when,
            user_id=after.user_id,
            item_id=item.item_id,
            action=action,
            request_id=after.request_id,
            surface=after.surface,
            author_id=item.author_id,
            categories=item.categories,
            value=10**6,
        )
        for place, item in enumerate(after.items)
    ]
    first = after.items[0].item_id
    told.append(ItemEvent(event_id="planted:item", event_time=when, item_id=first, author_id="1"))
    told.append(UserEvent(event_id="planted:user", event_time=when, user_id=after.user_id))
    return told


def _of(rows: TrainingRows, upto: int) -> tuple[bytes, tuple[str, ...]]:
    """Every bit of the rows of requests up to an instant."""
    return rows.part(rows.now <= upto).matrix.tobytes(), rows.columns


@settings(max_examples=12)
@given(
    st.sampled_from(SHOWN),
    st.sampled_from((0, 1, 10, 500)),
    st.sampled_from(("click", "like")),
    st.booleans(),
)
def test_a_label_planted_after_an_impression_moves_no_feature_of_it(
    shown: ImpressionEvent, delay_ms: int, action: str, first: bool
) -> None:
    news = planted(shown, delay_ms, action)
    after = replayed([*news, *EVENTS] if first else [*EVENTS, *news], ("click", "like"))
    assert _of(after, shown.event_time + delay_ms) == _of(BEFORE, shown.event_time + delay_ms)
    mine = after.now == shown.event_time
    assert after.labels[action][mine].sum() >= BEFORE.labels[action][mine].sum()


def test_the_same_label_planted_before_it_does() -> None:
    """Else the test above could not fail."""
    shown = SHOWN[len(SHOWN) // 2]
    after = replayed([*EVENTS, *planted(shown, -1, "click")], ("click", "like"))
    assert _of(after, shown.event_time) != _of(BEFORE, shown.event_time)


@pytest.mark.parametrize("column", ["user_rates__clicks_all", "item_rates__clicks_all"])
def test_later_requests_do_see_what_was_planted(column: str) -> None:
    shown = SHOWN[5]
    after = replayed([*EVENTS, *planted(shown, 1, "click")], ("click", "like"))
    place = after.columns.index(column)
    later = after.now > shown.event_time + 1
    assert np.any(after.matrix[later, place] > BEFORE.matrix[later, place])
