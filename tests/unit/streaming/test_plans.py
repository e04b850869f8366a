"""A plan takes effect at one offset for good, and every reader of blocks can find it."""

import pytest

from features.errors import Refused
from features.row_store import MemoryRows
from streaming.plans import Activations, load_plan, store_plan
from tests.plans import ITEM_ACTIVITY, PLAN, plan

OTHER = plan(activity=(ITEM_ACTIVITY,), as_of=(), services={})
THIRD = plan(latest=(), as_of=(), services={})


def _in_force(activations: Activations, *offsets: int) -> list[str]:
    return [activations.at(offset)[0].plan.version for offset in offsets]


def test_a_stored_plan_comes_back_by_its_version() -> None:
    store = MemoryRows()
    store_plan(store, PLAN)
    assert load_plan(store, PLAN.version) == PLAN


def test_an_unknown_plan_says_which_redis_to_look_at() -> None:
    with pytest.raises(Refused, match="is not the one route uses, or it lost its data"):
        load_plan(MemoryRows(), "0123")


def test_each_plan_applies_from_its_offset_to_the_next() -> None:
    activations = Activations(MemoryRows(), 1, 0)
    activations.activate(PLAN, 10)
    activations.activate(OTHER, 50)
    assert _in_force(activations, 10, 49, 50, 99) == [PLAN.version] * 2 + [OTHER.version] * 2
    assert activations.at(10)[1] == 50
    assert activations.at(50)[1] is None


def test_offsets_before_the_first_plan_have_the_first() -> None:
    activations = Activations(MemoryRows(), 1, 0)
    activations.activate(PLAN, 10)
    assert _in_force(activations, 0, 9) == [PLAN.version] * 2


def test_a_restart_reads_the_same_offsets_and_changes_nothing() -> None:
    store = MemoryRows()
    first = Activations(store, 1, 0)
    first.activate(PLAN, 0)
    first.activate(OTHER, 50)
    again = Activations(store, 1, 0)
    again.activate(OTHER, 80)
    assert _in_force(again, 0, 49, 50) == _in_force(first, 0, 49, 50)
    assert store.remembered("activations:1/0") == {
        "0": f"0 {PLAN.version}",
        "1": f"50 {OTHER.version}",
    }


def test_a_plan_that_follows_before_any_event_came_takes_over_at_the_same_offset() -> None:
    store = MemoryRows()
    activations = Activations(store, 1, 0)
    activations.activate(PLAN, 0)
    activations.activate(OTHER, 0)
    assert _in_force(activations, 0, 5) == [OTHER.version] * 2
    assert _in_force(Activations(store, 1, 0), 0, 5) == [OTHER.version] * 2


def test_a_plan_may_come_back() -> None:
    activations = Activations(MemoryRows(), 1, 0)
    for offset, one in ((0, PLAN), (10, OTHER), (20, PLAN)):
        activations.activate(one, offset)
    assert _in_force(activations, 5, 15, 25) == [PLAN.version, OTHER.version, PLAN.version]


def test_what_another_owner_fixed_first_stands() -> None:
    store = MemoryRows()
    slow, quick = Activations(store, 1, 0), Activations(store, 1, 0)
    quick.activate(PLAN, 0)
    quick.activate(OTHER, 30)
    slow.activate(PLAN, 0)
    slow.activate(THIRD, 40)
    assert _in_force(slow, 0, 30, 40) == [PLAN.version, OTHER.version, THIRD.version]


def test_no_plan_takes_effect_before_the_last_one() -> None:
    store = MemoryRows()
    activations = Activations(store, 1, 0)
    activations.activate(PLAN, 50)
    activations.activate(OTHER, 20)
    assert _in_force(activations, 49, 50) == [PLAN.version, OTHER.version]


def test_partitions_and_lives_of_a_topic_have_activations_of_their_own() -> None:
    store = MemoryRows()
    Activations(store, 1, 0).activate(PLAN, 5)
    for other in (Activations(store, 1, 1), Activations(store, 2, 0)):
        other.activate(OTHER, 0)
        assert _in_force(other, 5) == [OTHER.version]


def test_a_plan_that_differs_only_in_reading_is_in_force_already() -> None:
    store = MemoryRows()
    activations = Activations(store, 1, 0)
    activations.activate(PLAN, 0)
    activations.activate(plan(as_of=(), services={}), 10)
    assert activations.at(0)[1] is None
