"""What the ranker reads: features computed from stored state as of `now`."""

from features.declare import (
    affinity,
    age,
    as_of_view,
    code,
    count,
    decayed,
    dot_product,
    feature_service,
    hour_of_day,
    mean,
    rate,
    recency,
    similarity,
    since,
    surface_code,
    trend,
    value,
)
from stored import (
    NEGATIVE,
    POSITIVE,
    SEEN,
    TRAITS,
    author_activity,
    category_activity,
    item_activity,
    item_embedding,
    item_factors,
    item_profile,
    surface_activity,
    user_activity,
    user_factors,
    user_profile,
)

item_rates = as_of_view(
    "item_rates",
    [item_activity],
    [
        count("impressions_sum_1h", "impression", "1h"),
        count("impressions_sum_24h", "impression", "24h"),
        rate("ctr_all", "click", "impression", "all", (4.4, 10.0)),
        rate("ctr_24h", "click", "impression", "24h", (4.4, 10.0)),
        rate("ctr_1h", "click", "impression", "1h", (4.4, 10.0)),
        rate("long_view_rate_all", "long_view", SEEN, "all", (3.0, 10.0)),
        rate("long_view_rate_24h", "long_view", SEEN, "24h", (3.0, 10.0)),
        rate("like_rate_all", "like", SEEN, "all", (0.2, 10.0)),
        rate("skip_rate_all", "skip", "impression", "all", (4.0, 10.0)),
        mean("dwell_mean_all", "click", "all", (60_000.0, 3.0)),
        mean("skip_dwell_mean_all", "skip", "all", (6_000.0, 3.0)),
        decayed("clicks_decayed", "click", "7d", "1d"),
        trend("clicks_trend", "click", "1h", "24h"),
        recency("idle_s"),
    ],
    "How an item does, over the last hour, day and ever.",
)
author_rates = as_of_view(
    "author_rates",
    [author_activity],
    [
        rate("ctr_all", "click", "impression", "all", (4.4, 10.0)),
        rate("ctr_24h", "click", "impression", "24h", (4.4, 10.0)),
        rate("long_view_rate_all", "long_view", SEEN, "all", (3.0, 10.0)),
        rate("like_rate_all", "like", SEEN, "all", (0.2, 10.0)),
    ],
    "How an author's items do.",
)
category_rates = as_of_view(
    "category_rates",
    [category_activity],
    [
        rate("ctr_all", "click", "impression", "all", (4.4, 10.0)),
        rate("ctr_24h", "click", "impression", "24h", (4.4, 10.0)),
        rate("long_view_rate_all", "long_view", SEEN, "all", (3.0, 10.0)),
        rate("like_rate_all", "like", SEEN, "all", (0.2, 10.0)),
    ],
    "How a category does.",
)
surface_rates = as_of_view(
    "surface_rates",
    [surface_activity],
    [
        rate("ctr_all", "click", "impression", "all", (4.4, 10.0)),
        rate("ctr_24h", "click", "impression", "24h", (4.4, 10.0)),
        rate("long_view_rate_all", "long_view", SEEN, "all", (3.0, 10.0)),
    ],
    "How a surface does.",
)
user_rates = as_of_view(
    "user_rates",
    [user_activity],
    [
        count("views_sum_all", "view"),
        count("long_views_sum_all", "long_view"),
        count("impressions_sum_all", "impression"),
        count("impressions_sum_1h", "impression", "1h"),
        count("impressions_sum_24h", "impression", "24h"),
        rate("ctr_all", "click", "impression", "all", (4.4, 10.0)),
        rate("ctr_24h", "click", "impression", "24h", (4.4, 10.0)),
        rate("ctr_1h", "click", "impression", "1h", (4.4, 10.0)),
        rate("long_view_rate_all", "long_view", SEEN, "all", (3.0, 10.0)),
        rate("like_rate_all", "like", SEEN, "all", (0.2, 10.0)),
        mean("dwell_mean_all", "click", "all", (60_000.0, 3.0)),
        mean("skip_dwell_mean_all", "skip", "all", (6_000.0, 3.0)),
        recency("idle_s"),
    ],
    "How a user reacts, whatever the item.",
)
user_item = as_of_view(
    "user_item",
    [user_activity, item_profile, item_embedding],
    [
        affinity("author_affinity", "recent", POSITIVE, "author", "7d"),
        affinity("author_aversion", "recent", NEGATIVE, "author", "7d"),
        affinity("author_exposure", "shown", SEEN, "author", "7d"),
        affinity("category_affinity", "recent", POSITIVE, "category", "7d"),
        affinity("category_aversion", "recent", NEGATIVE, "category", "7d"),
        affinity("category_exposure", "shown", SEEN, "category", "7d"),
        affinity("item_exposure", "shown", SEEN, "item", "7d"),
        since("item_shown_s", "shown", SEEN, "item"),
        since("author_shown_s", "shown", SEEN, "author"),
        similarity("similarity_max", "recent", POSITIVE, "max"),
        similarity("similarity_mean", "recent", POSITIVE, "mean"),
        similarity("dissimilarity_max", "recent", NEGATIVE, "max"),
        similarity("dissimilarity_mean", "recent", NEGATIVE, "mean"),
    ],
    "What a user's recent actions say of an item.",
)
factors = as_of_view(
    "factors",
    [user_factors, item_factors],
    [dot_product("log_odds", "user_factors", "item_factors")],
    "What a user and an item add to the odds of a click, by last night's factors.",
)
item_facts = as_of_view(
    "item_facts",
    [item_profile],
    [
        value("duration_ms", "duration_ms"),
        age("age_s", "created_at"),
        code("category", "categories", 256),
    ],
    "What an item is.",
)
user_facts = as_of_view(
    "user_facts",
    [user_profile],
    [
        code("activity_degree", "activity_degree", 64),
        value("register_days", "register_days"),
        value("followed", "followed"),
        value("followers", "followers"),
        *(value(f"trait_{n}", f"trait_{n}") for n in TRAITS),
    ],
    "What a user is.",
)
request_facts = as_of_view(
    "request_facts",
    [],
    [surface_code(buckets=1024), hour_of_day()],
    "Where and when a feed is asked for.",
)

home_feed = feature_service(
    "home_feed",
    [
        item_rates,
        author_rates,
        category_rates,
        surface_rates,
        user_rates,
        user_item,
        factors,
        item_facts,
        user_facts,
        request_facts,
    ],
    "Everything the home feed's model reads.",
)
