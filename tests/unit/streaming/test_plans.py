"""A plan takes effect at one offset for good, and every reader of blocks can find it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import Refused
from features.row_store import MemoryRows
from features.spec import Plan
from streaming.plans import (
    Activations,
    Definitions,
    all_plans,
    claim,
    load_plan,
    since_when,
    store_plan,
)
from tests.plans import ITEM_ACTIVITY, PLAN, RECENT, USER_ACTIVITY, changed, plan

NARROW = plan(activity=(ITEM_ACTIVITY,), latest=(), as_of=(), services={})
WIDER = plan(latest=(), as_of=(), services={})
LISTED = changed(RECENT, actions=(*RECENT.actions, "visit"))
WIDEST = plan(
    activity=(*PLAN.activity[:2], changed(USER_ACTIVITY, sequences=(LISTED,))),
    as_of=(),
    services={},
)


def _defined(store: MemoryRows, *plans: Plan) -> Definitions:
    definitions = Definitions(store)
    for number, one in enumerate(plans):
        definitions.define(one, 1000 * number)
    return definitions


def _in_force(activations: Activations, *offsets: int) -> list[str]:
    return [activations.at(offset)[0].plan.version for offset in offsets]


def test_a_stored_plan_comes_back_by_its_version() -> None:
    store = MemoryRows()
    store_plan(store, PLAN)
    assert load_plan(store, PLAN.version) == PLAN


def test_an_unknown_plan_says_which_redis_to_look_at() -> None:
    with pytest.raises(Refused, match="is not the one route uses, or it lost its data"):
        load_plan(MemoryRows(), "0123")


def test_every_plan_is_known() -> None:
    store = MemoryRows()
    _defined(store, NARROW, WIDEST)
    assert {plan.version for plan in all_plans(store)} == {NARROW.version, WIDEST.version}


def test_definitions_are_in_the_same_order_for_everybody() -> None:
    store = MemoryRows()
    one, other = Definitions(store), Definitions(store)
    one.define(NARROW, 1)
    other.define(WIDER, 2)
    one.define(NARROW, 3) if one.plan is None else one.refresh()
    for definitions in (one, other, Definitions(store)):
        found = [definitions[number].plan for number in range(len(definitions))]
        assert found == [NARROW, WIDER]
        assert definitions.plan == WIDER


def test_a_plan_that_differs_only_in_reading_is_in_force_already() -> None:
    definitions = _defined(MemoryRows(), PLAN, plan(as_of=(), services={}))
    assert len(definitions) == 1


def test_a_plan_that_corrupts_rows_is_not_defined_and_the_other_stays_in_force() -> None:
    store = MemoryRows()
    definitions = _defined(store, PLAN)
    longer = changed(USER_ACTIVITY, sequences=(changed(RECENT, length=9),))
    with pytest.raises(Refused, match="would be a list of the newest 9"):
        definitions.define(plan(activity=(*PLAN.activity[:2], longer)), 5)
    assert Definitions(store).plan == PLAN
    assert len(store.remembered("plans")) == 1


def test_what_ended_does_not_come_back_however_long_ago_it_was() -> None:
    definitions = _defined(MemoryRows(), WIDER, NARROW)
    with pytest.raises(Refused, match="view 'author_activity' ended in an earlier plan"):
        definitions.define(WIDER, 9)
    assert definitions.plan == NARROW


def test_each_definition_applies_from_its_offset_to_the_next() -> None:
    store = MemoryRows()
    definitions = _defined(store, NARROW)
    activations = Activations(store, definitions, 1, 0)
    assert activations.catch_up(10) == 1
    claim(store, 1, {0: 49})
    definitions.define(WIDER, 7)
    assert activations.catch_up() == 1
    assert activations.since == 50
    assert _in_force(activations, 10, 49, 50, 99) == [NARROW.version] * 2 + [WIDER.version] * 2
    assert activations.at(10)[1] == 50
    assert activations.at(50)[1] is None


def test_offsets_before_the_first_plan_have_the_first() -> None:
    store = MemoryRows()
    activations = Activations(store, _defined(store, NARROW), 1, 0)
    activations.catch_up(10)
    assert _in_force(activations, 0, 9) == [NARROW.version] * 2


def test_a_restart_reads_the_same_offsets_and_changes_nothing() -> None:
    store = MemoryRows()
    first = Activations(store, _defined(store, NARROW), 1, 0)
    first.catch_up(0)
    claim(store, 1, {0: 49})
    first = Activations(store, _defined(store, WIDER), 1, 0)
    first.catch_up(0)
    again = Activations(store, Definitions(store), 1, 0)
    claim(store, 1, {0: 200})
    again.catch_up(80)
    assert _in_force(again, 0, 49, 50) == _in_force(first, 0, 49, 50)
    assert store.remembered("starts:1/0") == {"0": "0", "1": "50"}


def test_a_plan_that_follows_before_any_event_came_takes_over_at_the_same_offset() -> None:
    store = MemoryRows()
    activations = Activations(store, _defined(store, NARROW, WIDER), 1, 0)
    activations.catch_up()
    assert _in_force(activations, 0, 5) == [WIDER.version] * 2


def test_no_definition_takes_effect_before_the_last_one() -> None:
    store = MemoryRows()
    definitions = _defined(store, NARROW)
    Activations(store, definitions, 1, 0).catch_up(50)
    definitions.define(WIDER, 5)
    activations = Activations(store, definitions, 1, 0)
    activations.catch_up(20)
    assert _in_force(activations, 49, 50) == [NARROW.version, WIDER.version]


def test_partitions_and_lives_of_a_topic_have_offsets_of_their_own() -> None:
    store = MemoryRows()
    definitions = _defined(store, NARROW)
    one = Activations(store, definitions, 1, 0)
    claim(store, 1, {0: 9})
    definitions.define(WIDER, 5)
    for number, activations in (
        (10, one),
        (0, Activations(store, definitions, 1, 1)),
        (0, Activations(store, definitions, 2, 0)),
    ):
        activations.catch_up()
        assert activations.since == number


class _Worker:
    """A route worker reduced to what it does between a poll and its blocks, one step at a time.

    It may be the owner or a zombie: nothing tells it apart, so any two may overlap.
    """

    def __init__(self, store: MemoryRows) -> None:
        self._store, self._definitions = store, Definitions(store)
        self._activations = Activations(store, self._definitions, 1, 0)
        self._activations.catch_up()
        self.at, self._waiting = 0, [0]

    def steps(self, length: int, out: list[tuple[int, str]]) -> list[object]:
        """Claim, look, send: the steps of one turn over the next `length` offsets."""
        covered = range(self.at, self.at + length)
        self.at += length
        return [
            lambda: claim(self._store, 1, {0: covered[-1]}),
            self._definitions.refresh,
            self._activations.catch_up,
            lambda: out.extend((o, self._activations.at(o)[0].plan.version) for o in covered),
        ]

    def change(self, to: Plan) -> list[object]:
        """Define, then fix the offset."""
        return [lambda: self._definitions.define(to, 0), self._activations.catch_up]


@given(
    st.lists(
        st.lists(st.one_of(st.integers(1, 4), st.just("change")), max_size=6),
        min_size=2,
        max_size=3,
    ),
    st.randoms(),
)
def test_no_offset_is_routed_under_two_plans_by_workers_that_overlap(
    turns: list[list[int | str]], rng: object
) -> None:
    store, sent = MemoryRows(), list[tuple[int, str]]()
    _defined(store, NARROW)
    workers = [_Worker(store) for _ in turns]
    queues = [
        [
            s
            for turn in listed
            for s in (w.change(WIDER) if turn == "change" else w.steps(int(turn), sent))
        ]
        for w, listed in zip(workers, turns, strict=True)
    ]
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])  # type: ignore[attr-defined]
        queue.pop(0)()
    plans: dict[int, set[str]] = {}
    for offset, version in sent:
        plans.setdefault(offset, set()).add(version)
    assert all(len(versions) == 1 for versions in plans.values()), plans


def test_a_listing_says_since_when_each_part_counts() -> None:
    store = MemoryRows()
    definitions = _defined(store, NARROW)
    activations = Activations(store, definitions, 1, 0)
    activations.catch_up(3)
    claim(store, 1, {0: 9})
    definitions.define(WIDER, 1000)
    activations.catch_up()
    claim(store, 1, {0: 19})
    definitions.define(WIDEST, 2000)
    activations.catch_up()
    assert {(s.view, s.parts): (s.since_ms, s.offsets) for s in since_when(store, 1, 2)} == {
        ("author_activity", ()): (1000, {0: 10}),
        ("item_activity", ()): (0, {0: 3}),
        ("item_embedding", ()): (2000, {0: 20}),
        ("item_profile", ()): (2000, {0: 20}),
        ("user_activity", ()): (1000, {0: 10}),
        ("user_activity", ("recent: visit",)): (2000, {0: 20}),
        ("user_embedding", ()): (2000, {0: 20}),
        ("user_profile", ()): (2000, {0: 20}),
    }


def test_nothing_is_listed_before_there_is_a_plan() -> None:
    assert list(since_when(MemoryRows(), 1, 4)) == []
