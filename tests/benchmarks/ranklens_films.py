"""What RankLens says of films, beside the default declarations it is applied with."""

from feast.types import Float64

from as_of import author_rates, category_rates, item_rates, user_item, user_rates
from features.declare import as_of_view, feature_service, latest_view, taken, value
from stored import events, item

NUMBERS = ("popularity", "vote_avg", "vote_cnt", "budget", "runtime")

film = latest_view(
    "film",
    item,
    events,
    "item",
    [
        *(taken(name, Float64, f"attributes.{name}") for name in NUMBERS),
        taken("released_ms", Float64, "created_at"),
    ],
    "What a film database says of a film.",
)
film_facts = as_of_view(
    "film_facts",
    [film],
    [*(value(name, name) for name in NUMBERS), value("released_ms", "released_ms")],
    "A film's own numbers.",
)
films = feature_service(
    "films",
    [item_rates, author_rates, category_rates, user_rates, user_item, film_facts],
    "What ranks films.",
)
