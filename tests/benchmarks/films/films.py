"""What `quality_ranklens` declares: films, the people who click on them, and what a ranker reads.

Its clock is squeezed into 20 minutes, so there are totals and lists, and no windows.
"""

from pathlib import Path

from feast.types import Array, Float32, Float64, Int64, String

from features.declare import (
    activity_view,
    affinity,
    age,
    as_of_view,
    code,
    count,
    counters,
    embedded,
    entity,
    events_source,
    feature_service,
    latest_view,
    near_rate,
    newest,
    rate,
    similarity,
    taken,
    value,
)

NUMBERS = ("popularity", "vote_avg", "vote_cnt", "budget", "runtime")

events = events_source(archive=Path(__file__).parent / "archive")
user = entity("user", "user_id")
item = entity("item", "item_id")
director = entity("author", "author_id")
genre = entity("category", "category")

counted = counters("impression", "click", rings=())
user_activity = activity_view(
    "user_activity",
    user,
    events,
    [
        counted,
        newest("recent", ["click"], 128),
        newest("shown", ["impression"], 256, ["item", "author", "category"]),
    ],
)
item_activity = activity_view("item_activity", item, events, [counted])
author_activity = activity_view("author_activity", director, events, [counted])
category_activity = activity_view("category_activity", genre, events, [counted])
item_profile = latest_view(
    "item_profile",
    item,
    events,
    "item",
    [
        taken("author_id", String),
        taken("categories", Array(String)),
        taken("created_at", Int64, description="ms UTC"),
        *(taken(name, Float64, f"attributes.{name}") for name in NUMBERS),
    ],
)
item_content = latest_view(
    "item_content", item, events, "item", [taken("embedding", Array(Float32))]
)
item_genres = latest_view(
    "item_genres", item, events, "item", [embedded("genres", version="genres")]
)

ctr = ("click", "impression", "all", (2.0, 10.0))
watched = ("recent", ["click"]), ("shown", ["impression"])
film_rates = as_of_view(
    "film_rates",
    [item_activity],
    [rate("ctr", *ctr), count("clicks", "click"), count("impressions", "impression")],
)
director_rates = as_of_view("director_rates", [author_activity], [rate("ctr", *ctr)])
genre_rates = as_of_view("genre_rates", [category_activity], [rate("ctr", *ctr)])
user_rates = as_of_view(
    "user_rates", [user_activity], [count("clicks", "click"), count("impressions", "impression")]
)
film_facts = as_of_view(
    "film_facts",
    [item_profile],
    [
        *(value(name, name) for name in NUMBERS),
        age("age_s", "created_at"),
        code("genre", "categories", 64),
    ],
)
user_film = as_of_view(
    "user_film",
    [user_activity, item_profile, item_content],
    [
        affinity("director_affinity", "recent", ["click"], "author", "30d"),
        affinity("genre_affinity", "recent", ["click"], "category", "30d"),
        affinity("genre_exposure", "shown", ["impression"], "category", "30d"),
        affinity("film_affinity", "recent", ["click"], "item", "30d"),
        affinity("film_exposure", "shown", ["impression"], "item", "30d"),
        similarity("similarity_max", "recent", ["click"], "max", 64),
        similarity("similarity_mean", "recent", ["click"], "mean", 64),
        near_rate("near_ctr", *watched, 1, 128, (0.2, 1.0)),
        near_rate("nearer_ctr", *watched, 3, 128, (0.2, 1.0)),
    ],
)
user_genres = as_of_view(
    "user_genres",
    [user_activity, item_profile, item_genres],
    [
        similarity("similarity_mean", "recent", ["click"], "mean", 64),
        near_rate("near_ctr", *watched, 1, 128, (0.2, 1.0)),
        near_rate("nearer_ctr", *watched, 3, 128, (0.2, 1.0)),
    ],
)
films = feature_service(
    "films",
    [
        film_rates,
        director_rates,
        genre_rates,
        user_rates,
        film_facts,
        user_film,
        user_genres,
    ],
)
