"""The rows we write are Feast's: golden bytes, and the stock SDK reads back what we folded."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feast import FeatureStore
from feast.types import Float64

from deploy.feature_store import SETTINGS
from features import declare
from features.activity import ActivityTable
from features.as_of import Moment, Reader, candidate_keys
from features.codec import MARKER_FIELD, decode_value, entity_key, field_name, updated_at_field
from features.entities import EntityTable
from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, ShownItem, UserEvent
from features.plan import FeatureRepo, compile_plan
from features.redis_rows import RedisRows
from features.spec import Plan
from features.strings import Strings
from features.unpack import Counted, unpack_counts, unpack_lists
from tests.pipeline import blocks_by_target, fold_logs, routed
from tests.plans import World
from tests.stock_feast import stock_store

NOW = 1_795_302_000_123
HOUR = 3_600_000
USER, ITEM = "u7", "i1"


def _items() -> list[ItemEvent]:
    return [
        ItemEvent(
            event_id=f"item{n}",
            event_time=NOW - 50 * HOUR + n,
            item_id=f"i{n}",
            author_id=f"a{n % 3}",
            categories=[f"c{n % 2}", "other"],
            created_at=NOW - (50 + n) * HOUR,
            attributes={"duration_ms": 1000.5 * n},
            embedding=[0.25 * n, 1.0, -0.5] if n % 4 else None,
            embeddings={"factors": [0.5, 0.25 * n, 1.0]} if n % 4 else {},
        )
        for n in range(12)
    ]


def _happened() -> list[Event]:
    events: list[Event] = []
    for n in range(160):
        at, item = NOW - n * 37 * 60_000, n % 10
        about: dict[str, Any] = {"author_id": f"a{item % 3}", "categories": [f"c{item % 2}"]}
        events.append(
            ImpressionEvent(
                event_id=f"shown{n}",
                event_time=at,
                request_id=f"r{n}",
                user_id=USER,
                surface="home",
                items=[ShownItem(item_id=f"i{item}", **about)],
            )
        )
        action = ("click", "skip", "like", "hide", "long_view")[n % 5]
        events.append(
            EngagementEvent(
                event_id=f"acted{n}",
                event_time=at + 5,
                user_id=USER if n % 3 else "u8",
                item_id=f"i{item}",
                action=action,
                value=n * 100,
                surface="home",
                **about,
            )
        )
    return events


EVENTS: list[Event] = [
    *_items(),
    UserEvent(
        event_id="user",
        event_time=NOW - 60 * HOUR,
        user_id=USER,
        attributes={"user_active_degree": "high", "register_days": 12.5, "fans_user_num": 3},
        embeddings={"factors": [2.0, 1.0, -0.75]},
    ),
    *_happened(),
]


@pytest.fixture(scope="module")
def plan(applied_repo: Path) -> Plan:
    return FeatureRepo(applied_repo).open().read()


@pytest.fixture(scope="module")
def rows(plan: Plan, valkey: str) -> Iterator[RedisRows]:
    """The events above, folded into the Redis that the stock online store reads."""
    store = RedisRows(valkey, plan.project, ["item_id"])
    fold_logs(blocks_by_target(routed(EVENTS, plan)), plan, store)
    yield store
    store.close()


@pytest.fixture(scope="module")
def feast_store(applied_repo: Path, rows: RedisRows) -> FeatureStore:
    """The stock SDK on the applied repository, with its own Redis online store."""
    store = stock_store(applied_repo / SETTINGS)
    assert type(store.config.online_store).__name__ == "RedisOnlineStoreConfig"
    return store


def _key(plan: Plan, join_key: str, identifier: str) -> bytes:
    (entity,) = [e for e in plan.entities if e.join_key == join_key]
    return entity_key(join_key, entity.value_type, identifier, plan.project)


def test_a_row_is_one_hash_of_feast_fields_and_our_marker(plan: Plan, rows: RedisRows) -> None:
    (row,) = rows.read([_key(plan, "item_id", ITEM)])
    views = [view for view in plan.views if view.entity.join_key == "item_id"]
    stamps = {updated_at_field(view.name) for view in views}
    assert stamps <= set(row)
    assert row[MARKER_FIELD].startswith(b"1.1.")
    rest = set(row) - stamps - {MARKER_FIELD}
    assert all(len(field) == 4 for field in rest)
    assert row[field_name("item_profile", "author_id")] == b"\x12\x02a1"
    assert row[field_name("item_profile", "categories")] == b"\x62\x0b\x0a\x02c1\x0a\x05other"
    assert row[field_name("item_profile", "ended")] == b"\x20\x00"
    assert row[field_name("item_embedding", "embedding")] == bytes.fromhex(
        "82010e0a0c0000803e0000803f000000bf"
    )
    clicks = sum(
        e.action == "click" and e.item_id == ITEM for e in EVENTS if isinstance(e, EngagementEvent)
    )
    counts = decode_value(row[field_name("item_activity", "counts")])
    assert isinstance(counts, bytes)
    assert unpack_counts(counts, ["click"]).get("click", Counted(0)).total == clicks


@pytest.mark.parametrize(
    ("join_key", "identifier"),
    [
        ("user_id", USER),
        ("item_id", ITEM),
        ("author_id", "a1"),
        ("category", "c1"),
        ("surface", "home"),
    ],
)
def test_the_stock_sdk_reads_every_stored_field_as_we_wrote_it(
    plan: Plan, rows: RedisRows, feast_store: FeatureStore, join_key: str, identifier: str
) -> None:
    (row,) = rows.read([_key(plan, join_key, identifier)])
    assert row
    for view in plan.views:
        if view.entity.join_key != join_key:
            continue
        fields = [f.name for f in feast_store.get_stream_feature_view(view.name).features]
        answer = feast_store.get_online_features(
            [f"{view.name}:{field}" for field in fields],
            [{join_key: identifier}],
            full_feature_names=True,
        ).to_dict()
        for field in fields:
            ours = decode_value(row.get(field_name(view.name, field)))
            assert (answer[f"{view.name}__{field}"][0] or None) == (ours or None), field


def test_the_stock_sdk_sees_the_newest_event_time(
    plan: Plan, rows: RedisRows, feast_store: FeatureStore
) -> None:
    answer = feast_store.get_online_features(["item_activity:counts"], [{"item_id": ITEM}])
    (row,) = rows.read([_key(plan, "item_id", ITEM)])
    newest = decode_value(row[field_name("item_activity", "last_seen")])
    column = list(answer.proto.metadata.feature_names.val).index("counts")
    assert answer.proto.results[column].event_timestamps[0].ToMilliseconds() == newest


def _tables(plan: Plan, rows: RedisRows) -> tuple[dict[str, EntityTable], Strings]:
    """All rows of the plan, loaded as a reader of Redis would."""
    strings = Strings()
    tables = {e.join_key: EntityTable(plan, e, strings) for e in plan.entities}
    ids = {
        "user_id": [USER, "u8"],
        "item_id": [f"i{n}" for n in range(12)],
        "author_id": ["a0", "a1", "a2"],
        "category": ["c0", "c1"],
        "surface": ["home"],
    }
    for join_key, table in tables.items():
        keys = [table.key_of(identifier) for identifier in ids[join_key]]
        found = [(k, h) for k, h in zip(keys, rows.read(keys), strict=True) if h]
        table.load([table.row(k) for k, _ in found], [h for _, h in found])
    return tables, strings


def _profile(items: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Author and first category of each item; none for one that nobody knows."""
    known = {e.item_id: (e.author_id, e.categories[0]) for e in _items()}
    return [known.get(item, (None, None)) for item in items]


def _vectors(tables: Mapping[str, EntityTable], plan: Plan, user: str) -> list[float] | None:
    """The embeddings of the user's listed items, end to end, as a Feast client sends them."""
    users, items = tables["user_id"], tables["item_id"]
    activity = users.tables["user_activity"]
    assert isinstance(activity, ActivityTable)
    (row,) = users.rows_of_ids([user]).tolist()
    if row < 0:
        return None
    listed = activity.entries(row, activity.sequences.index("recent"))[:, 2]
    vectors = items.tables["item_embedding"].column("embedding").vector  # type: ignore[attr-defined]
    places = items.rows_of_codes(listed)
    zero = np.zeros(vectors.shape[1])
    return [float(x) for p in places for x in (vectors[p] if p >= 0 else zero)]


def test_a_stock_client_unpacks_what_a_user_did_last(
    plan: Plan, rows: RedisRows, feast_store: FeatureStore
) -> None:
    answer = feast_store.get_online_features(
        ["user_activity:counts", "user_activity:lists"], [{"user_id": USER}]
    ).to_dict()
    acted = [e for e in EVENTS if isinstance(e, EngagementEvent) and e.user_id == USER]
    actions = sorted({e.action for e in acted})
    counted = unpack_counts(answer["counts"][0], actions)
    assert {a: c.total for a, c in counted.items()} == Counter(e.action for e in acted)
    recent = unpack_lists(answer["lists"][0], ["recent"], actions)["recent"]
    newest = sorted(acted, key=lambda e: e.event_time)[-128:]
    assert [(e.time, e.item, e.author, e.action, e.value) for e in recent] == [
        (e.event_time, e.item_id, e.author_id, e.action, e.value) for e in newest
    ]


@pytest.mark.parametrize("user", [USER, "u8", "stranger"])
@pytest.mark.parametrize("now", [NOW + 60_000, NOW - 20 * HOUR, NOW + 400 * 24 * HOUR])
def test_the_feature_service_gives_the_ranker_s_matrix_bit_for_bit(
    plan: Plan, rows: RedisRows, feast_store: FeatureStore, user: str, now: int
) -> None:
    tables, strings = _tables(plan, rows)
    items = [*(f"i{n}" for n in range(12)), "unknown"]
    about = _profile(items)
    reader = Reader(plan, "home_feed", tables)
    authors, categories = [a for a, _ in about], [c for _, c in about]
    moment = Moment(
        now=now,
        rows={
            "user_id": tables["user_id"].rows_of_ids([user]),
            "item_id": tables["item_id"].rows_of_ids(items),
            "author_id": tables["author_id"].rows_of_ids([a or "" for a in authors]),
            "category": tables["category"].rows_of_ids([c or "" for c in categories]),
            "surface": tables["surface"].rows_of_ids(["home"]),
        },
        keys=candidate_keys(
            strings.codes(items), strings.codes(authors), strings.codes(categories)
        ),
        surface="home",
    )
    matrix = reader.matrix(moment)
    vectors = _vectors(tables, plan, user)
    entity_rows = [
        {
            "user_id": user,
            "item_id": item,
            "author_id": author or "nobody",
            "category": category or "nothing",
            "surface": "home",
            "request_surface": "home",
            "now": now,
            "recent_vectors": vectors or [0.0],
        }
        for item, (author, category) in zip(items, about, strict=True)
    ]
    answer = feast_store.get_online_features(
        feast_store.get_feature_service("home_feed"), entity_rows, full_feature_names=True
    ).to_dict()
    for place, name in enumerate(reader.columns):
        column = [np.nan if v is None else v for v in answer[name]]
        assert np.array(column, np.float64).tobytes() == matrix[:, place].tobytes(), name
    assert len(reader.columns) == len([name for name in answer if name in reader.columns])
    assert user == "stranger" or np.isfinite(matrix).mean() > 0.7


def _vectors_of_both() -> list[Any]:
    """A repository of a user's and an item's embeddings, and what their product is."""
    source = declare.events_source(archive=Path("archive"))
    user, item = declare.entity("user", "user_id"), declare.entity("item", "item_id")
    of_users = declare.latest_view(
        "of_users", user, source, "user", [declare.embedded("vector", precision="float16")]
    )
    worth = declare.taken("worth", Float64, "attributes.duration_ms")
    of_items = declare.latest_view(
        "of_items", item, source, "item", [declare.embedded("vector"), worth]
    )
    taste = declare.as_of_view(
        "taste",
        [of_users, of_items],
        [
            declare.dot_product("product", "of_users"),
            declare.dot_product("cosine", "of_users", normalize=True),
            declare.dot_product("with_worth", "of_users", bias="worth"),
        ],
    )
    return [user, item, of_users, of_items, taste, declare.feature_service("feed", [taste])]


def test_the_product_of_two_embeddings_is_the_ranker_s_bit_for_bit(
    applied_repo: Path, valkey: str, tmp_path: Path
) -> None:
    config = stock_store(applied_repo / SETTINGS).config.model_copy(deep=True)
    config.project = "products"
    config.registry.path = f"sqlite:///{tmp_path}/registry.db"
    client = FeatureStore(config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.apply(_vectors_of_both())
    plan = compile_plan(client.registry.proto(), "products")
    users = [
        UserEvent(event_id="u0", event_time=NOW, user_id="u0", embedding=[0.1, -0.7, 1.3]),
        UserEvent(event_id="u1", event_time=NOW, user_id="u1", embedding=[1.0, 2.0]),
        UserEvent(event_id="u2", event_time=NOW, user_id="u2", attributes={"a": 1}),
    ]
    events: list[Event] = [*_items(), *users]
    store = RedisRows(valkey, plan.project, ["item_id"])
    fold_logs(blocks_by_target(routed(events, plan)), plan, store)
    store.close()
    world = World(plan).fold(events)
    items = [*(f"i{n}" for n in range(12)), "unknown"]
    seen = 0
    for user in ("u0", "u1", "u2", "stranger"):
        reader = Reader(plan, "feed", world.tables)
        matrix = reader.matrix(world.moment(NOW, user, items))
        answer = client.get_online_features(
            client.get_feature_service("feed"),
            [{"user_id": user, "item_id": item, "now": NOW} for item in items],
            full_feature_names=True,
        ).to_dict()
        for place, name in enumerate(reader.columns):
            column = [np.nan if v is None else v for v in answer[name]]
            assert np.array(column, np.float64).tobytes() == matrix[:, place].tobytes(), name
        seen += int(np.isfinite(matrix).sum())
    assert seen == 9 * 3  # of one user with a vector as long as an item's, which 3 in 12 have not


def test_another_project_on_the_same_server_shares_no_row(plan: Plan, rows: RedisRows) -> None:
    (entity,) = [e for e in plan.entities if e.join_key == "item_id"]
    assert rows.read([entity_key("item_id", entity.value_type, ITEM, "x" + plan.project)]) == [{}]
