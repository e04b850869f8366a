"""What hypothesis makes of events: few ids and small times, so that they meet at every edge."""

from hypothesis import strategies as st

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent

USERS, ITEMS, AUTHORS = ("u0", "u1"), ("i0", "i1", "i2", "i3"), ("1", "22")
CATEGORIES = ("c0", "ć1")
times = st.one_of(st.integers(0, 200), st.integers(0, 1000), st.just(10**12))
authors = st.one_of(st.none(), st.sampled_from(AUTHORS))
categories = st.lists(st.sampled_from(CATEGORIES), max_size=2)
vectors = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)


@st.composite
def event(draw: st.DrawFn, number: int) -> Event:
    """An event whose id is its number."""
    kind = draw(st.sampled_from(("engagement",) * 4 + ("impression",) * 2 + ("item", "user")))
    event_id, event_time = f"e{number}", draw(times)
    match kind:
        case "engagement":
            return EngagementEvent(
                event_id=event_id,
                event_time=event_time,
                user_id=draw(st.sampled_from(USERS)),
                item_id=draw(st.sampled_from(ITEMS)),
                action=draw(st.sampled_from(("click", "click", "like", "hide", "unheard_of"))),
                value=draw(st.one_of(st.none(), st.integers(0, 300), st.just(2**53))),
                author_id=draw(authors),
                categories=draw(categories),
            )
        case "impression":
            shown = [
                ShownItem(
                    item_id=draw(st.sampled_from(ITEMS)),
                    author_id=draw(authors),
                    categories=draw(categories),
                )
                for _ in range(draw(st.integers(1, 3)))
            ]
            return ImpressionEvent(
                event_id=event_id,
                event_time=event_time,
                request_id="r",
                user_id=draw(st.sampled_from(USERS)),
                surface="home",
                items=shown,
            )
        case "item":
            return ItemEvent(
                event_id=event_id,
                event_time=event_time,
                item_id=draw(st.sampled_from(ITEMS)),
                author_id=draw(authors),
                categories=draw(categories),
                created_at=draw(st.one_of(st.none(), st.integers(0, 500))),
                attributes={"duration_ms": draw(st.floats(0, 1e6))},
                embedding=draw(st.one_of(st.none(), vectors)),
            )
        case _:
            return UserEvent(
                event_id=event_id,
                event_time=event_time,
                user_id=draw(st.sampled_from(USERS)),
                attributes=draw(st.sampled_from(({}, {"degree": "low"}, {"degree": "high"}))),
                embedding=draw(st.one_of(st.none(), vectors)),
            )


@st.composite
def histories(draw: st.DrawFn, max_size: int = 40) -> list[Event]:
    """Some events, in the order they arrive; each id once."""
    return [draw(event(number)) for number in range(draw(st.integers(0, max_size)))]
