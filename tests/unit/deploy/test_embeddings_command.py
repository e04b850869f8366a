"""Loading embeddings from files: what is refused, and what is sent."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from deploy.commands.embeddings import Whose, check, send_embeddings
from features.errors import BadInput, Refused
from features.events import ItemEvent, UserEvent, parse_events
from features.latest import LatestTable
from features.project import Projection
from features.spec import LatestField, LatestView, Plan
from streaming.embedding_file import ROWS_PER_BATCH, EmbeddingFile
from streaming.records import Outgoing
from tests.plans import ITEM, ITEM_EMBEDDING, USER_EMBEDDING, World, changed, plan

SECOND = LatestView(
    name="item_embedding_v2",
    entity=ITEM,
    event="item",
    fields=(
        LatestField(
            name="embedding",
            path="embeddings.v2",
            dtype="Array(Float32)",
            dimension=5,
            precision="float16",
        ),
    ),
    event_field="event_hash",
)


def two_versions() -> Plan:
    known = plan()
    return plan(latest=(*known.latest, SECOND))


class ListSink:
    def __init__(self, fails_at: int | None = None) -> None:
        self.sent: list[Outgoing] = []
        self.fails_at = fails_at

    def send(self, outgoing: Outgoing) -> None:
        if len(self.sent) == self.fails_at:
            raise BadInput("the broker is gone")
        self.sent.append(outgoing)

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing to close."""


def parquet(path: Path, ids: object, vectors: list[list[float]]) -> Path:
    column = pa.array(vectors, pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": ids, "embedding": column}), path)
    return path


def npz(path: Path, ids: object, vectors: object) -> Path:
    np.savez(path, item_id=np.array(ids), embedding=np.array(vectors))
    return path


def opened(path: Path) -> EmbeddingFile:
    return EmbeddingFile(path, "item_id", "embedding")


def send(file: EmbeddingFile, version: str = "", at_ms: int = 50, start: int = 0) -> ListSink:
    sink = ListSink()
    console = Console(file=io.StringIO())
    count = send_embeddings(file, version, sink, "events", at_ms, start, console)
    assert count == len(sink.sent)
    return sink


def events(sink: ListSink) -> list[ItemEvent]:
    found = parse_events([one.value for one in sink.sent])
    assert all(isinstance(event, ItemEvent) for event in found)
    return found  # type: ignore[return-value]


def test_both_kinds_of_file_say_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(3, 5)).astype(np.float32)
    one = parquet(tmp_path / "e.parquet", ["a", "b", "ü"], vectors.tolist())
    other = npz(tmp_path / "e.npz", ["a", "b", "ü"], vectors)
    told = [send(opened(path)) for path in (one, other)]
    assert told[0].sent == told[1].sent
    assert [out.key for out in told[0].sent] == [b"a", b"b", "ü".encode()]
    assert [event.embedding for event in events(told[0])] == vectors.tolist()
    whole = npz(tmp_path / "n.npz", [7, 8, 9], vectors.astype(np.float16))
    assert [event.item_id for event in events(send(opened(whole)))] == ["7", "8", "9"]


def test_a_large_file_can_be_gone_on_with_and_says_the_same_again(tmp_path: Path) -> None:
    count = ROWS_PER_BATCH + 300
    vectors = np.random.default_rng(2).normal(size=(count, 2)).astype(np.float32)
    file = opened(npz(tmp_path / "e.npz", np.arange(count), vectors))
    whole = send(file)
    assert len({event.event_id for event in events(whole)}) == count
    for start in (1, ROWS_PER_BATCH, count - 1):
        assert send(file, start=start).sent == whole.sent[start:]
    broken, console = ListSink(fails_at=7_000), Console(file=io.StringIO())
    with pytest.raises(BadInput, match="gone"):
        send_embeddings(file, "", broken, "events", 50, 0, console)
    assert isinstance(console.file, io.StringIO)
    assert "go on with --start 5000 --at-ms 50" in console.file.getvalue()


def test_a_loaded_embedding_leaves_the_rest_of_the_item_and_the_other_version_as_they_were(
    tmp_path: Path,
) -> None:
    world = World(two_versions())
    item = ItemEvent(
        event_id="item", event_time=10, item_id="a", author_id="7", embedding=[1.0, 2.0]
    )
    vectors = [[0.1, 0.2, 0.3, 0.4, 70_000.0]]
    file = opened(npz(tmp_path / "e.npz", ["a"], np.array(vectors, np.float32)))
    world.fold([item, *events(send(file, "v2"))])
    table = world.tables["item_id"]
    views = {name: v for name, v in table.tables.items() if isinstance(v, LatestTable)}
    assert world.strings.text(int(views["item_profile"].column("author_id").code[0])) == "7"
    assert views["item_profile"].newest[0] == 10
    assert views["item_embedding"].column("embedding").vector[0].tolist() == [1.0, 2.0]
    second = views["item_embedding_v2"].column("embedding").vector[0]
    assert second.dtype == np.float16
    assert second.tolist() == np.array([0.1, 0.2, 0.3, 0.4, 65504.0], np.float16).tolist()


def test_an_event_with_another_dimension_than_declared_is_refused() -> None:
    projection = Projection(two_versions())
    event = ItemEvent(event_id="e", event_time=1, item_id="a", embeddings={"v2": [1.0, 2.0]})
    assert projection.refusal(event) == ("embeddings.v2: 2 numbers, view item_embedding_v2 has 5")
    right = ItemEvent(event_id="e", event_time=1, item_id="a", embeddings={"v2": [1.0] * 5})
    assert projection.refusal(right) is None


def test_embeddings_of_users_are_user_events_and_only_their_own_views_take_them(
    tmp_path: Path,
) -> None:
    vectors = np.array([[0.5, -1.0, 2.0]], np.float32)
    file = EmbeddingFile(npz(tmp_path / "e.npz", ["a"], vectors), "item_id", "embedding")
    sink, console = ListSink(), Console(file=io.StringIO())
    assert send_embeddings(file, "", sink, "events", 50, 0, console, Whose.USER) == 1
    (user,) = parse_events([one.value for one in sink.sent])
    (item,) = events(send(file))
    assert isinstance(user, UserEvent)
    assert (user.user_id, user.embedding) == ("a", [0.5, -1.0, 2.0])
    assert user.event_id != item.event_id
    assert sink.sent[0].key == b"a"
    check(plan(), file, "", Whose.USER)
    with pytest.raises(Refused, match=r"embeddings of users, version 'v2'; .* has \(none\)"):
        check(two_versions(), file, "v2", Whose.USER)
    declared = changed(USER_EMBEDDING.fields[0], dimension=4)
    four = plan(latest=(ITEM_EMBEDDING, changed(USER_EMBEDDING, fields=(declared,))))
    assert Projection(four).refusal(user) == "embedding: 3 numbers, view user_embedding has 4"
    assert Projection(four).refusal(item) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: f / "none.parquet", "no file"),
        (lambda f: npz(f / "e.npz", ["a"], [[1.0, float("nan")]]), r"row 0 \(id 'a'\).*NaN"),
        (lambda f: npz(f / "e.npz", ["a"], [[1.0, 1e39]]), "exceeds float32"),
        (lambda f: npz(f / "e.npz", ["a"], [[1, 2]]), "int64.*convert the column"),
        (lambda f: npz(f / "e.npz", ["a", "b"], [[1.0]]), "shape"),
        (lambda f: npz(f / "e.npz", [""], [[1.0]]), "id of 0 characters"),
        (lambda f: npz(f / "e.npz", [1.5], [[1.0]]), "is no id"),
        (lambda f: npz(f / "e.npz", [], np.zeros((0, 3))), "no rows"),
        (lambda f: parquet(f / "e.parquet", ["a", "b"], [[1.0], [1.0, 2.0]]), "row 1: .* 2 num"),
        (lambda f: parquet(f / "e.parquet", ["a", "b"], [[1.0], []]), "row 1: a vector of 0"),
        (lambda f: (f / "e.parquet").write_text("x") and f / "e.parquet", "no Parquet file"),
        (lambda f: (f / "e.npz").write_text("x") and f / "e.npz", "cannot be read as npz"),
    ],
)
def test_a_bad_file_is_refused_with_where_and_what(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        check(plan(), opened(make(tmp_path)), "")


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz", ["a"], [[1.0]])
    with pytest.raises(BadInput, match="no column 'id', it has item_id, embedding"):
        EmbeddingFile(path, "id", "embedding")


def test_a_file_must_fit_the_version_it_is_loaded_as(tmp_path: Path) -> None:
    file = opened(npz(tmp_path / "e.npz", ["a"], [[1.0, 2.0]]))
    check(two_versions(), file, "")
    with pytest.raises(BadInput, match="2 numbers, and view item_embedding_v2 is declared with 5"):
        check(two_versions(), file, "v2")
    with pytest.raises(Refused, match=r"version 'v3'; the registry has \(none\), v2"):
        check(two_versions(), file, "v3")
