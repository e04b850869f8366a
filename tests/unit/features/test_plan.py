"""Plans compile from the registry's messages alone; what cannot run is refused with the way out."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import Entity, FeatureService, OnDemandFeatureView, StreamFeatureView
from feast.aggregation import Aggregation
from feast.field import Field
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.types import Bytes, Float64, Int64, String
from feast.value_type import ValueType

from features import declare
from features.errors import Refused
from features.plan import FeatureRepo, compile_plan
from features.spec import DotProductFeature, Plan
from features.tags import AS_OF_TAG, KIND_TAG, RELATIONS_TAG

EVENTS = declare.events_source(archive=Path("archive"))
ITEM = declare.entity("item", "item_id")
COUNTS = [declare.counters("click", "impression"), declare.last_seen()]
ITEM_ACTIVITY = declare.activity_view("item_activity", ITEM, EVENTS, COUNTS)
ITEM_PROFILE = declare.latest_view(
    "item_profile",
    ITEM,
    EVENTS,
    "item",
    [declare.taken("created_at", Int64), declare.taken("author_id", String)],
)
Definition = Entity | StreamFeatureView | OnDemandFeatureView | FeatureService


def _registry(*definitions: Definition, project: str = "p") -> Any:
    """A registry message as `feast apply` would leave it."""
    registry = Registry()
    places = {
        Entity: registry.entities,
        StreamFeatureView: registry.stream_feature_views,
        OnDemandFeatureView: registry.on_demand_feature_views,
        FeatureService: registry.feature_services,
    }
    for definition in definitions:
        message = definition.to_proto()
        message.spec.project = project
        places[type(definition)].append(message)
    return registry


def _compiled(*definitions: Definition) -> Plan:
    return compile_plan(_registry(ITEM, *definitions), "p")


def _rates(*features: Any, sources: Sequence[StreamFeatureView] = (ITEM_ACTIVITY,)) -> Any:
    return declare.as_of_view("rates", sources, features)


def test_a_plan_is_what_was_declared() -> None:
    view = _rates(declare.count("clicks_1h", "click", "1h"))
    plan = _compiled(ITEM_ACTIVITY, ITEM_PROFILE, view, declare.feature_service("feed", [view]))
    (activity,) = plan.activity
    assert [(r.metric.action, r.width_ms, r.buckets) for r in activity.rings[:3]] == [
        ("click", 300_000, 12),
        ("click", 3_600_000, 24),
        ("click", 21_600_000, 28),
    ]
    assert [t.metric.action for t in activity.totals] == ["click", "impression"]
    assert (activity.first_seen, activity.last_seen) == (None, "last_seen")
    (latest,) = plan.latest
    assert [(f.name, f.path, f.dtype) for f in latest.fields] == [
        ("author_id", "author_id", "String"),
        ("created_at", "created_at", "Int64"),
    ]
    assert plan.topic == "events"
    assert [name for name, _ in plan.service_features("feed")] == ["rates__clicks_1h"]


def test_the_order_of_declarations_does_not_matter() -> None:
    view = _rates(declare.count("clicks_1h", "click", "1h"))
    one = _compiled(ITEM_ACTIVITY, ITEM_PROFILE, view)
    other = compile_plan(_registry(view, ITEM_PROFILE, ITEM_ACTIVITY, ITEM), "p")
    assert one == other


def test_the_order_in_which_feast_lists_fields_does_not_matter() -> None:
    # It differs from process to process: Feast goes through a set.
    registry = _registry(ITEM, ITEM_PROFILE)
    one = compile_plan(registry, "p")
    features = registry.stream_feature_views[0].spec.features
    listed = [type(feature).FromString(feature.SerializeToString()) for feature in features]
    del features[:]
    features.extend(reversed(listed))
    other = compile_plan(registry, "p")
    assert other == one
    assert other.version == one.version


def test_other_projects_in_the_registry_are_not_ours() -> None:
    registry = _registry(ITEM, ITEM_ACTIVITY)
    registry.MergeFrom(_registry(ITEM, ITEM_PROFILE, project="other"))
    assert [view.name for view in compile_plan(registry, "p").views] == ["item_activity"]


def test_the_version_stands_while_only_reads_change() -> None:
    plan = _compiled(ITEM_ACTIVITY)
    view = _rates(declare.count("clicks_1h", "click", "1h"))
    more = _compiled(ITEM_ACTIVITY, view, declare.feature_service("feed", [view]))
    assert more.version == plan.version
    assert more != plan


@pytest.mark.parametrize(
    "changed",
    [
        declare.activity_view("item_activity", ITEM, EVENTS, [*COUNTS, declare.first_seen()]),
        declare.activity_view("other", ITEM, EVENTS, COUNTS),
        declare.activity_view("item_activity", ITEM, EVENTS, [declare.counters("click")]),
    ],
)
def test_the_version_changes_with_what_is_stored(changed: StreamFeatureView) -> None:
    assert _compiled(changed).version != _compiled(ITEM_ACTIVITY).version


def test_a_plan_comes_back_from_its_json_with_its_version() -> None:
    plan = _compiled(ITEM_ACTIVITY, _rates(declare.count("clicks_1h", "click", "1h")))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.version == plan.version


def _untagged() -> StreamFeatureView:
    return _tagged({})


def _tagged(tags: dict[str, str], aggregations: Sequence[Aggregation] = ()) -> StreamFeatureView:
    return StreamFeatureView(
        name="odd",
        entities=[ITEM],
        source=EVENTS,
        timestamp_field="event_time",
        schema=[Field(name="item_id", dtype=String), Field(name="x", dtype=Int64)],
        aggregations=list(aggregations),
        tags=tags,
    )


def _mean() -> StreamFeatureView:
    week = timedelta(days=7)
    mean = Aggregation(column="click", function="mean", time_window=week, name="m")
    return _tagged({KIND_TAG: "activity"}, [mean])


def _elsewhere() -> StreamFeatureView:
    other = declare.events_source(name="other", topic="other", archive=Path("archive"))
    return declare.latest_view("odd", ITEM, other, "item", [declare.taken("created_at", Int64)])


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (_untagged, "declare it with features.declare"),
        (_mean, "uses function 'mean'.*knows ring, total, newest"),
        (_elsewhere, "read different topics"),
        (lambda: _tagged({KIND_TAG: "latest"}), "latest_view, which adds event_hash"),
        (
            lambda: declare.latest_view("odd", ITEM, EVENTS, "item", [declare.taken("b", Bytes)]),
            "field 'b' has type BYTES",
        ),
    ],
)
def test_a_stored_view_that_cannot_run_is_refused_with_the_way_out(
    definition: Callable[[], StreamFeatureView], says: str
) -> None:
    with pytest.raises(Refused, match=says):
        _compiled(ITEM_ACTIVITY, definition())


@pytest.mark.parametrize(
    ("entity", "says"),
    [
        (Entity(name="item", join_keys=["item_id"], value_type=ValueType.BYTES), "BYTES is not"),
        (Entity(name="item", join_keys=["video"], value_type=ValueType.STRING), "carry no 'video'"),
    ],
)
def test_an_entity_that_no_event_names_is_refused(entity: Entity, says: str) -> None:
    with pytest.raises(Refused, match=says):
        compile_plan(_registry(entity, ITEM_ACTIVITY), "p")


LISTED = declare.activity_view(
    "user_activity",
    declare.entity("user", "user_id"),
    EVENTS,
    [
        declare.newest("recent", ["click", "hide"], 8, ["item"]),
        declare.newest("known", ["click", "hide"], 8, ["item", "action"]),
    ],
)


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        (declare.count("f", "like"), "the total of 'like'"),
        (declare.rate("f", "click", "like"), "the total of 'like'"),
        (declare.recency("f", "first"), "first_seen"),
        (declare.value("f", "created_at"), "field 'created_at'"),
        (declare.value("f", "views", view="item_profile"), "field 'views'"),
        (declare.value("f", "author_id", view="item_profile"), "a number in field 'author_id'"),
        (declare.code("f", "created_at", view="item_profile"), "a text in field 'created_at'"),
        (declare.value("f", "x", view="nowhere"), "view 'nowhere', which is not in the registry"),
        (declare.affinity("f", "recent", ["click"], "item"), "sequence 'recent'"),
        (
            declare.count("f", "click").model_copy(update={"view": "item_profile"}),
            "counts",
        ),
    ],
)
def test_a_feature_of_what_no_view_keeps_is_refused_with_what_is_missing(
    feature: Any, says: str
) -> None:
    with pytest.raises(Refused, match=f"feature 'f' of 'rates' reads .*{says}"):
        _compiled(ITEM_ACTIVITY, ITEM_PROFILE, _rates(feature))


@pytest.mark.parametrize(
    "feature", [declare.count("f", "like", "1h"), declare.rate("f", "click", "like", "1h")]
)
def test_a_window_that_its_view_no_longer_keeps_is_refused(feature: Any) -> None:
    before = declare.activity_view(
        "item_activity", ITEM, EVENTS, [declare.counters("click", "impression", "like")]
    )
    view = _rates(feature, sources=[before])
    assert _compiled(before, view).as_of
    with pytest.raises(Refused, match="reads 12 buckets of 300000 ms of 'like', which view"):
        _compiled(ITEM_ACTIVITY, view)


def test_a_feature_that_divides_by_nothing_is_refused_whoever_declared_it() -> None:
    view = _rates(declare.rate("f", "click", "impression", "1h", (1.0, 10.0)))
    view.tags[AS_OF_TAG] = view.tags[AS_OF_TAG].replace("10.0", "0.0")
    with pytest.raises(Refused, match="feature 'f' of 'rates': the second number of its prior"):
        _compiled(ITEM_ACTIVITY, view)


USER = declare.entity("user", "user_id")
ITEM_VECTORS = declare.latest_view(
    "item_vectors",
    ITEM,
    EVENTS,
    "item",
    [
        declare.embedded("embedding", 4),
        declare.taken("worth", Float64, "attributes.worth"),
        declare.taken("title", String, "attributes.title"),
    ],
)


def _user_vectors(dimension: int | None = 4) -> StreamFeatureView:
    fields = [declare.embedded("embedding", dimension)]
    return declare.latest_view("user_vectors", USER, EVENTS, "user", fields)


def _product(*sources: StreamFeatureView, user: str = "user_vectors", **more: Any) -> Any:
    return declare.as_of_view("taste", sources, [declare.dot_product("p", user, **more)])


def test_a_dot_product_names_the_embeddings_that_it_multiplies() -> None:
    users = _user_vectors()
    view = _product(users, ITEM_VECTORS, bias="worth")
    plan = _compiled(USER, users, ITEM_VECTORS, view)
    ((feature,),) = (one.features for one in plan.as_of)
    assert feature == DotProductFeature(
        name="p", view="user_vectors", embedding="item_vectors", bias="worth"
    )
    assert set(plan.embeddings) == {"item_vectors"}
    assert set(plan.user_embeddings) == {"user_vectors"}
    assert _compiled(USER, _user_vectors(None), ITEM_VECTORS, view).as_of


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (_product, "embeddings of items in '': views with embeddings of items are no"),
        (
            lambda u: _product(ITEM_VECTORS),
            "multiplies the embeddings of users in 'user_vectors': .* are none.*embedded",
        ),
        (
            lambda u: _product(u, ITEM_VECTORS, user="item_vectors"),
            "embeddings of users in 'item_vectors': views .* are user_vectors",
        ),
        (
            lambda u: _product(u, ITEM_VECTORS, item="user_vectors"),
            "embeddings of items in 'user_vectors': views .* are item_vectors",
        ),
        (
            lambda u: _product(_user_vectors(3), ITEM_VECTORS),
            r"embeddings of 3 numbers \('user_vectors'\) and of 4 \('item_vectors'\)",
        ),
        (lambda u: _product(u, ITEM_VECTORS, bias="age"), "adds field 'age', which view 'item_vec"),
        (lambda u: _product(u, ITEM_VECTORS, bias="title"), "adds a number in field 'title'"),
        (
            lambda u: _product(u, ITEM_VECTORS, bias="embedding", bias_view="user_vectors"),
            "adds 'embedding' of 'user_vectors', which is no latest view of items",
        ),
    ],
)
def test_a_product_of_what_does_not_fit_is_refused_where_it_is_declared(
    view: Callable[[StreamFeatureView], Any], says: str
) -> None:
    with pytest.raises(ValueError, match=f"feature 'p' of 'taste' .*{says}"):
        view(_user_vectors())


def test_a_product_whose_views_have_changed_is_refused() -> None:
    view = _product(_user_vectors(), ITEM_VECTORS)
    with pytest.raises(Refused, match="feature 'p' of 'taste' multiplies embeddings of 3 numbers"):
        _compiled(USER, _user_vectors(3), ITEM_VECTORS, view)
    with pytest.raises(Refused, match="the embeddings of users in 'user_vectors'"):
        _compiled(
            USER, declare.latest_view("user_vectors", USER, EVENTS, "user", []), ITEM_VECTORS, view
        )


FOLLOWS = declare.relations_view(
    "user_relations",
    declare.entity("user", "user_id"),
    EVENTS,
    {"mute": "unmute", "follow": "unfollow"},
)


def test_relations_are_what_was_declared_and_their_actions_are_the_plans() -> None:
    plan = _compiled(declare.entity("user", "user_id"), FOLLOWS)
    (view,) = plan.relations
    assert [(r.on, r.off) for r in view.relations] == [("follow", "unfollow"), ("mute", "unmute")]
    assert (view.target, view.limit) == ("author", 10_000)
    assert plan.actions == ("follow", "mute", "unfollow", "unmute")
    assert plan.views == (view,)


def _tagged_anew(tag: str) -> StreamFeatureView:
    view = declare.relations_view("user_relations", ITEM, EVENTS, {"follow": "unfollow"})
    view.tags[RELATIONS_TAG] = tag
    return view


def _action(name: str) -> StreamFeatureView:
    total = Aggregation(column=name, function="total", name="odd_total")
    return _tagged({KIND_TAG: "activity"}, [total])


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (lambda: _tagged_anew("{}"), "declare it with relations_view"),
        (lambda: _tagged_anew("[]"), "declare it with relations_view"),
        (
            lambda: _tagged_anew('{"relations": {}, "target": "author", "limit": 5}'),
            "needs relations and a limit",
        ),
        (
            lambda: _tagged_anew(
                '{"relations": {"a": "b", "c": "b"}, "target": "item", "limit": 5}'
            ),
            "gives a meaning to 'b' twice",
        ),
        (
            lambda: declare.activity_view(
                "odd", ITEM, EVENTS, [declare.counters("click"), declare.counters("click")]
            ),
            "keeps a total of 'click' twice",
        ),
        (lambda: _action(""), "action '' cannot be declared"),
        (lambda: _action("click.valeu"), "column 'click.valeu'"),
        (
            lambda: declare.latest_view(
                "odd",
                declare.entity("video", "item_id", ValueType.INT64),
                EVENTS,
                "item",
                [declare.taken("created_at", Int64)],
            ),
            "share the join key 'item_id'",
        ),
    ],
)
def test_a_stored_view_whose_parts_do_not_fit_is_refused(
    definition: Callable[[], StreamFeatureView], says: str
) -> None:
    videos = declare.entity("video", "item_id", ValueType.INT64)
    with pytest.raises(Refused, match=f"view 'odd'.*{says}|{says}"):
        compile_plan(_registry(ITEM, videos, ITEM_ACTIVITY, definition()), "p")


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        (declare.affinity("f", "shown", ["click"], "item"), "sequence 'shown'"),
        (declare.affinity("f", "recent", ["like"], "item"), "action 'like' in sequence 'recent'"),
        (declare.since("f", "known", ["click"], "author"), "column 'author' in sequence 'known'"),
        (
            declare.affinity("f", "recent", ["click"], "item"),
            "column 'action' in sequence 'recent'",
        ),
    ],
)
def test_a_feature_of_what_no_list_keeps_is_refused_with_what_is_missing(
    feature: Any, says: str
) -> None:
    users = declare.entity("user", "user_id")
    with pytest.raises(Refused, match=f"feature 'f' of 'rates' reads .*{says}"):
        _compiled(users, LISTED, _rates(feature, sources=[LISTED]))


def test_a_list_without_the_action_column_serves_features_of_all_its_actions() -> None:
    users = declare.entity("user", "user_id")
    feature = declare.affinity("f", "recent", ["click", "hide"], "item")
    assert _compiled(users, LISTED, _rates(feature, sources=[LISTED])).as_of


def test_a_folder_without_a_feature_store_says_where_to_point(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="point HEADRACE_REPO at a feature repository"):
        FeatureRepo(tmp_path).open()


def test_an_as_of_view_of_someone_else_is_left_alone() -> None:
    view = _rates(declare.count("clicks_1h", "click", "1h"))
    del view.tags[AS_OF_TAG]
    assert _compiled(ITEM_ACTIVITY, view).as_of == ()


def _counting(*actions: str, **more: Any) -> StreamFeatureView:
    return declare.activity_view("odd", ITEM, EVENTS, [declare.counters(*actions, **more)])


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (lambda: _counting("a1857", "a7866"), "'a1857' and 'a7866' have the same id"),
        (
            lambda: _counting("click", rings=[("1h", 24), ("60m", 2)]),
            "two rings of 'click' with buckets of 3600000 ms",
        ),
        (
            lambda: declare.activity_view("odd", ITEM, EVENTS, [declare.last_seen("counts")]),
            "field 'counts' is the pack's",
        ),
    ],
)
def test_what_stored_rows_could_not_tell_apart_is_refused(
    definition: Callable[[], StreamFeatureView], says: str
) -> None:
    with pytest.raises(Refused, match=says):
        _compiled(definition())
