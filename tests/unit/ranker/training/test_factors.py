"""Factors: a planted truth is found, the same events give the same bits, and nothing grows."""

import random
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from features.errors import BadInput
from features.events import (
    EngagementEvent,
    Event,
    ForgetEvent,
    ImpressionEvent,
    ItemEvent,
    ShownItem,
    UserEvent,
)
from ranker.training.evaluation import auc
from ranker.training.factors.learning import Factors, Rates, learn
from ranker.training.factors.sightings import Lesson, Sightings
from tests.browsing import browsing

DIMENSION = 4


def gathered(events: Iterable[Event], **lesson: Any) -> Sightings:
    seen = Sightings(Lesson(**lesson))
    for event in events:
        seen.add(event)
    return seen


def learnt(events: Iterable[Event], **lesson: Any) -> Factors:
    return learn(gathered(events, **lesson).sighted(), Rates())


def same(one: Factors, other: Factors) -> bool:
    vectors = zip(
        (one.user_vectors, one.item_vectors), (other.user_vectors, other.item_vectors), strict=True
    )
    named = (one.users, one.items) == (other.users, other.items)
    return named and all(a.tobytes() == b.tobytes() for a, b in vectors)


def by_owner(factors: Factors) -> dict[str, bytes]:
    pairs = (*zip(factors.users, factors.user_vectors, strict=True),)
    pairs += (*zip(factors.items, factors.item_vectors, strict=True),)
    return {owner: vector.tobytes() for owner, vector in pairs}


def shown(number: int, time: int, user: str, item: str, **about: Any) -> ImpressionEvent:
    return ImpressionEvent(
        event_id=f"s{number}",
        event_time=time,
        request_id=f"r{number}",
        user_id=user,
        surface="home",
        items=[ShownItem(item_id=item, **about)],
    )


def acted(
    number: int, time: int, user: str, item: str, action: str, asked: bool = True
) -> EngagementEvent:
    return EngagementEvent(
        event_id=f"{action}{number}",
        event_time=time,
        user_id=user,
        item_id=item,
        action=action,
        request_id=f"r{number}" if asked else None,
    )


def test_a_planted_truth_is_found() -> None:
    rng = np.random.default_rng(7)
    users, items = 60, 80
    taste, place = rng.normal(size=(users, DIMENSION)), rng.normal(size=(items, DIMENSION))
    place /= np.linalg.norm(place, axis=1, keepdims=True)
    worth, keen = rng.normal(size=items), rng.normal(size=users)
    truth = 1.5 * taste @ place.T + worth + keen[:, None]
    events: list[Event] = [
        ItemEvent(event_id=f"i{i}", event_time=0, item_id=f"i{i}", embedding=(3 * v).tolist())
        for i, v in enumerate(place)
    ]
    for number in range(12_000):
        user, item = int(rng.integers(users)), int(rng.integers(items))
        events.append(shown(number, 2 * number + 1, f"u{user}", f"i{item}"))
        if rng.random() < 1 / (1 + np.exp(-truth[user, item])):
            events.append(acted(number, 2 * number + 2, f"u{user}", f"i{item}", "click"))
    factors = learnt(events)
    of_users = {user: n for n, user in enumerate(factors.users)}
    of_items = {item: n for n, item in enumerate(factors.items)}
    score = factors.user_vectors @ factors.item_vectors.T
    found = score[[of_users[f"u{n}"] for n in range(users)]]
    found = found[:, [of_items[f"i{n}"] for n in range(items)]]
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.85
    # What is left when every user's and item's own share is taken away: the taste alone.
    inner = [x - x.mean(0) - x.mean(1, keepdims=True) + x.mean() for x in (found, truth)]
    assert np.corrcoef(*(x.ravel() for x in inner))[0, 1] > 0.6
    told = np.array([factors.item_vectors[of_items[f"i{n}"], DIMENSION] for n in range(items)])
    assert np.corrcoef(told, worth)[0, 1] > 0.8


def test_it_foretells_what_is_shown_later_better_than_what_items_are_worth_alone() -> None:
    events = browsing(1_500, seed=5)
    cut = [number for number, event in enumerate(events) if isinstance(event, ImpressionEvent)]
    factors = learnt(events[: cut[1_000]])
    users = dict(zip(factors.users, factors.user_vectors, strict=True))
    items = dict(zip(factors.items, factors.item_vectors, strict=True))
    clicked = {
        (event.request_id, event.item_id)
        for event in events
        if isinstance(event, EngagementEvent) and event.action == "click"
    }
    label, product, worth = [], [], []
    for event in events[cut[1_000] :]:
        for one in event.items if isinstance(event, ImpressionEvent) else ():
            assert isinstance(event, ImpressionEvent)
            label.append((event.request_id, one.item_id) in clicked)
            product.append(float(users[event.user_id] @ items[one.item_id]))
            worth.append(float(items[one.item_id][-2]))
    assert auc(label, product) > 0.7 > 0.6 > auc(label, worth)


def test_no_order_of_arrival_shows() -> None:
    events = browsing(80, step_ms=1)
    known = learnt(events)
    assert same(known, learnt(events))
    mixed = events.copy()
    random.Random(3).shuffle(mixed)
    assert by_owner(learnt(mixed)) == by_owner(known)


def test_vectors_have_the_parts_that_one_product_adds_up() -> None:
    factors = learnt(browsing(40))
    assert factors.user_vectors.shape == (20, 7)
    assert factors.item_vectors.shape == (60, 7)
    assert factors.user_vectors.dtype == factors.item_vectors.dtype == np.float32
    np.testing.assert_array_equal(factors.user_vectors[:, -2], 1)
    np.testing.assert_array_equal(factors.item_vectors[:, -1], 1)
    np.testing.assert_allclose(np.linalg.norm(factors.item_vectors[:, :5], axis=1), 1, rtol=1e-6)


def answers(*events: Event) -> list[int]:
    found: list[int] = gathered(events).sighted().answered.tolist()
    return found


def test_an_answer_is_of_the_newest_sighting_of_its_request_that_was_not_later() -> None:
    assert answers(shown(1, 10, "u", "a"), acted(1, 10, "u", "a", "click")) == [1]
    assert answers(acted(1, 99, "u", "a", "click"), shown(1, 10, "u", "a")) == [1]
    assert answers(shown(1, 10, "u", "a"), acted(1, 9, "u", "a", "click")) == [0]
    assert answers(shown(1, 10, "u", "a"), acted(2, 11, "u", "a", "click")) == [0]
    assert answers(shown(1, 10, "u", "a"), acted(1, 11, "u", "b", "click")) == [0]
    assert answers(shown(1, 10, "u", "a"), acted(1, 11, "u", "a", "like")) == [0]
    again = shown(1, 20, "u", "a").model_copy(update={"event_id": "again"})
    assert answers(shown(1, 10, "u", "a"), again, acted(1, 30, "u", "a", "click")) == [0, 1]
    assert answers(shown(1, 10, "u", "a"), again, acted(1, 15, "u", "a", "click")) == [1, 0]


def test_what_a_history_lists_is_seen_and_answered_without_a_request() -> None:
    view, long_view = (acted(1, 10, "u", "a", action, False) for action in ("view", "long_view"))
    assert answers(view) == [0]
    assert answers(view, long_view) == [1]
    assert answers(view, acted(2, 11, "v", "a", "long_view", False)) == [0]
    assert answers(shown(1, 10, "u", "a"), long_view) == [0]
    assert answers(long_view) == []
    assert answers(acted(1, 10, "u", "a", "view")) == []  # under a request it is an engagement


def test_an_items_newest_event_says_what_it_is_and_a_sighting_only_without_one() -> None:
    def item(event_id: str, time: int, **told: Any) -> ItemEvent:
        return ItemEvent(event_id=event_id, event_time=time, item_id="a", **told)

    newest = item("2", 5, author_id="x", categories=["c"], embedding=[0.0, 2.0])
    older = item("1", 4, author_id="y", categories=["d"], embedding=[3.0, 0.0])
    alone = item("3", 6, embeddings={"factors": [9.0]})
    seen = shown(1, 10, "u", "a", author_id="z")
    orders: list[list[Event]] = [[newest, older, alone, seen], [seen, alone, older, newest]]
    for order in orders:
        found = gathered(order).sighted()
        assert found.vector.tolist() == [[0.0, 1.0]]
        told = gathered([newest, seen]).sighted()
        same_author = gathered([*order, shown(2, 11, "u", "b", author_id="x")]).sighted().author
        assert same_author[0] == same_author[1]
        assert (found.category >= 0).all()
        assert told.vector.tolist() == [[0.0, 1.0]]
    assert gathered([seen]).sighted().author.tolist() == [0]


def test_items_of_one_author_lend_each_other_what_they_are_worth() -> None:
    events: list[Event] = [ItemEvent(event_id="n", event_time=0, item_id="new", author_id="good")]
    events.append(ItemEvent(event_id="o", event_time=0, item_id="other", author_id="bad"))
    for number in range(60):
        author = ("good", "bad")[number % 2]
        user, item = f"u{number}", f"{author}{number}"
        events.append(shown(number, number + 1, user, item, author_id=author))
        if author == "good":
            events.append(acted(number, number + 1, user, item, "click"))
    factors = learnt(events)
    worth = dict(zip(factors.items, factors.item_vectors[:, 0].tolist(), strict=True))
    assert worth["new"] > 0.1
    assert worth["other"] < -0.1


def test_who_was_forgotten_is_not_told_of_and_taught_nothing() -> None:
    events = browsing(60)
    ghost = [shown(9_000 + n, 1_100 + n, "ghost", f"i{n}") for n in range(20)]
    clicks = [acted(9_000 + n, 1_100 + n, "ghost", f"i{n}", "click") for n in range(20)]
    forget = ForgetEvent(event_id="f", event_time=1_400, user_id="ghost")
    known = by_owner(learnt(events))
    assert by_owner(learnt([*events, *ghost, *clicks])) != known
    orders: list[list[Event]] = [[*ghost, *clicks, forget], [forget, *clicks, *ghost]]
    for order in orders:
        assert by_owner(learnt([*events, *order])) == known
    back = by_owner(learnt([*events, *ghost, forget, shown(9_999, 1_500, "ghost", "i1")]))
    assert set(back) - set(known) == {"ghost"}


def test_who_was_only_told_of_has_factors_of_their_own() -> None:
    user = UserEvent(event_id="u", event_time=1, user_id="new")
    item = ItemEvent(event_id="i", event_time=1, item_id="i", embedding=[0.0, 4.0])
    factors = learnt([user, item])
    assert (factors.users, factors.items) == (["new"], ["i"])
    assert factors.user_vectors.tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert factors.item_vectors.tolist() == [[0.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"sightings_max": 9}, "more than 9 sightings: .*--from-ms"),
        ({"owners_max": 3}, "more than 3 users: .*--from-ms"),
    ],
)
def test_what_is_too_much_is_refused(limits: dict[str, int], message: str) -> None:
    events = [shown(n, n, f"u{n}", "a") for n in range(12)]
    with pytest.raises(BadInput, match=message):
        gathered(events, **limits)


def test_embeddings_of_two_lengths_are_refused() -> None:
    events = [
        ItemEvent(event_id=f"{n}", event_time=n, item_id=f"i{n}", embedding=[1.0] * n)
        for n in (2, 3)
    ]
    with pytest.raises(BadInput, match="item 'i3': embedding has 3 numbers, and those before it 2"):
        gathered(events)


def test_another_version_of_the_embedding_can_be_named() -> None:
    event = ItemEvent(
        event_id="1", event_time=1, item_id="i", embedding=[1.0], embeddings={"v2": [0.0, 5.0]}
    )
    found = gathered([event], embedding="embeddings.v2").sighted()
    assert found.vector.tolist() == [[0.0, 1.0]]


def _growth(events: Sequence[Event]) -> int:
    seen = gathered(events[:100])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for event in events[100:]:
        seen.add(event)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown


def test_what_is_told_again_takes_no_memory_and_a_sighting_a_few_bytes() -> None:
    told: list[Event] = [
        ItemEvent(event_id=f"{n}", event_time=n, item_id=f"i{n % 10}", embedding=[float(n)] * 64)
        for n in range(3_000)
    ]
    assert _growth(told) < 20_000
    sighted: list[Event] = [shown(n, n, f"u{n % 10}", f"i{n % 10}") for n in range(20_000)]
    assert _growth(sighted) < 60 * 20_000
