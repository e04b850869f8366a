"""The product of a user's own embedding and a candidate's, against plain numpy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.as_of import Reader
from features.as_of_kernels import Floats, Vectors
from features.events import Event, ItemEvent, UserEvent
from features.list_kernels import read_products
from features.marker import Marker
from features.spec import AsOfView, DotProductFeature, LatestField, Plan
from ranker.tables.user_rows import load_user
from tests.plans import ITEM_EMBEDDING, ITEM_PROFILE, OWN, USER_EMBEDDING, World, changed, plan

NAN = float("nan")
Vector = Sequence[float] | Floats


def _plan(precision: Literal["float32", "float16"] = "float32", *more: DotProductFeature) -> Plan:
    vector = LatestField(
        name="embedding", path="embedding", dtype="Array(Float32)", precision=precision
    )
    latest = [changed(view, fields=(vector,)) for view in (ITEM_EMBEDDING, USER_EMBEDDING)]
    return plan(
        latest=(*latest, ITEM_PROFILE),
        as_of=(AsOfView(name="own", features=(*OWN.features, *more)),),
        services={"feed": ("own",)},
    )


def _item(name: str, vector: Vector | None, **more: Any) -> ItemEvent:
    told = None if vector is None else [float(x) for x in vector]
    return ItemEvent(event_id=name, event_time=1, item_id=name, embedding=told, **more)


def _user(name: str, vector: Vector | None, **more: Any) -> UserEvent:
    told = None if vector is None else [float(x) for x in vector]
    return UserEvent(event_id=name, event_time=1, user_id=name, embedding=told, **more)


def _read(world: World, user: str, items: Sequence[str]) -> Floats:
    return Reader(world.plan, "feed", world.tables).matrix(world.moment(5, user, items))


def _summed(one: Vectors, other: Vectors) -> np.float32:
    """Component after component in single precision."""
    total = np.float32(0.0)
    for a, b in zip(one, other, strict=True):
        total = np.float32(total + np.float32(a * b))
    return total


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("dimension", [1, 3, 64, 65])
def test_it_is_what_numpy_says_component_after_component(
    precision: Literal["float32", "float16"], dimension: int
) -> None:
    rng = np.random.default_rng(dimension)
    items, user = rng.normal(size=(7, dimension)), rng.normal(size=dimension)
    world = World(_plan(precision)).fold(
        [
            _user("u", user),
            *(_item(f"i{n}", v, attributes={"duration_ms": n / 3}) for n, v in enumerate(items)),
        ]
    )
    found = _read(world, "u", [f"i{n}" for n in range(7)])
    held = np.dtype(precision)
    own = user.astype(np.float32).astype(held).astype(np.float32)
    rounded = items.astype(np.float32).astype(held).astype(np.float32)
    for n, vector in enumerate(rounded):
        product = np.float64(_summed(own, vector))
        lengths = np.sqrt(np.float64(_summed(own, own))) * np.sqrt(
            np.float64(_summed(vector, vector))
        )
        assert found[n].tolist() == [product, product / lengths, product + n / 3]
    assert found[:, 0] == pytest.approx(rounded @ own, rel=1e-5, abs=1e-5)


def test_what_is_not_there_is_null_and_only_that() -> None:
    known = {"attributes": {"duration_ms": 2.0}}
    world = World(_plan()).fold(
        [
            _user("u", [1.0, 2.0]),
            _user("bare", None, attributes={"degree": "low"}),
            _user("zero", [0.0, 0.0]),
            _item("i", [3.0, 4.0], **known),
            _item("without bias", [3.0, 4.0]),
            _item("bare", None, **known),
            _item("zero", [0.0, 0.0], **known),
        ]
    )
    items = ["i", "without bias", "bare", "zero", "unknown"]
    cosine = 11.0 / (np.sqrt(5.0) * 5.0)
    nothing = [NAN] * 3
    expected = [[11.0, cosine, 13.0], [11.0, cosine, NAN], nothing, nothing, nothing]
    np.testing.assert_array_equal(_read(world, "u", items), expected)
    for user in ("bare", "zero", "stranger"):
        assert np.isnan(_read(world, user, items)).all(), user


def test_a_cosine_with_a_vector_whose_square_is_below_single_precision_is_null() -> None:
    world = World(_plan()).fold([_user("u", [1.0, 0.0]), _item("tiny", [2e-23, 0.0])])
    (found,) = _read(world, "u", ["tiny"]).tolist()
    assert found[0] == np.float32(2e-23)
    assert np.isnan(found[1])


@pytest.mark.parametrize("first", [2, 3])
def test_vectors_of_other_lengths_are_null_whatever_else_the_tables_hold(first: int) -> None:
    """A product is refused by the lengths themselves, not by how wide a table has become."""
    short, long = [1.0, 2.0], [1.0, 2.0, 4.0]
    events: list[Event] = [
        _user("short", short),
        _item("short", short),
        _user("long", long),
        _item("long", long),
    ]
    world = World(_plan())
    for event in events if first == 2 else reversed(events):
        _read(world.fold([event]), "short", ["short"])  # the tables widen one by one
    for user in ("short", "long"):
        found = _read(world, user, ["short", "long"])[:, 0]
        np.testing.assert_array_equal(found, [5.0, NAN] if user == "short" else [NAN, 21.0])
    many = [_item(f"new{n}", short) for n in range(200)]  # the table grows
    world.fold([*many, changed_item("long", short)])
    found = _read(world, "long", ["long", "new199"])[:, 0]
    assert np.isnan(found).all()
    assert _read(world, "short", ["long", "new199"])[:, 0].tolist() == [5.0, 5.0]


def changed_item(name: str, vector: Vector) -> ItemEvent:
    """The same item, later."""
    return _item(name, vector).model_copy(update={"event_id": "later", "event_time": 2})


@given(
    st.integers(1, 70),
    st.integers(1, 600),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_candidate_alone_has_the_bits_that_it_has_among_many(
    dimension: int, count: int, normalize: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    candidates = rng.normal(size=(dimension, count)).astype(np.float32)
    own = rng.normal(size=dimension).astype(np.float32)
    together = np.empty(count)
    read_products(own, candidates, normalize, together)
    for n in {0, count // 2, count - 1}:
        alone = np.empty(1)
        read_products(own, np.ascontiguousarray(candidates[:, n : n + 1]), normalize, alone)
        assert alone.tobytes() == together[n : n + 1].tobytes()


def test_a_user_read_for_one_request_has_the_bits_that_replay_gives() -> None:
    rng = np.random.default_rng(1)
    events = [_user(f"u{n}", rng.normal(size=64)) for n in range(3)]
    items = [_item(f"i{n}", rng.normal(size=64)) for n in range(40)]
    world = World(_plan()).fold([*events, *items])
    users = world.tables["user_id"]
    for n in range(3):
        names = [f"i{n}" for n in range(40)]
        moment = world.moment(5, f"u{n}", names)
        reader = Reader(world.plan, "feed", world.tables)
        (row,) = users.rows_of_ids([f"u{n}"]).tolist()
        users.markers[row] = Marker(1, 0, 1)
        (write,) = users.writes({"user_embedding": np.array([row])})
        content = dict(zip(write.fields[::2], write.fields[1::2], strict=True))
        alone = load_user(world.plan, world.strings, f"u{n}", content)
        rows = moment.rows | {"user_id": np.array([alone.row])}
        one = reader.matrix(replace(moment, rows=rows), alone.table)
        assert np.isfinite(one[:, 0]).all()
        assert one.tobytes() == reader.matrix(moment).tobytes()


def test_an_embedding_alone_leaves_the_rest_of_a_user_and_is_left_by_it() -> None:
    world = World()
    world.fold([_user("u", None, attributes={"degree": "high"})])
    profile, vectors = (
        world.tables["user_id"].tables[name] for name in ("user_profile", "user_embedding")
    )
    degree = profile.column("degree").hash[0]  # type: ignore[attr-defined]
    assert degree >= 0
    world.fold([_user("u", [1.0, 2.0]).model_copy(update={"event_time": 2, "event_id": "b"})])
    assert profile.column("degree").hash[0] == degree  # type: ignore[attr-defined]
    assert vectors.column("embedding").vector[0].tolist() == [1.0, 2.0]  # type: ignore[attr-defined]
    world.fold([_user("u", None).model_copy(update={"event_time": 3, "event_id": "c"})])
    assert profile.column("degree").hash[0] < 0  # type: ignore[attr-defined]
    assert vectors.column("embedding").vector[0].tolist() == [1.0, 2.0]  # type: ignore[attr-defined]
