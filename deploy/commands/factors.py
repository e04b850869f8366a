"""The commands about factors: what users and items add to the odds of a click, learnt nightly."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deploy.commands.embeddings import (
    FLUSH_EVERY,
    Kafka,
    Repo,
    Topic,
    Whose,
    keeper,
    refuse_undeclared,
)

if TYPE_CHECKING:
    from deploy.training.factored import InForce, Told
    from ranker.training.factors.sightings import Lesson

ANSWERS = "impression=click,view=long_view"
Answers = Annotated[
    str,
    typer.Option(
        "--answers",
        help="How items are seen and what answers it: SEEN=ACTION, by commas. `impression` is a "
        "shown item; another is an action without a request, as of a history.",
    ),
]
EmbeddingOption = Annotated[
    str, typer.Option("--embedding", help="Version of the items' embedding; none: their own.")
]
VersionOption = Annotated[str, typer.Option("--version", help="The version factors are sent as.")]
Offset = Annotated[
    float,
    typer.Option("--utc-offset-hours", min=-24, max=24, help="Of the clock that strikes midnight."),
]
SightingsMax = Annotated[
    int, typer.Option("--sightings-max", min=1, help="Refuse more; each takes 50 bytes of memory.")
]
OwnersMax = Annotated[
    int, typer.Option("--owners-max", min=1, help="Refuse more items, or users, than this.")
]
Least = Annotated[
    float,
    typer.Option("--least", min=0, help="Send what has moved further than this, in log-odds."),
]

app = typer.Typer(
    name="factors",
    help="Factors: what users and items add to the odds of an answer, learnt each night.",
    no_args_is_help=True,
)


@app.command()
def learn(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for items.parquet and users.parquet.")
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            help="An archive's folder or URI, FILE.jsonl[.gz], or kafka:TOPIC. Default: the "
            "archive of the repository."
        ),
    ] = None,
    repo: Repo = Path("feature_repo"),
    until_ms: Annotated[
        int | None,
        typer.Option("--until-ms", min=0, help="Only events before it; none: the last midnight."),
    ] = None,
    from_ms: Annotated[
        int, typer.Option("--from-ms", min=0, help="Only what was seen since; items count anyway.")
    ] = 0,
    utc_offset_hours: Offset = 0.0,
    answers: Answers = ANSWERS,
    embedding: EmbeddingOption = "",
    version: VersionOption = "factors",
    least: Least = 0.02,
    sightings_max: SightingsMax = 100_000_000,
    owners_max: OwnersMax = 5_000_000,
    send: Annotated[
        bool, typer.Option("--send", help="Send what has changed since the folder was written.")
    ] = False,
    kafka: Kafka = "127.0.0.1:9092",
    topic: Topic = "",
    at_ms: Annotated[
        int | None,
        typer.Option("--at-ms", min=0, help="Event time of what is sent, ms UTC; none: now."),
    ] = None,
) -> None:
    """Learn factors from everything that was seen before an instant, by default before the last
    midnight, and write a vector for each item and user; with --send, send what changed as events.

    With --send the folder says what was sent last, and is written when all is acknowledged: what
    is broken off is sent again. The same events give the same bytes.
    """
    from deploy.commands.events import counted, progress
    from deploy.replaying.source import events_of as recorded_events
    from deploy.replaying.source import log_files, recorded
    from deploy.training.factored import InForce, Nights, before, last_midnight
    from features.errors import BadInput
    from features.plan import FeatureRepo
    from ranker.training.factors.learning import learn as learnt
    from ranker.training.factors.sightings import Sightings
    from streaming.settings import StreamingSettings

    lesson = _lesson(answers, embedding, version, (sightings_max, owners_max))
    nights = Nights(lesson, version=version, utc_offset_hours=utc_offset_hours, least=least)
    now_ms = time.time_ns() // 1_000_000
    until = last_midnight(now_ms, nights) if until_ms is None else until_ms
    opened = FeatureRepo(repo).open()
    plan = opened.read() if send else None
    if plan is not None:  # before the minutes that learning may take
        for whose in Whose:
            keeper(plan, version, whose)
    force = _in_force(output) if send else InForce()
    seen = Sightings(lesson)
    settings = StreamingSettings(repo=repo)
    files = log_files(source, opened.archive)
    events = recorded_events(recorded(source, files, settings), settings.dedup_horizon_offsets)
    with progress(None) as bar:
        reading = bar.add_task(escape(source or "the archive"), total=None, done=0)
        for event in before(counted(events, bar, reading), from_ms, until):
            seen.add(event)
    if not len(seen):
        raise BadInput(
            f"{source or 'the archive of the repository'} tells of nothing that was seen before "
            f"{until}, by {answers}: look at --until-ms, --from-ms and --answers"
        )
    factors = learnt(seen.sighted(), nights.rates)
    news = force.news(factors, least)
    if plan is not None:
        for one in news:
            dimension = one.vectors.shape[1]
            refuse_undeclared(plan, version, Whose(one.whose), dimension, "what was learnt")
        at = now_ms if at_ms is None else at_ms
        _send(news, version, kafka, topic or plan.topic, at)
    for one in news:
        force.take(one)
    _write(output, [force.of("item"), force.of("user")])
    counts = {one.whose: len(one.ids) for one in news}
    told = f"; sent {counts['item']:,} and {counts['user']:,} of them" if send else ""
    Console().print(
        f"{len(seen):,} sightings before {until}: {len(factors.items):,} items and "
        f"{len(factors.users):,} users in {escape(str(output))}{told}",
        soft_wrap=True,
    )


@app.command()
def backfill(
    events: Annotated[Path, typer.Argument(help="Events in order of time, JSON Lines, or .gz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The same events and factors.")],
    from_ms: Annotated[
        int, typer.Option("--from-ms", min=0, help="No factors before this midnight.")
    ] = 0,
    utc_offset_hours: Offset = 0.0,
    answers: Answers = ANSWERS,
    embedding: EmbeddingOption = "",
    version: VersionOption = "factors",
    least: Least = 0.02,
    sightings_max: SightingsMax = 100_000_000,
    owners_max: OwnersMax = 5_000_000,
) -> None:
    """Write events with the factors that `learn` would have sent at each midnight, had it run: to
    train on. Those of a midnight know what came before it and nothing else."""
    from deploy.commands.events import counted, progress
    from deploy.training.factored import Nights, with_factors
    from features.errors import BadInput
    from streaming.event_file import read_events, write_events

    if output.resolve() == events.resolve():
        raise BadInput(f"{output} is the file that is read: name another")
    lesson = _lesson(answers, embedding, version, (sightings_max, owners_max))
    nights = Nights(
        lesson,
        version=version,
        utc_offset_hours=utc_offset_hours,
        from_ms=from_ms,
        least=least,
    )
    with progress(None) as bar:
        reading = bar.add_task(escape(str(events)), total=None, done=0)
        read = counted(read_events(events), bar, reading)
        count = write_events(output, with_factors(read, nights))
    Console().print(f"{count:,} events in {escape(str(output))}")


def _lesson(answers: str, embedding: str, version: str, most: tuple[int, int]) -> "Lesson":
    """What is to be learnt; `most`: sightings, and items or users."""
    from features.errors import BadInput
    from ranker.training.factors.sightings import Lesson

    known = {}
    for text in answers.split(","):
        seen, equals, action = (part.strip() for part in text.partition("="))
        if not equals or not seen or not action:
            raise BadInput(f"--answers {text!r}: write SEEN=ACTION, as in {ANSWERS}")
        known[seen] = action
    if version in ("", embedding):
        raise BadInput(f"--version {version!r}: factors need a version of their own")
    path = f"embeddings.{embedding}" if embedding else "embedding"
    return Lesson(known, path, sightings_max=most[0], owners_max=most[1])


def _in_force(folder: Path) -> "InForce":
    """What the files of a folder say was sent last; nothing when there are none."""
    from deploy.training.factored import InForce, Told
    from streaming.embedding_file import EmbeddingFile

    force = InForce()
    for whose in ("item", "user"):
        path = folder / f"{whose}s.parquet"
        if path.is_file():
            for batch in EmbeddingFile(path, f"{whose}_id", "embedding").batches():
                force.take(Told(whose, batch.ids, batch.vectors))
    return force


def _write(folder: Path, sides: "list[Told]") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for side in sides:
        vectors = pa.FixedSizeListArray.from_arrays(side.vectors.ravel(), side.vectors.shape[1])
        table = pa.table({f"{side.whose}_id": side.ids, "embedding": vectors})
        part = folder / f".{side.whose}s.parquet.part"
        pq.write_table(table, part)
        part.replace(folder / f"{side.whose}s.parquet")


def _send(news: "list[Told]", version: str, kafka: str, topic: str, at_ms: int) -> None:
    """Send them, and wait until all are acknowledged."""
    from deploy.training.factored import events_of
    from features.events import dump_event, record_key
    from streaming.kafka import Broker, quiet_logs
    from streaming.records import Outgoing
    from streaming.settings import StreamingSettings

    quiet_logs()
    sink = Broker(kafka, StreamingSettings().kafka_security()).sink()
    try:
        for one in news:
            for count, event in enumerate(events_of(one, version, at_ms), 1):
                sink.send(Outgoing(topic, record_key(event), dump_event(event)))
                if count % FLUSH_EVERY == 0:
                    sink.flush()
        sink.flush()
    finally:
        sink.close()
