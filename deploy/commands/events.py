"""The commands about events: their schema, checking, adapting and sending files of them."""

import itertools
import json
import runpy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from features.events import Event
    from streaming.records import RecordSink

T = TypeVar("T")
FLUSH_EVERY = 10_000
SHOWN_STEP = 1000

app = typer.Typer(
    name="events",
    help="What an event is, and whether a file holds good ones.",
    no_args_is_help=True,
)


@app.command()
def schema() -> None:
    """Print the JSON Schema of one event."""
    from features.events import event_json_schema

    typer.echo(json.dumps(event_json_schema(), indent=2))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="JSON Lines, plain or gzipped.")],
    errors: Annotated[
        int, typer.Option("--errors", "-n", min=0, help="How many bad lines to print.")
    ] = 10,
) -> None:
    """Validate a file of events: the first bad lines with the reason, and counts by type.

    Exits with 1 if any line is bad or there is no event at all.
    """
    from features.errors import BadInput
    from features.events import BadEvent, EngagementEvent
    from streaming.event_file import read_batches

    if not file.is_file():
        raise BadInput(f"no file {file}")
    counts: Counter[tuple[str, str]] = Counter()
    bad = 0
    first: list[str] = []
    with progress(file.stat().st_size) as bar:
        task = bar.add_task(f"checking {escape(file.name)}", total=file.stat().st_size, done=0)
        for batch in read_batches(file):
            for line, event in zip(batch.lines, batch.events, strict=True):
                if isinstance(event, BadEvent):
                    bad += 1
                    if bad <= errors:
                        first.append(f"line {line}: {event.reason}")
                else:
                    action = event.action if isinstance(event, EngagementEvent) else ""
                    counts[event.type, action] += 1
            bar.update(task, completed=batch.position, done=counts.total() + bad)
    console = Console()
    for message in first:
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    if bad > errors > 0:
        console.print(f"... and {bad - errors:,} more bad lines")
    console.print(_counts_table(counts))
    console.print(f"{counts.total():,} good events, {bad:,} bad lines")
    if bad or not counts:
        raise typer.Exit(1)


def adapt(
    name: Annotated[
        str, typer.Argument(help="kuairand, ranklens, movielens, or a file of your own (NAME.py).")
    ],
    folder: Annotated[Path, typer.Argument(help="Where the data set's own files are.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write; gzipped if it ends in .gz.")
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many events.")
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="First put the data set into FOLDER (movielens).")
    ] = False,
    repo: Annotated[
        Path,
        typer.Option(
            "--repo", envvar="HEADRACE_REPO", help="Feature repository that says what counts."
        ),
    ] = Path("feature_repo"),
) -> None:
    """Turn a data set into a file of events, and say what looks wrong with them.

    An adapter of your own is one small Python file with one function,
    `events(folder: Path) -> Iterator[Event]`, that yields the classes of
    features/events.py in the order of event_time. Take
    streaming/adapters/movielens.py as the pattern, and answer in turn:

    1. What was shown? Each page or item is an ImpressionEvent: user_id,
    surface, items in their order, and a request_id for all that was
    ranked together.

    2. What was done? Each click, view, like or purchase is an
    EngagementEvent with that same request_id; its `value` is the time
    watched or the like. Give actions the names that
    feature_repo/stored.py counts: others are listed as uncounted, with
    how often they came. What people did before the records
    begin is an EngagementEvent `view` without request_id.

    3. What is known of items and users beforehand? An ItemEvent
    (author_id, categories, created_at, attributes, embedding) and a
    UserEvent each, before their first use. Outcomes never go here.

    4. Times are milliseconds UTC; an event_id is made from the fact, so
    that an exact repeat is dropped as one.

    Try it with --limit 10000, read the remarks, then go on with
    `headrace events check` and `headrace train`.
    """
    from pydantic import ValidationError

    from deploy import uncounted
    from features.errors import BadInput
    from streaming.adapters import ADAPTERS, movielens
    from streaming.adapters.review import Review
    from streaming.event_file import write_events

    adapter = _own_adapter(Path(name)) if name.endswith(".py") else ADAPTERS.get(name)
    if adapter is None:
        known = ", ".join(sorted(ADAPTERS))
        raise BadInput(f"no adapter {name!r}; there are {known}, or name a file that ends in .py")
    if fetch:
        if name != "movielens":
            raise BadInput(f"{name} cannot be fetched, only movielens; leave out --fetch")
        movielens.fetch(folder)
    review = Review()
    events = review.each(itertools.islice(adapter(folder), limit))
    with progress(None) as bar:
        task = bar.add_task(f"adapting {name}", total=None, done=0)
        try:
            count = write_events(output, counted(events, bar, task))
        except ValidationError as error:
            raise BadInput(f"{name} in {folder} holds what is no event: {error}") from error
        bar.update(task, total=count, completed=count, done=count)
    console = Console()
    console.print(f"{count:,} events written to {escape(str(output))}", soft_wrap=True)
    actions = ", ".join(f"{name} {times:,}" for name, times in review.actions.most_common())
    console.print(f"actions: {escape(actions) or 'none'}", soft_wrap=True)
    remarks = review.remarks()
    if told := uncounted.report(review.acted(), repo, _file_of(name)):
        remarks.append(told)
    for remark in remarks:
        console.print(f"[yellow]look again:[/] {escape(remark)}", soft_wrap=True)


def _file_of(adapter: str) -> str:
    """The file in which an adapter, ours or one's own, names actions."""
    return adapter if adapter.endswith(".py") else f"streaming/adapters/{adapter}.py"


def _own_adapter(file: Path) -> Callable[[Path], "Iterator[Event]"]:
    """The function `events` of a Python file."""
    from features.errors import BadInput

    if not file.is_file():
        raise BadInput(f"no file {file}")
    adapter: Callable[[Path], Iterator[Event]] | None = runpy.run_path(str(file)).get("events")
    if adapter is None:
        raise BadInput(f"{file} has no function `events(folder)`")
    return adapter


def send(
    file: Annotated[Path, typer.Argument(help="Events as JSON Lines, plain or gzipped.")],
    kafka: Annotated[
        str, typer.Option("--kafka", envvar="HEADRACE_KAFKA", help="Bootstrap servers.")
    ] = "127.0.0.1:9092",
    topic: Annotated[str, typer.Option("--topic", help="The topic to send to.")] = "events",
) -> None:
    """Send a file of events to Kafka, keyed by user or item, and wait until all are acknowledged.

    Stops at the first bad line; what is before it has been sent. TLS and SASL come from the
    HEADRACE_KAFKA_* settings.
    """
    from features.errors import BadInput
    from streaming.kafka import Broker, quiet_logs
    from streaming.settings import StreamingSettings

    if not file.is_file():
        raise BadInput(f"no file {file}")
    quiet_logs()
    sink = Broker(kafka, StreamingSettings().kafka_security()).sink()
    try:
        with progress(file.stat().st_size) as bar:
            count = send_file(file, sink, topic, bar)
    finally:
        sink.close()
    Console().print(f"{count:,} events acknowledged in topic {escape(topic)}")


def send_file(file: Path, sink: "RecordSink", topic: str, bar: Progress) -> int:
    """How many events of the file the sink acknowledged: all, or it raises."""
    from features.events import BadEvent, record_key
    from streaming.event_file import bad_line, read_batches
    from streaming.records import Outgoing

    task = bar.add_task(f"sending {escape(file.name)}", total=file.stat().st_size, done=0)
    sent = flushed = 0
    for batch in read_batches(file):
        for line, value, event in zip(batch.lines, batch.values, batch.events, strict=True):
            if isinstance(event, BadEvent):
                sink.flush()
                raise bad_line(file, line, event)
            sink.send(Outgoing(topic, record_key(event), value))
        sent += len(batch.values)
        if sent - flushed >= FLUSH_EVERY:
            sink.flush()
            flushed = sent
            bar.update(task, completed=batch.position, done=sent)
    sink.flush()
    bar.update(task, completed=file.stat().st_size, done=sent)
    return sent


class _Rate(ProgressColumn):
    """Events done, and events per second since the start."""

    def render(self, task: Task) -> Text:
        done = task.fields["done"]
        seconds = task.finished_time or task.elapsed or 0.0
        rate = f" ({done / seconds:,.0f}/s)" if seconds else ""
        return Text(f"{done:,} events{rate}")


def progress(total: int | None, console: Console | None = None) -> Progress:
    """A bar on standard error, with how many events are done."""
    share = [BarColumn(), TaskProgressColumn()] if total is not None else []
    columns = [TextColumn("{task.description}"), *share, _Rate()]
    return Progress(*columns, console=console or Console(stderr=True))


def counted(events: Iterable[T], bar: Progress, task: TaskID) -> Iterator[T]:
    """The same events, each so many of them told to the bar."""
    for done, event in enumerate(events, 1):
        yield event
        if done % SHOWN_STEP == 0:
            bar.update(task, done=done)


def _counts_table(counts: Counter[tuple[str, str]]) -> Table:
    table = Table("type", "action")
    table.add_column("events", justify="right")
    for (kind, action), count in sorted(counts.items()):
        table.add_row(escape(kind), escape(action), f"{count:,}")
    return table
