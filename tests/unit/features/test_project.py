"""Events become updates of exactly the rows the plan names, whatever is around them."""

import pytest

from features.codec import INT64_TYPE, STRING_TYPE, encode_value, entity_key
from features.events import (
    EngagementEvent,
    Event,
    ForgetEvent,
    ImpressionEvent,
    ItemEvent,
    ShownItem,
    UserEvent,
)
from features.project import Projection, facts_of, value_at
from features.spec import EntitySpec
from features.updates import Columns, event_hash, partition_of
from tests.plans import PLAN, activity, changed, plan

CATEGORY = EntitySpec(name="category", join_key="category", value_type=STRING_TYPE)
CLICK = EngagementEvent(
    event_id="e",
    event_time=9,
    user_id="u",
    item_id="i",
    action="click",
    value=5,
    author_id="1",
    categories=["c1", "c2"],
)


def _updates(*events: Event) -> Columns:
    return Projection(PLAN).updates(enumerate(events, start=40))


def _touched(updates: Columns) -> set[tuple[str, bytes]]:
    """(view, key) of every update."""
    pairs = zip(updates.view, updates.key, strict=True)
    return {(PLAN.views[view].name, updates.keys[key]) for view, key in pairs}


def _key(join_key: str, identifier: str) -> bytes:
    entity = next(e for e in PLAN.entities if e.join_key == join_key)
    return entity_key(join_key, entity.value_type, identifier, PLAN.project)


def test_an_engagement_changes_its_user_item_and_author() -> None:
    updates = _updates(CLICK)
    assert _touched(updates) == {
        ("user_activity", _key("user_id", "u")),
        ("item_activity", _key("item_id", "i")),
        ("author_activity", _key("author_id", "1")),
    }
    assert set(updates.offset) == {40}
    assert set(updates.time) == {9}
    assert set(updates.value) == {5}
    assert {PLAN.actions[action] for action in updates.action} == {"click"}
    assert {updates.texts[text] for text in updates.category} == {"c1"}


def test_a_view_is_not_touched_by_actions_it_does_not_know() -> None:
    hide = CLICK.model_copy(update={"action": "hide"})
    assert _touched(_updates(hide)) == {("user_activity", _key("user_id", "u"))}
    assert len(_updates(CLICK.model_copy(update={"action": "unheard_of"}))) == 0


CATEGORIES = activity("category_activity", CATEGORY)
BY_CATEGORY = plan(activity=(*PLAN.activity, CATEGORIES), as_of=(), services={})


def test_a_fact_counts_for_each_of_its_first_categories_and_is_listed_under_the_first() -> None:
    many = [f"c{n % 12}" for n in range(30)]
    event, projection = CLICK.model_copy(update={"categories": many}), Projection(BY_CATEGORY)
    updates = projection.updates([(40, event)])
    places = [n for n, v in enumerate(updates.view) if BY_CATEGORY.views[v] == CATEGORIES]
    keys = [updates.keys[updates.key[place]] for place in places]
    assert keys == [entity_key("category", STRING_TYPE, f"c{n}", PLAN.project) for n in range(8)]
    assert {updates.texts[text] for text in updates.category} == {"c0"}
    assert len(updates) == 3 + 8 <= projection.update_count(event)


def test_a_number_that_is_a_category_is_refused_wherever_it_stands() -> None:
    numbered = changed(CATEGORIES, entity=changed(CATEGORY, value_type=INT64_TYPE))
    projection = Projection(plan(activity=(numbered,), as_of=(), services={}))
    event = CLICK.model_copy(update={"categories": ["1", "x"]})
    assert projection.refusal(event) == "category: 'x' is not a number its entity can hold"
    assert projection.refusal(CLICK.model_copy(update={"categories": ["1", "2"]})) is None


def test_an_engagement_without_an_author_changes_no_author() -> None:
    updates = _updates(CLICK.model_copy(update={"author_id": None, "categories": []}))
    assert "author_activity" not in {view for view, _ in _touched(updates)}
    assert set(updates.author) == set(updates.category) == {-1}


def test_every_shown_item_is_a_fact_with_an_event_of_its_own() -> None:
    shown = [ShownItem(item_id=f"i{n}", author_id="1") for n in range(3)]
    event = ImpressionEvent(
        event_id="e", event_time=9, request_id="r", user_id="u", surface="home", items=shown
    )
    facts = facts_of(event)
    assert [fact.action for fact in facts] == ["impression"] * 3
    assert [fact.event for fact in facts] == [event_hash(f"e#{n}") for n in range(3)]
    assert [fact.ids for fact in facts] == [("u", f"i{n}", "1", None, "home") for n in range(3)]
    assert len(_updates(event)) == 9


def test_an_item_event_carries_the_value_of_every_field() -> None:
    event = ItemEvent(
        event_id="e",
        event_time=9,
        item_id="i",
        author_id="a",
        categories=["c"],
        attributes={"duration_ms": 3.5},
    )
    updates = _updates(event)
    assert _touched(updates) == {("item_profile", _key("item_id", "i"))}
    (payload,) = updates.payloads.values()
    assert payload == (
        encode_value("a", "String"),
        encode_value(["c"], "Array(String)"),
        b"",
        encode_value(3.5, "Float64"),
    )
    assert updates.event == [event_hash("e")]


def test_an_attribute_of_a_wrong_type_is_null_and_loses_nothing_else() -> None:
    event = ItemEvent(
        event_id="e", event_time=9, item_id="i", created_at=3, attributes={"duration_ms": "long"}
    )
    (payload,) = _updates(event).payloads.values()
    assert payload[2:] == (encode_value(3, "Int64"), b"")


def test_a_user_event_changes_its_user_and_forget_changes_nothing_yet() -> None:
    user = UserEvent(event_id="e", event_time=9, user_id="u", attributes={"degree": "high"})
    assert _touched(_updates(user)) == {("user_profile", _key("user_id", "u"))}
    assert len(_updates(ForgetEvent(event_id="f", event_time=9, user_id="u"))) == 0


def test_keys_and_texts_stand_once_however_often_they_occur() -> None:
    updates = _updates(*[CLICK.model_copy(update={"event_id": f"e{n}"}) for n in range(50)])
    assert len(updates.keys) == 3
    assert sorted(updates.texts) == ["1", "c1", "i"]
    assert len(updates) == 150
    assert len(updates) == 150


@pytest.mark.parametrize("author", ["x", "1.5", "99999999999999999999"])
def test_an_id_that_its_entity_cannot_hold_is_refused_by_name(author: str) -> None:
    refusal = Projection(PLAN).refusal(CLICK.model_copy(update={"author_id": author}))
    assert refusal == f"author_id: {author!r} is not a number its entity can hold"
    assert Projection(PLAN).refusal(CLICK) is None


def test_paths_reach_fields_and_attributes_and_nothing_else() -> None:
    event = ItemEvent(event_id="e", event_time=9, item_id="i", attributes={"a": 1}, ended=True)
    assert value_at(event, "ended") is True
    assert value_at(event, "attributes.a") == 1
    assert value_at(event, "attributes.b") is None
    assert value_at(event, "item_id.a") is None
    assert value_at(event, "no_such_field") is None


def test_a_key_has_one_partition_in_every_process_and_version() -> None:
    keys = [_key("item_id", f"i{n}") for n in range(8)]
    assert [partition_of(key, 4) for key in keys] == [0, 1, 2, 0, 1, 1, 2, 0]
