"""The commands about embeddings, of items and of users: loading a file of them."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from features.spec import LatestField, Plan
    from streaming.embedding_file import EmbeddingFile
    from streaming.records import RecordSink

DEFAULT_VERSION = ""
FLUSH_EVERY = 5_000
Repo = Annotated[
    Path, typer.Option("--repo", envvar="HEADRACE_REPO", help="The feature repository.")
]
Kafka = Annotated[str, typer.Option("--kafka", envvar="HEADRACE_KAFKA", help="Bootstrap servers.")]
Topic = Annotated[
    str, typer.Option("--topic", help="Where events go; none: the repository's topic.")
]

app = typer.Typer(
    name="embeddings", help="Embeddings of items and users, from files.", no_args_is_help=True
)


class Whose(StrEnum):
    """Whose embeddings a file holds."""

    ITEM = "item"
    USER = "user"


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="Parquet, or npz if it ends in .npz.")],
    id_column: Annotated[
        str, typer.Option("--id", help="The column of ids; none: item_id, or user_id.")
    ] = "",
    vector_column: Annotated[
        str, typer.Option("--vector", help="The column of vectors.")
    ] = "embedding",
    version: Annotated[
        str, typer.Option("--version", help="Which embedding; none: the events' own `embedding`.")
    ] = DEFAULT_VERSION,
    whose: Annotated[
        Whose, typer.Option("--of", help="Whose they are: items' or users'.")
    ] = Whose.ITEM,
    repo: Repo = Path("feature_repo"),
    kafka: Kafka = "127.0.0.1:9092",
    topic: Topic = "",
    at_ms: Annotated[
        int | None,
        typer.Option("--at-ms", min=0, help="Event time of all of them, ms UTC; none: now."),
    ] = None,
    start: Annotated[
        int, typer.Option("--start", min=0, help="Go on at this row, counted from 0.")
    ] = 0,
) -> None:
    """Send the embeddings of a file as item or user events, and wait until all are acknowledged.

    They take the way of all events: route, aggregate, Redis; the rest of a row stays as it is.
    The whole file is checked first: one dimension, the declared one, and finite numbers. Each
    event's id is made of what it says, so a file that is sent again (after a crash, with the same
    --at-ms) changes nothing; --start saves the time.
    """
    from features.plan import FeatureRepo
    from streaming.embedding_file import EmbeddingFile
    from streaming.kafka import Broker, quiet_logs
    from streaming.settings import StreamingSettings

    plan = FeatureRepo(repo).open().read()
    found = EmbeddingFile(file, id_column or f"{whose}_id", vector_column)
    check(plan, found, version, whose)
    quiet_logs()
    at = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    console = Console(stderr=True)
    console.print(f"{found.rows:,} rows of {found.dimension} numbers; event time {at} (--at-ms)")
    sink = Broker(kafka, StreamingSettings().kafka_security()).sink()
    try:
        sent = found, version, sink, topic or plan.topic, at, start, console
        count = send_embeddings(*sent, whose)
    finally:
        sink.close()
    Console().print(f"{count:,} embeddings acknowledged in topic {escape(topic or plan.topic)}")


def check(plan: "Plan", file: "EmbeddingFile", version: str, whose: Whose = Whose.ITEM) -> None:
    """Refuse a file that the plan has no place for; reads all of it, so that none is half sent."""
    refuse_undeclared(plan, version, whose, file.dimension, str(file.path))
    for _ in file.batches():
        pass


def refuse_undeclared(plan: "Plan", version: str, whose: Whose, dimension: int, said: str) -> None:
    """Refuse vectors, of so many numbers, that no view of the plan keeps; `said` names them."""
    from features.errors import BadInput

    view, field = keeper(plan, version, whose)
    if field.dimension is not None and field.dimension != dimension:
        raise BadInput(
            f"{said}: vectors of {dimension} numbers, and view {view} is declared with "
            f"{field.dimension}: load the right file, or declare a version of its own"
        )


def keeper(plan: "Plan", version: str, whose: Whose) -> "tuple[str, LatestField]":
    """The view and the field that keep a version of embeddings; Refused when none does."""
    from features.errors import Refused

    path = f"embeddings.{version}" if version else "embedding"
    kept = plan.embeddings if whose is Whose.ITEM else plan.user_embeddings
    known = {field.path: (view, field) for view, field in kept.items()}
    if path not in known:
        names = [p.partition(".")[2] or "(none)" for p in known]
        raise Refused(
            f"no view keeps embeddings of {whose}s, version {version or '(none)'!r}; the registry "
            f"has {', '.join(names) or 'no such embeddings'}: declare a latest_view with "
            f"embedded(..., version={version!r}) and run `feast apply`, or name another --version"
        )
    return known[path]


def send_embeddings(
    file: "EmbeddingFile",
    version: str,
    sink: "RecordSink",
    topic: str,
    at_ms: int,
    start: int,
    console: Console,
    whose: Whose = Whose.ITEM,
) -> int:
    """How many embeddings the sink acknowledged: all from a row on, or it raises."""
    from deploy.commands.events import progress
    from features.events import dump_event, record_key
    from streaming.embedding_events import embedding_event
    from streaming.records import Outgoing

    sent = 0
    with progress(file.rows, console) as bar:
        task = bar.add_task(f"loading {escape(file.path.name)}", total=file.rows, done=0)
        bar.update(task, completed=start)
        acknowledged = start
        try:
            for batch in file.batches(start):
                for place, (owner, vector) in enumerate(zip(batch.ids, batch.vectors, strict=True)):
                    event = embedding_event(whose.value, owner, vector, version, at_ms)
                    sink.send(Outgoing(topic, record_key(event), dump_event(event)))
                    sent += 1
                    if sent % FLUSH_EVERY == 0:
                        sink.flush()
                        acknowledged = batch.first + place + 1
                        bar.update(task, completed=acknowledged, done=acknowledged)
            sink.flush()
            acknowledged = file.rows
        finally:
            bar.update(task, completed=acknowledged, done=acknowledged)
            if acknowledged < file.rows:
                console.print(f"go on with --start {acknowledged} --at-ms {at_ms}")
    return sent
