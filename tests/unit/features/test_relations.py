"""Relations are the newest word on each pair, whatever the order in which the words come."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.codec import MARKER_FIELD, decode_value, encode_value, field_name, updated_at_field
from features.entities import EntityTable, Hash
from features.errors import BadInput
from features.events import EngagementEvent
from features.marker import Marker
from features.relations import RelationsTable
from features.spec import RelationSpec, RelationsView
from features.strings import Strings
from features.updates import event_hash
from tests.plans import PLAN, USER, World, changed

RELATIONS = (RelationSpec(on="follow", off="unfollow"), RelationSpec(on="mute", off="unmute"))
VIEW = RelationsView(
    name="user_relations", entity=USER, relations=RELATIONS, target="author", limit=4
)
ITEMS = changed(VIEW, name="user_items", target="item", limit=1000)
CATEGORIES = changed(VIEW, name="user_categories", target="category")
WITH = changed(PLAN, relations=(VIEW, CATEGORIES, ITEMS))
WORDS = ("follow", "unfollow", "mute", "unmute")


@st.composite
def histories(draw: st.DrawFn) -> list[EngagementEvent]:
    """Words of one user on few targets at few times; each event once."""
    return [
        EngagementEvent(
            event_id=f"e{number}",
            event_time=draw(st.integers(0, 6)),
            user_id="u0",
            item_id=draw(st.sampled_from(("i0", "i1"))),
            action=draw(st.sampled_from((*WORDS, "click"))),
            author_id=draw(st.sampled_from((None, "1", "2", "3", "4"))),
            categories=draw(st.lists(st.sampled_from(("c1", "c2", "c3")), max_size=3)),
        )
        for number in range(draw(st.integers(0, 25)))
    ]


def _recounted(events: Sequence[EngagementEvent], view: RelationsView) -> dict[str, list[Any]]:
    """The lists of a row, from the raw events: sort, let later words replace earlier ones."""
    names = {word: r.on for r in view.relations for word in (r.on, r.off)}
    stands: dict[tuple[str, str], tuple[int, int, str]] = {}
    for event in events:
        target = {
            "author": event.author_id,
            "item": event.item_id,
            "category": next(iter(event.categories), None),
        }[view.target]
        if event.action in names and target is not None:
            word = event.event_time, event_hash(event.event_id), event.action
            pair = names[event.action], target
            stands[pair] = max(word, stands.get(pair, word))
    kept = sorted((word, pair) for pair, word in stands.items())[-view.limit :]
    return {
        "targets": [pair[1] for _, pair in kept],
        "actions": [word[2] for word, _ in kept],
        "times": [word[0] for word, _ in kept],
        "events": [word[1] for word, _ in kept],
    }


def _stored(world: World) -> dict[str, dict[str, Any]]:
    """The lists of the user's row as the store would hold them, by view."""
    content = _hash(world)
    return {
        view.name: {
            name: decode_value(content.get(field_name(view.name, name))) or []
            for name in ("targets", "actions", "times", "events")
        }
        for view in WITH.relations
    }


def _hash(world: World) -> Hash:
    table = world.tables["user_id"]
    table.markers = [Marker(1, 0, 1)] * len(table)
    touched = {v.name: np.flatnonzero(table.tables[v.name].newest >= 0) for v in WITH.relations}
    content: Hash = {}
    for write in table.writes(touched):
        content |= dict(zip(write.fields[::2], write.fields[1::2], strict=True))
    return content


def _split(events: Sequence[EngagementEvent], at: int) -> Iterable[Sequence[EngagementEvent]]:
    return events[:at], events[at:]


@given(histories(), st.randoms(), st.integers(0, 25))
def test_the_stored_lists_equal_a_recount_in_any_order_split_and_repetition(
    events: list[EngagementEvent], rng: Any, cut: int
) -> None:
    expected = {view.name: _recounted(events, view) for view in WITH.relations}
    assert _stored(World(WITH).fold(events)) == expected
    again = [*events, *rng.sample(events, len(events) // 2)]
    rng.shuffle(again)
    world = World(WITH)
    for part in _split(again, cut):
        world.fold(part)
    assert _stored(world) == expected


@given(histories(), histories())
def test_folding_goes_on_after_a_load_as_if_nothing_had_happened(
    before: list[EngagementEvent], after: list[EngagementEvent]
) -> None:
    after = [e.model_copy(update={"event_id": f"later-{e.event_id}"}) for e in after]
    world = World(WITH)
    table = world.tables["user_id"]
    table.load([table.row_of_id("u0")], [_hash(World(WITH).fold(before))])
    world.fold(after)
    assert _hash(world) == _hash(World(WITH).fold([*before, *after]))


def _word(action: str, at: int, author: str = "1") -> EngagementEvent:
    return EngagementEvent(
        event_id=f"{action}{at}{author}",
        event_time=at,
        user_id="u0",
        item_id="i0",
        action=action,
        author_id=author,
    )


def _related(*events: EngagementEvent) -> dict[str, frozenset[str]]:
    table = World(WITH).fold(events).tables["user_id"].tables["user_relations"]
    assert isinstance(table, RelationsTable)
    return {name: table.related(0, name) for name in ("follow", "mute")}


def test_a_relation_holds_from_its_beginning_to_its_end_and_a_late_beginning_changes_nothing() -> (
    None
):
    assert _related(_word("follow", 1))["follow"] == {"1"}
    ended = _word("follow", 1), _word("unfollow", 5)
    assert _related(*ended)["follow"] == frozenset()
    assert _related(*ended, _word("follow", 3))["follow"] == frozenset()
    assert _related(*ended, _word("follow", 6))["follow"] == {"1"}


def test_relations_with_one_author_are_told_apart() -> None:
    both = _word("follow", 1), _word("mute", 2), _word("follow", 1, "2"), _word("unmute", 3)
    assert _related(*both) == {"follow": {"1", "2"}, "mute": frozenset()}


def test_a_row_keeps_its_newest_pairs_ended_ones_too() -> None:
    words = [_word("unfollow", 9, "1"), *(_word("follow", t, str(t)) for t in range(2, 7))]
    found = _stored(World(WITH).fold(words))["user_relations"]
    assert found["targets"] == ["4", "5", "6", "1"]
    assert found["actions"] == ["follow", "follow", "follow", "unfollow"]


def test_a_word_of_another_plan_keeps_its_place_in_a_row() -> None:
    row = _hash(World(WITH).fold([_word("mute", 3), _word("follow", 4)]))
    narrow = changed(PLAN, relations=(changed(VIEW, relations=RELATIONS[:1]),))
    table = EntityTable(narrow, USER, Strings())
    table.load([table.row_of_id("u0")], [row])
    table.markers = [Marker(1, 0, 1)]
    (write,) = table.writes({"user_relations": np.array([0])})
    lists = (field_name("user_relations", name) for name in ("targets", "actions", "times"))
    written = dict(zip(write.fields[::2], write.fields[1::2], strict=True))
    assert [decode_value(written[name]) for name in lists] == [
        ["1", "1"],
        ["mute", "follow"],
        [3, 4],
    ]


def test_lists_that_are_not_parallel_are_refused_when_they_are_read() -> None:
    table = EntityTable(WITH, USER, Strings())
    row: Hash = {
        field_name("user_relations", "targets"): encode_value(["1"], "Array(String)"),
        updated_at_field("user_relations"): b"\x08\x01",
        MARKER_FIELD: Marker(1, 0, 1).encode(),
    }
    table.load([table.row_of_id("u0")], [row])
    with pytest.raises(BadInput, match="user_relations is not four lists of one length"):
        list(table.tables["user_relations"].encoded(np.array([0])))
