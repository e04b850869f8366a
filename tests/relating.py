"""A plan with durable relations, and events in which a user acts on what they were shown."""

from typing import Any

from features.events import EngagementEvent, ImpressionEvent, ShownItem
from features.spec import Plan, RelationSpec, RelationsView
from tests.plans import USER, changed
from tests.serving import SERVED_PLAN

BLOCK = RelationSpec(on="block", off="unblock")
MUTE = RelationSpec(on="mute", off="unmute")
MUTE_CATEGORY = RelationSpec(on="mute_category", off="unmute_category")
HIDE = RelationSpec(on="hide", off="unhide")


def _view(name: str, target: Any, *relations: RelationSpec) -> RelationsView:
    return RelationsView(name=name, entity=USER, relations=relations, target=target, limit=100)


RELATED_PLAN: Plan = changed(
    SERVED_PLAN,
    relations=(
        _view("user_authors", "author", BLOCK, MUTE),
        _view("user_categories", "category", MUTE_CATEGORY),
        _view("user_items", "item", HIDE),
    ),
)


def act(user: str, item: int, action: str, time: int) -> EngagementEvent:
    """A user acts on item `i<item>`, of author `<item mod 10>` and category `c<item mod 5>`."""
    return EngagementEvent(
        event_id=f"{user}-{action}-{item}-{time}",
        event_time=time,
        user_id=user,
        item_id=f"i{item}",
        action=action,
        surface="home",
        author_id=str(item % 10),
        categories=[f"c{item % 5}"],
    )


def show(user: str, items: list[int], time: int) -> ImpressionEvent:
    """A user is shown items."""
    return ImpressionEvent(
        event_id=f"{user}-shown-{time}",
        event_time=time,
        request_id=f"{user}-{time}",
        user_id=user,
        surface="home",
        items=[
            ShownItem(item_id=f"i{n}", author_id=str(n % 10), categories=[f"c{n % 5}"])
            for n in items
        ],
    )
