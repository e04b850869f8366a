"""What the stream keeps: entities, the event source, and the stored views."""

from pathlib import Path

from feast.types import Array, Float32, Float64, Int64, String

from features.declare import (
    activity_view,
    counters,
    embedded,
    entity,
    events_source,
    first_seen,
    last_seen,
    latest_view,
    newest,
    relations_view,
    sums,
    taken,
)

POSITIVE = ("click", "long_view", "save", "like", "share", "comment", "follow")
NEGATIVE = ("skip", "hide", "report")
ACTIONS = (*POSITIVE, *NEGATIVE)
TRAITS = (1, 2, 3, 4, 7, 8)
"""Facts of a user that come encoded, nobody says of what: of KuaiRand's 18 those that tell of
clicks. Where events have none they are null."""
SEEN = ("impression", "view")
"""A view is an item that was seen outside any request, as a history tells that was not logged as
impressions; whether it was clicked is not known."""

events = events_source(archive=Path(__file__).parent / "archive")

user = entity("user", "user_id")
item = entity("item", "item_id")
author = entity("author", "author_id")
category = entity("category", "category")
surface = entity("surface", "surface")

counted = [counters(*SEEN, *ACTIONS), sums("click", "skip"), first_seen(), last_seen()]

user_activity = activity_view(
    "user_activity",
    user,
    events,
    [
        *counted,
        newest("recent", ACTIONS, 128),
        newest("shown", SEEN, 256, ["item", "author", "category", "action"]),
    ],
    "What a user did: counts, the newest actions, and the items shown last.",
)
item_activity = activity_view(
    "item_activity", item, events, counted, "How people react to an item."
)
author_activity = activity_view(
    "author_activity", author, events, counted, "How people react to an author's items."
)
category_activity = activity_view(
    "category_activity", category, events, counted, "How people react to a category."
)
surface_activity = activity_view(
    "surface_activity", surface, events, counted, "How people react on a surface."
)

item_profile = latest_view(
    "item_profile",
    item,
    events,
    "item",
    [
        taken("author_id", String),
        taken("categories", Array(String)),
        taken("created_at", Int64, description="ms UTC"),
        taken("duration_ms", Float64, "attributes.duration_ms", "playing time of a video"),
        taken("ended", Int64, description="1 when the item was taken down"),
    ],
    "What an item is.",
)
item_embedding = latest_view(
    "item_embedding",
    item,
    events,
    "item",
    [taken("embedding", Array(Float32))],
    "Where an item lies among the others.",
)
user_profile = latest_view(
    "user_profile",
    user,
    events,
    "user",
    [
        taken("activity_degree", String, "attributes.user_active_degree"),
        taken("register_days", Float64, "attributes.register_days"),
        taken("followed", Float64, "attributes.follow_user_num"),
        taken("followers", Float64, "attributes.fans_user_num"),
        *(taken(f"trait_{n}", Float64, f"attributes.onehot_feat{n}") for n in TRAITS),
    ],
    "What a user said of themselves.",
)
user_factors = latest_view(
    "user_factors",
    user,
    events,
    "user",
    [embedded("embedding", version="factors")],
    "What a user adds to the odds of a click, as `headrace factors` learnt it last.",
)
item_factors = latest_view(
    "item_factors",
    item,
    events,
    "item",
    [embedded("embedding", version="factors")],
    "What an item adds to them.",
)
user_relations = relations_view(
    "user_relations",
    user,
    events,
    {"follow": "unfollow", "block": "unblock", "mute": "unmute"},
    target="author",
    description="Whom a user follows, blocks and mutes.",
)
user_hidden = relations_view(
    "user_hidden",
    user,
    events,
    {"hide": "unhide"},
    target="item",
    description="Items that a user hid.",
)
user_muted = relations_view(
    "user_muted",
    user,
    events,
    {"mute_category": "unmute_category"},
    target="category",
    description="Categories that a user muted.",
)
