"""Definitions may grow and shrink; what would make stored rows mean something else is refused."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.codec import INT64_TYPE
from features.errors import Refused
from features.plan_change import check_change, compare, parts
from features.spec import (
    ActivityView,
    EntitySpec,
    LatestField,
    Metric,
    Plan,
    RelationSpec,
    RelationsView,
    RingSpec,
    Spec,
    TotalSpec,
)
from tests.plans import (
    AUTHOR_ACTIVITY,
    ITEM,
    ITEM_ACTIVITY,
    ITEM_PROFILE,
    PLAN,
    RECENT,
    SHOWN,
    USER,
    USER_ACTIVITY,
    changed,
    plan,
)

VISIT = Metric(action="visit")
VISITS = TotalSpec(metric=VISIT)
BY_DAY = RingSpec(metric=Metric(action="click"), width_ms=1000, buckets=3)
RELATIONS = RelationsView(
    name="user_relations",
    entity=USER,
    relations=(RelationSpec(on="follow", off="unfollow"),),
    target="author",
    limit=9,
)


def _items(**changes: object) -> Plan:
    """PLAN with another item_activity."""
    return plan(activity=(AUTHOR_ACTIVITY, changed(ITEM_ACTIVITY, **changes), USER_ACTIVITY))


def _users(**changes: object) -> Plan:
    """PLAN with another user_activity."""
    return plan(activity=(AUTHOR_ACTIVITY, ITEM_ACTIVITY, changed(USER_ACTIVITY, **changes)))


def _profile(**changes: object) -> Plan:
    """PLAN with another item_profile."""
    return plan(latest=(PLAN.latest[0], changed(ITEM_PROFILE, **changes), *PLAN.latest[2:]))


WITH_RELATIONS = plan(relations=(RELATIONS,))
SAFE = [
    (plan(activity=PLAN.activity[:2]), PLAN, ("user_activity", "")),
    (PLAN, _items(totals=(*ITEM_ACTIVITY.totals, VISITS)), ("item_activity", "visit_total")),
    (PLAN, _items(rings=(*ITEM_ACTIVITY.rings, BY_DAY)), ("item_activity", "click_1s")),
    (_items(first_seen=None), PLAN, ("item_activity", "first_seen")),
    (
        PLAN,
        _users(sequences=(changed(RECENT, actions=(*RECENT.actions, "visit")), SHOWN)),
        ("user_activity", "recent: visit"),
    ),
    (_users(sequences=(RECENT,)), PLAN, ("user_activity", "shown")),
    (_profile(fields=ITEM_PROFILE.fields[1:]), PLAN, ("item_profile", "author_id")),
    (PLAN, WITH_RELATIONS, ("user_relations", "")),
    (
        WITH_RELATIONS,
        plan(
            relations=(
                changed(
                    RELATIONS,
                    relations=(*RELATIONS.relations, RelationSpec(on="mute", off="unmute")),
                ),
            )
        ),
        ("user_relations", "mute"),
    ),
]


@pytest.mark.parametrize(("less", "more", "part"), SAFE)
def test_a_part_may_be_added_and_may_end(less: Plan, more: Plan, part: tuple[str, str]) -> None:
    assert check_change(less, more).added == (part,)
    assert check_change(less, more).ended == ()
    assert check_change(more, less).ended == (part,)
    assert check_change(more, less).added == ()


@pytest.mark.parametrize(("less", "more", "part"), SAFE)
def test_what_ended_is_refused_when_it_comes_back(
    less: Plan, more: Plan, part: tuple[str, str]
) -> None:
    with pytest.raises(Refused, match="ended in an earlier plan and would come back") as refused:
        check_change(less, more, [more, less])
    assert all(repr(name) in str(refused.value) for name in part if name)
    assert check_change(less, more, [less]).added == (part,)


def _first_ring(**changes: object) -> Plan:
    first, *rest = ITEM_ACTIVITY.rings
    return _items(rings=(changed(first, **changes), *rest))


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (
            _first_ring(buckets=5),
            "view 'item_activity' was impression events in 4 × 10ms and would be .* 5 × 10ms",
        ),
        (_items(entity=USER), "view 'item_activity' was an activity view by item_id"),
        (
            _items(entity=changed(ITEM, value_type=INT64_TYPE)),
            r"item_id \(type 2\) and would be an activity view by item_id \(type 4\)",
        ),
        (
            _users(sequences=(changed(RECENT, length=7), SHOWN)),
            "'recent' of view 'user_activity' was a list of the newest 6 with action, author",
        ),
        (
            _users(sequences=(RECENT, changed(SHOWN, columns=("item",)))),
            "'shown' of view 'user_activity' was a list of the newest 4 with author, category",
        ),
        (
            _profile(
                fields=(
                    changed(ITEM_PROFILE.fields[0], dtype="Int64"),
                    *ITEM_PROFILE.fields[1:],
                )
            ),
            "'author_id' of view 'item_profile' was String at author_id and would be Int64",
        ),
        (
            _profile(fields=(LatestField(name="author_id", path="attributes.a", dtype="String"),)),
            "would be String at attributes.a",
        ),
        (_profile(event="user"), "was the newest item event.* and would be the newest user event"),
        (
            plan(latest=(changed(ITEM_PROFILE, name="user_activity"),), activity=PLAN.activity[:2]),
            "view 'user_activity' was an activity view .* and would be the newest item event",
        ),
        (plan(project="other"), "the project was 'proj' and would be 'other'"),
        (plan(topic="other"), "the topic was 'events' and would be 'other'"),
    ],
)  # fmt: skip
def test_a_name_that_stays_and_means_something_else_is_refused(new: Plan, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        check_change(PLAN, new)
    assert "new project" in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [{"limit": 10}, {"target": "item"}, {"relations": (RelationSpec(on="follow", off="leave"),)}],
)
def test_a_relation_that_means_something_else_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Refused, match="user_relations"):
        check_change(WITH_RELATIONS, plan(relations=(changed(RELATIONS, **change),)))


def test_an_action_stays_in_a_list_that_does_not_say_which_its_entries_were() -> None:
    bare = changed(SHOWN, actions=("impression", "visit"))
    wide, narrow = _users(sequences=(RECENT, bare)), PLAN
    assert check_change(narrow, wide).added == (("user_activity", "shown: visit"),)
    with pytest.raises(Refused, match="'visit' would leave list 'shown' of view 'user_activity'"):
        check_change(wide, narrow)


class Unheard(Spec):
    """A kind of view that nobody told this module of."""

    name: str = "odd"
    entity: EntitySpec = ITEM
    setting: int = 1


class Wider(Plan):
    """A plan that holds views of that kind."""

    odd: tuple[Unheard, ...]

    @property
    def views(self) -> tuple[object, ...]:  # type: ignore[override]
        return (*self.activity, *self.odd)


def _odd(*views: Unheard) -> Wider:
    return Wider(**{n: getattr(PLAN, n) for n in Plan.model_fields}, odd=views)


def test_a_view_of_an_unknown_kind_may_come_and_go_but_not_change() -> None:
    assert check_change(_odd(), _odd(Unheard())).added == (("odd", ""),)
    assert check_change(_odd(Unheard()), _odd()).ended == (("odd", ""),)
    assert check_change(_odd(Unheard()), _odd(Unheard())).added == ()
    with pytest.raises(Refused, match="view 'odd' was"):
        check_change(_odd(Unheard()), _odd(Unheard(setting=2)))


Kind = Literal["rings", "totals", "sequences"]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Some views of PLAN, with some of their parts."""
    activity = []
    for view in draw(st.lists(st.sampled_from(PLAN.activity), unique=True)):
        kept: dict[str, object] = {
            name: tuple(part for part in getattr(view, name) if draw(st.booleans()))
            for name in ("rings", "totals", "sequences")
        }
        kept["first_seen"] = view.first_seen if draw(st.booleans()) else None
        activity.append(changed(view, **kept))
    latest = draw(st.lists(st.sampled_from(PLAN.latest), unique=True))
    return plan(activity=tuple(activity), latest=tuple(latest), as_of=(), services={})


@given(plans(), plans(), plans())
def test_parts_that_keep_their_meaning_change_safely_unless_they_come_back(
    past: Plan, old: Plan, new: Plan
) -> None:
    change = compare(old, new)
    assert change.refused == ()
    assert compare(new, old).added == change.ended
    assert (change.added, change.ended) == ((), ()) or parts(old) != parts(new)
    back = (parts(new).keys() - parts(old).keys()) & parts(past).keys()
    assert bool(compare(old, new, [past, old]).refused) == bool(back)


@given(plans(), plans())
def test_a_change_is_refused_when_any_ring_in_both_plans_differs(old: Plan, new: Plan) -> None:
    wider = tuple(_stretched(view) for view in new.activity)
    both = {
        (view.name, ring.metric, ring.width_ms)
        for plan_ in (old, new)
        for view in plan_.activity
        for ring in view.rings
        if all(_has(p, view.name, ring) for p in (old, new))
    }
    assert len(compare(old, changed(new, activity=wider)).refused) == len(both)


def _stretched(view: ActivityView) -> ActivityView:
    return changed(view, rings=tuple(changed(r, buckets=r.buckets + 1) for r in view.rings))


def _has(of: Plan, view: str, ring: RingSpec) -> bool:
    kept = [r for v in of.activity if v.name == view for r in v.rings]
    return any(r.metric == ring.metric and r.width_ms == ring.width_ms for r in kept)


def test_a_change_is_told_in_words() -> None:
    more = _items(totals=(*ITEM_ACTIVITY.totals, VISITS), first_seen=None)
    assert (
        str(compare(PLAN, more)) == "adds item_activity.visit_total; ends item_activity.first_seen"
    )
    assert str(compare(PLAN, PLAN)) == "keeps what it keeps"
