"""Every kernel that a process of ours runs, compiled by running it once on a world of a few events.

The types of a kernel's arguments do not depend on what a repository declares, so what is compiled
for this little plan serves every other.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from features.as_of import Reader
from features.candidates import ITEM_KEY, USER_KEY
from features.codec import STRING_TYPE
from features.entities import Hash
from features.events import (
    EngagementEvent,
    Event,
    ImpressionEvent,
    ItemEvent,
    ShownItem,
    UserEvent,
    dump_event,
    record_key,
)
from features.project import Projection
from features.row_store import MemoryRows
from features.spec import (
    ActivityView,
    AffinityFeature,
    AsOfView,
    CountFeature,
    DotProductFeature,
    EntitySpec,
    LatestField,
    LatestView,
    Metric,
    NearRateFeature,
    Plan,
    RecencyFeature,
    RingSpec,
    SequenceSpec,
    SimilarityFeature,
    TotalSpec,
    Window,
)
from ranker.reading import make_reading
from ranker.rules import Diversity, Spread
from ranker.scoring.calibration import sigmoid
from ranker.scoring.forest import Forest
from ranker.stages.diversity import varied
from ranker.tables.popularity import Popularity
from ranker.tables.refresh import LiveRows
from ranker.tables.user_rows import load_user
from ranker.training.factors.learning import Rates, learn
from ranker.training.factors.sightings import Lesson, Sightings
from ranker.training.rows import RowMaker
from streaming.aggregate import Aggregator
from streaming.blocks import decode_block
from streaming.records import Record
from streaming.replay import Request, Timeline
from streaming.route import Router, RouteSettings

DAY_MS = 86_400_000
NOW = 20_000 * DAY_MS
SERVICE, USER_ID = "compiled", "u"
ITEMS = ("1", "item-2", "01234567-89ab-cdef-0123-456789abcdef")
"""An id of each form that packs know."""


def compile_kernels() -> None:
    """Run what `route`, `aggregate`, `ranker`, training and replay run."""
    known, recorded = plan(), list(events())
    timeline = Timeline(known, recorded)
    maker = RowMaker(known, SERVICE, timeline.tables, ["click"])

    def make(request: Request) -> None:
        maker.add(request.now, USER_ID, "home", request.items, request.outcomes)

    timeline.run(make)
    folded = timeline.tables[ITEM_KEY].rows_of_ids(ITEMS)
    Popularity(timeline.tables).counts(folded, NOW)
    rank(known, stored(known, recorded))
    seen = Sightings(Lesson())
    for event in recorded:
        seen.add(event)
    learn(seen.sighted(), Rates())
    sigmoid(Forest.from_model_text(MODEL).predict(np.zeros((1, 1))))


def plan() -> Plan:
    """A user's and an item's counters, the user's list, an item's profile, both embeddings."""
    user = EntitySpec(name="user", join_key=USER_KEY, value_type=STRING_TYPE)
    item = EntitySpec(name="item", join_key=ITEM_KEY, value_type=STRING_TYPE)
    metrics = [Metric(action=a) for a in ("impression", "click")]
    metrics.append(Metric(action="click", amount="value"))
    counted: dict[str, Any] = {
        "rings": tuple(RingSpec(metric=m, width_ms=DAY_MS, buckets=4) for m in metrics),
        "totals": tuple(TotalSpec(metric=m) for m in metrics),
        "first_seen": "first_seen",
        "last_seen": "last_seen",
    }
    columns = ("item", "author", "category", "action", "value")
    lists = SequenceSpec(name="recent", actions=("click",), length=4, columns=columns)
    fields = (("author_id", "String"), ("categories", "Array(String)"), ("ended", "Bool"))
    vector = LatestField(name="embedding", path="embedding", dtype="Array(Float32)")
    recent: dict[str, Any] = {"view": "users", "sequence": "recent", "actions": ("click",)}
    return Plan(
        project=SERVICE,
        topic="events",
        activity=(
            ActivityView(name="users", entity=user, sequences=(lists,), **counted),
            ActivityView(name="items", entity=item, **counted),
        ),
        latest=(
            LatestView(
                name="profiles",
                entity=item,
                event="item",
                fields=tuple(LatestField(name=n, path=n, dtype=t) for n, t in fields),
                event_field="event_hash",
            ),
            LatestView(
                name="embeddings",
                entity=item,
                event="item",
                fields=(vector,),
                event_field="event_hash",
            ),
            LatestView(
                name="factors",
                entity=user,
                event="user",
                fields=(vector,),
                event_field="event_hash",
            ),
        ),
        as_of=(
            AsOfView(
                name="read",
                features=(
                    *(
                        CountFeature(
                            name=f"{view}_clicks",
                            view=view,
                            metric=metrics[1],
                            window=Window(width_ms=DAY_MS, buckets=2),
                        )
                        for view in ("users", "items")
                    ),
                    RecencyFeature(name="idle_s", view="items", of="last"),
                    AffinityFeature(name="affinity", key="item", half_life_ms=DAY_MS, **recent),
                    SimilarityFeature(name="similarity", reduce="max", newest=2, **recent),
                    NearRateFeature(
                        name="near_rate",
                        per_sequence=recent["sequence"],
                        per_actions=recent["actions"],
                        power=2,
                        newest=2,
                        prior_of=1.0,
                        prior_per=2.0,
                        **recent,
                    ),
                    DotProductFeature(name="product", view="factors"),
                ),
            ),
        ),
        services={SERVICE: ("read",)},
    )


def events() -> Iterator[Event]:
    """Items that are shown to one user, who clicks on them."""
    yield UserEvent(event_id="user", event_time=NOW - DAY_MS, user_id=USER_ID, embedding=[1.0, 2.0])
    for number, item in enumerate(ITEMS):
        about: dict[str, Any] = {"item_id": item, "author_id": f"a{number}", "categories": ["c"]}
        yield ItemEvent(
            event_id=f"item{number}", event_time=NOW - DAY_MS, embedding=[1.0, 2.0], **about
        )
        context: dict[str, Any] = {
            "event_time": NOW + number,
            "user_id": USER_ID,
            "surface": "home",
        }
        yield ImpressionEvent(
            event_id=f"shown{number}", request_id="r", items=[ShownItem(**about)], **context
        )
        yield EngagementEvent(
            event_id=f"click{number}",
            request_id="r",
            action="click",
            value=7 * number,
            **about,
            **context,
        )


def stored(known: Plan, recorded: list[Event]) -> dict[bytes, Hash]:
    """The rows that `route` and `aggregate` make of events."""
    rows = MemoryRows()
    projection = Projection(known)
    router = Router(RouteSettings("events", "updates", "dead-letters", 1, 10, 1), 1, SERVICE)
    router.own(0, 0)
    aggregator = Aggregator(known, rows)
    aggregator.own(0, 1, 0)
    for offset, event in enumerate(recorded):
        record = Record(0, offset, record_key(event), dump_event(event), event.event_time)
        for outgoing in router.step({0: [record]}, projection).outgoing:
            aggregator.step({0: [(offset, decode_block(outgoing.value))]})
    return rows.rows


def rank(known: Plan, rows: dict[bytes, Hash]) -> None:
    """What the ranker does with them, but for the model."""
    live = LiveRows(known)
    live.put(list(rows), list(rows.values()))
    reading = make_reading(known, SERVICE, live.tables, lambda _: None)
    (user,) = (e for e in known.entities if e.join_key == USER_KEY)
    key = next(k for k in rows if user.join_key.encode() in k)
    one = load_user(known, live.strings, USER_ID, rows[key])
    found = live.tables[ITEM_KEY].rows_of_ids(ITEMS)
    moment = reading.join.moment(NOW + DAY_MS, one.row, ITEMS, found, "home")
    reader: Reader = reading.reader
    assert np.isfinite(reader.matrix(moment, one.table)).all()
    live.tables[ITEM_KEY].marked(found)
    live.tables[ITEM_KEY].ids_of(found)
    reading.popularity.counts(found, NOW)
    reading.join.numbers("ended", found)
    rules = Diversity(strategy="mmr", spread=(Spread(by="author", places=2),))
    none = np.array([-1, -1])
    varied(rules, np.array([1.0, 0.5]), np.eye(2, dtype=np.float32), none, none, 2)
    live.put(list(rows), [{} for _ in rows])


MODEL = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=0
objective=regression
feature_names=x
feature_infos=[0:1]
tree_sizes=220

Tree=0
num_leaves=2
num_cat=0
split_feature=0
split_gain=1
threshold=0.5
decision_type=2
left_child=-1
right_child=-2
leaf_value=0.1 0.2
leaf_weight=1 1
leaf_count=1 1
internal_value=0
internal_weight=2
internal_count=2
is_linear=0
shrinkage=1


end of trees
"""
