"""The matrix reader against what the Feast SDK writes, and what it answers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from feast import FeatureService, FeatureStore, Field, OnDemandFeatureView
from feast.protos.feast.types import Value_pb2 as proto
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.ports import HOST, free_port
from features.codec import STRING_TYPE, entity_key, field_name
from features.errors import BadInput, Refused, Unavailable
from features.matrix import MATRIX_TYPES, Columns, MatrixReader
from features.matrix_column import Column, JoinKey
from features.online_store import matrix_columns
from features.redis_wire import Fetch
from tests.contract.online_stores import (
    OURS,
    STOCK,
    applied,
    connected,
    pairs,
    profiles,
    stats,
)

IDS: Final = list(range(-3, 130))
EVERY: Final = [
    "stats:trips",
    "stats:rate",
    "profile:city",
    "stats:vector",
    "pairs:waits",
    "profile:joined",
    "profile:photo",
    "stats:share",
    "stats:rank",
    "profile:active",
]
DRIVERS: Final = [5, 999, 3, 5, -2, 64, 65, 0]
ASKED: Final[dict[str, Any]] = {"driver_id": DRIVERS, "zone": [f"z{i % 5}" for i in DRIVERS]}

fetches = pytest.mark.parametrize("fetch", ["fields", "whole", "auto"])


@pytest.fixture(scope="module")
def written(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Rows that the stock store wrote."""
    store = applied(STOCK, valkey, tmp_path_factory.mktemp("matrix"), "matrix")
    store.write_to_online_store("stats", stats(IDS))
    store.write_to_online_store("profile", profiles(IDS))
    store.write_to_online_store("pairs", pairs(IDS))
    return store


def _plain(columns: Columns, name: str) -> list[Any]:
    """A column as Feast's dictionaries have it."""
    values, gone = columns[name], columns.missing(name)
    found: list[Any] = values.tolist()
    if values.ndim == 2:
        sizes = columns.lengths(name).tolist()
        found = [row[: max(0, size)] for row, size in zip(found, sizes, strict=True)]
    if values.dtype.kind == "M":
        found = [None if v is None else v.replace(tzinfo=UTC) for v in found]
    return [None if missing else v for v, missing in zip(found, gone.tolist(), strict=True)]


@fetches
def test_columns_hold_what_get_online_features_answers(
    written: FeatureStore, valkey: str, fetch: Fetch
) -> None:
    columns = matrix_columns(written, EVERY, full_feature_names=True)
    answer = written.get_online_features(EVERY, ASKED, full_feature_names=True).to_dict()
    with MatrixReader(valkey, "matrix", columns, fetch=fetch) as reader:
        for _ in range(2):
            found = reader.read(ASKED)
            assert list(found) == [column.name for column in columns]
            for name in found:
                values = [None if v is None or v == [] else v for v in answer[name]]
                assert [None if v == [] else v for v in _plain(found, name)] == values, name


NUMBERS: Final = {
    "Int32": ("int32_val", st.integers(-(2**31), 2**31 - 1)),
    "Int64": ("int64_val", st.integers(-(2**63), 2**63 - 1)),
    "Float64": ("double_val", st.floats(allow_nan=False)),
    "Float32": ("float_val", st.floats(allow_nan=False, width=32)),
    "Bool": ("bool_val", st.booleans()),
    "UnixTimestamp": ("unix_timestamp_val", st.integers(-(2**33), 2**33)),
    "String": ("string_val", st.text(max_size=200)),
    "Bytes": ("bytes_val", st.binary(max_size=200)),
}
LISTS: Final[dict[str, tuple[str, Any, Any]]] = {
    f"Array({kind})": (
        NUMBERS[kind][0].replace("_val", "_list_val"),
        getattr(proto, f"{message}List"),
        st.lists(NUMBERS[kind][1], max_size=40),
    )
    for kind, message in (
        ("Int32", "Int32"),
        ("Int64", "Int64"),
        ("Float64", "Double"),
        ("Float32", "Float"),
    )
}


def _message(dtype: str, value: Any) -> bytes:
    """Feast's own encoding."""
    if value is None:
        return b""
    if dtype in LISTS:
        field, message, _ = LISTS[dtype]
        return proto.Value(**{field: message(val=value)}).SerializeToString()
    return proto.Value(**{NUMBERS[dtype][0]: value}).SerializeToString()


def _column(dtype: str, name: str = "x") -> Column:
    return Column(name, "view", name, dtype, (JoinKey("id", STRING_TYPE),))


def _store(valkey: str, rows: dict[str, dict[str, bytes]]) -> None:
    """Rows (id → feature → stored bytes) of project `raw`, and no others."""
    with connected(valkey) as client:
        for name, fields in rows.items():
            key = entity_key("id", STRING_TYPE, name, "raw")
            client.delete(key)
            if fields:
                content = {field_name("view", f): value for f, value in fields.items()}
                client.hset(key, mapping=content)  # type: ignore[arg-type]


def test_every_type_is_tried_here() -> None:
    assert set(MATRIX_TYPES) == set(NUMBERS) | set(LISTS)


@pytest.mark.parametrize("dtype", MATRIX_TYPES)
@settings(max_examples=25)
@given(st.data())
def test_every_value_comes_back_as_protobuf_encoded_it(
    valkey: str, dtype: str, data: st.DataObject
) -> None:
    kind = LISTS[dtype][2] if dtype in LISTS else NUMBERS[dtype][1]
    values = data.draw(st.lists(st.none() | kind, min_size=1, max_size=12))
    _store(valkey, {f"{i}": {"x": _message(dtype, v), "y": b"y"} for i, v in enumerate(values)})
    ids = [f"{i}" for i in range(len(values))]
    for fetch in ("fields", "whole"):
        with MatrixReader(valkey, "raw", [_column(dtype)], fetch=fetch) as reader:
            found = reader.read({"id": ids})
        wanted = values
        if dtype == "UnixTimestamp":
            wanted = [None if v is None else datetime.fromtimestamp(v, UTC) for v in values]
        assert _plain(found, "x") == wanted
        assert found.missing("x").tolist() == [v is None for v in values]


def test_missing_is_nan_nat_zero_or_none_and_the_mask_says_so(valkey: str) -> None:
    columns = [_column(dtype, dtype) for dtype in MATRIX_TYPES]
    _store(valkey, {"gone": {}, "null": dict.fromkeys(MATRIX_TYPES, b"\x98\x01\x00")})
    with MatrixReader(valkey, "raw", columns) as reader:
        found = reader.read({"id": ["gone", "null"]})
    for name in found:
        assert found.missing(name).all()
        assert found.lengths(name).tolist() == [-1, -1]
    assert np.isnan(found["Float32"]).all()
    assert np.isnan(found["Float64"]).all()
    assert np.isnat(found["UnixTimestamp"]).all()
    assert found["Int64"].tolist() == [0, 0]
    assert found["Bool"].tolist() == [False, False]
    assert found["String"].tolist() == [None, None]
    assert found["Array(Float32)"].shape == (2, 0)
    assert np.isnan(found.matrix(["Int32", "Float64", "Bool"])).all()


def test_lists_are_padded_strings_have_codes_and_numbers_make_a_matrix(valkey: str) -> None:
    rows = {
        "a": ([1.5, 2.5], [7], "red", 3, True),
        "b": ([], [8, -9, 10], "blue", None, False),
        "c": ([0.5], None, "red", -1, None),
    }
    dtypes = ("Array(Float64)", "Array(Int64)", "String", "Int64", "Bool")
    names = ("floats", "ints", "text", "number", "flag")
    stored = {
        row: {n: _message(d, v) for n, d, v in zip(names, dtypes, values, strict=True)}
        for row, values in rows.items()
    }
    _store(valkey, stored)
    columns = [_column(dtype, name) for dtype, name in zip(dtypes, names, strict=True)]
    with MatrixReader(valkey, "raw", columns) as reader:
        found = reader.read({"id": np.array(["c", "a", "b", "a"])})
    nan = np.nan
    np.testing.assert_array_equal(found["floats"], [[0.5, nan], [1.5, 2.5], [nan, nan], [1.5, 2.5]])
    assert found["ints"].tolist() == [[0, 0, 0], [7, 0, 0], [8, -9, 10], [7, 0, 0]]
    assert found.lengths("ints").tolist() == [-1, 1, 3, 1]
    codes, words = found.codes("text")
    assert (
        [words[code] for code in codes] == found["text"].tolist() == ["red", "red", "blue", "red"]
    )
    assert len(words) == 2
    np.testing.assert_array_equal(
        found.matrix(["flag", "number"]), [[nan, -1], [1, 3], [0, nan], [1, 3]]
    )
    with pytest.raises(BadInput, match="'floats' holds no single numbers"):
        found.matrix()
    with pytest.raises(BadInput, match="'ints' holds no strings"):
        found.codes("ints")


@pytest.mark.parametrize("fetch", ["fields", "whole"])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("Int64", proto.Value(int32_val=3)),
        ("Float32", proto.Value(double_val=3)),
        ("Int64", proto.Value(string_val="12345678")),
        ("String", proto.Value(int64_val=3)),
        ("Array(Float32)", proto.Value(float_val=3)),
        ("Array(Float32)", proto.Value(double_list_val=proto.DoubleList(val=[3]))),
        ("Array(Int64)", b"\x72\x03\x0a\x01\x80"),
        ("Array(Float64)", b"\x7a\x05\x0a\x03\x00\x00\x00"),
        ("Int64", b"\x20\x80"),
        ("Int64", b"\x20\x03\x20\x04"),
        ("Float64", b"\x29\x00\x00"),
        ("String", b"\x12\x05ab"),
    ],
)
def test_bytes_of_another_type_are_bad_input_with_row_and_field(
    valkey: str, dtype: str, stored: Any, fetch: Fetch
) -> None:
    content = stored if isinstance(stored, bytes) else stored.SerializeToString()
    _store(valkey, {"good": {"x": b""}, "bad": {"x": content}})
    with MatrixReader(valkey, "raw", [_column(dtype)], fetch=fetch) as reader:
        with pytest.raises(BadInput, match=r"field view:x of the row .*badraw.* no "):
            reader.read({"id": ["good", "bad"]})
        assert reader.read({"id": ["good"]}).missing("x").all()


def test_a_key_that_is_no_hash_is_bad_input(valkey: str) -> None:
    key = entity_key("id", STRING_TYPE, "odd", "raw")
    with connected(valkey) as client:
        client.set(key, "text")
        with MatrixReader(valkey, "raw", [_column("Int64")], fetch="fields") as reader:
            with pytest.raises(BadInput, match="WRONGTYPE"):
                reader.read({"id": ["fine", "odd", "fine"]})
            client.delete(key)
            assert reader.read({"id": ["fine", "odd"]}).rows == 2


def test_wrong_ids_are_bad_input(valkey: str) -> None:
    numbered = Column("n", "view", "n", "Int64", (JoinKey("id", 4), JoinKey("zone", 2, "place")))
    with MatrixReader(valkey, "raw", [numbered]) as reader:
        with pytest.raises(BadInput, match="missing for place"):
            reader.read({"id": [1]})
        with pytest.raises(BadInput, match=r"'id': 1, 'place': 2"):
            reader.read({"id": [1], "place": ["a", "b"]})
        with pytest.raises(BadInput, match="'id' must be integers of 64 bits"):
            reader.read({"id": ["1"], "place": ["a"]})
        with pytest.raises(BadInput, match="'place' must be strings"):
            reader.read({"id": [1], "place": [2]})
        assert reader.read({"id": [], "place": []})["n"].shape == (0,)


def test_columns_that_cannot_be_read_are_refused(valkey: str) -> None:
    with pytest.raises(Refused, match=r"'x' has type Map"):
        MatrixReader(valkey, "raw", [_column("Map")])
    with pytest.raises(Refused, match=r"one name: x"):
        MatrixReader(valkey, "raw", [_column("Int64"), _column("Bool")])
    with pytest.raises(Refused, match=r"one stored field"):
        MatrixReader(
            valkey, "raw", [Column(n, "v", "f", "Int64", (JoinKey("id", 2),)) for n in "ab"]
        )


@pytest.mark.filterwarnings("ignore:On demand feature view:RuntimeWarning")
def test_what_feast_does_not_store_is_no_column(written: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing"):
        matrix_columns(written, ["stats:nothing"])
    with pytest.raises(BadInput, match="nowhere"):
        matrix_columns(written, ["nowhere:trips"])
    store = applied(OURS, "redis://127.0.0.1:1", tmp_path)
    stored = store.get_feature_view("stats")
    computed = OnDemandFeatureView(
        name="computed",
        sources=[stored],
        schema=[Field(name="double", dtype=Int64)],
        feature_transformation=PythonTransformation(
            udf=_double,  # type: ignore[arg-type]
            udf_string="_double",
        ),
        mode="python",
    )
    service = FeatureService(name="plain", features=[stored[["trips", "rate"]]])
    store.apply([computed, service])
    with pytest.raises(BadInput, match="computed: computed at read"):
        matrix_columns(store, ["computed:double"])
    found = matrix_columns(store, store.get_feature_service("plain"))
    assert [(c.name, c.dtype) for c in found] == [("trips", "Int64"), ("rate", "Float32")]


def _double(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"double": [2 * trips for trips in inputs["trips"]]}


def test_more_than_the_buffer_holds_comes_whole(valkey: str) -> None:
    texts = {f"{i}": f"{i}" * 10_000 for i in range(300)}
    _store(valkey, {i: {"x": _message("String", text)} for i, text in texts.items()})
    with MatrixReader(valkey, "raw", [_column("String")]) as reader:
        assert reader.read({"id": list(texts)})["x"].tolist() == list(texts.values())


def test_a_lost_connection_is_unavailable_once(valkey: str) -> None:
    _store(valkey, {"a": {"x": _message("Int64", 7)}})
    with MatrixReader(valkey, "raw", [_column("Int64")], fetch="fields") as reader:
        assert reader.read({"id": ["a"]})["x"].tolist() == [7]
        with connected(valkey) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(Unavailable):
            reader.read({"id": ["a"]})
        assert reader.read({"id": ["a"]})["x"].tolist() == [7]


def test_no_server_is_unavailable() -> None:
    with (
        MatrixReader(f"redis://{HOST}:{free_port()}/0", "raw", [_column("Int64")]) as reader,
        pytest.raises(Unavailable, match="does not answer"),
    ):
        reader.read({"id": ["a"]})
