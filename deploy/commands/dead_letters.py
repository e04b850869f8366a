"""`headrace dead-letters`: what could not be folded, and sending it back once it can."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from deploy.console import out, say

if TYPE_CHECKING:
    from streaming.dead_letters import DeadLetter
    from streaming.records import RecordSink

FIRST_BYTES = 48
FLUSH_EVERY = 500
Scan = Callable[[], Iterator["DeadLetter"]]

app = typer.Typer(
    name="dead-letters",
    help="Records that could not be folded: why, and how to send them back.",
    no_args_is_help=True,
)

Reason = Annotated[
    str | None, typer.Option("--reason", help="Only those whose reason contains this text.")
]


@app.command("list")
def list_(
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="How many to print, newest last.")
    ] = 20,
    reason: Reason = None,
) -> None:
    """Print the newest dead letters, and how many there are of each reason."""
    scan, _ = _connected()
    newest: deque[DeadLetter] = deque(maxlen=limit)
    counts: Counter[str] = Counter()
    for letter in scan():
        if _chosen(letter, reason):
            newest.append(letter)
            counts[letter.reason] += 1
    if not counts:
        say("no dead letters" + (f" with {reason!r} in their reason" if reason else ""))
        return
    if newest:
        out.print(_letters(newest))
    out.print(_reasons(counts))


@app.command()
def redrive(
    reason: Reason = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
) -> None:
    """Send dead letters back to the topics they came from, bytes and keys as they were.

    They stay among the dead letters too: the topic is a log. A record that is still bad is
    refused again; an event that was folded since by another way is dropped as a repeat, while
    its id is within the horizon of `route`.
    """
    from features.errors import BadInput

    if everything == (reason is not None):
        raise BadInput("say which dead letters: either --reason TEXT or --all")
    scan, open_sink = _connected()
    if dry_run:
        sent = Counter(letter.topic for letter in scan() if _chosen(letter, reason))
    else:
        sink = open_sink()
        try:
            sent = send_back(scan, reason, sink)
        finally:
            sink.close()
    if not sent:
        say("no dead letters fit: nothing is sent")
    for topic, count in sorted(sent.items()):
        verb = "would be sent" if dry_run else "sent"
        out.print(f"{count:,} records {verb} back to topic {escape(topic)}", highlight=False)


def send_back(scan: Scan, reason: str | None, sink: "RecordSink") -> Counter[str]:
    """Send the chosen dead letters to their topics, acknowledged; returns how many, by topic.

    Two passes: what is still bad comes back while we send, and must not be sent again.
    """
    from streaming.records import Outgoing

    wanted = {_origin(letter) for letter in scan() if _chosen(letter, reason)}
    sent: Counter[str] = Counter()
    for letter in scan():
        if not wanted:
            break
        if _origin(letter) not in wanted:
            continue
        wanted.remove(_origin(letter))
        sink.send(Outgoing(letter.topic, letter.key, letter.value))
        sent[letter.topic] += 1
        if sent.total() % FLUSH_EVERY == 0:
            sink.flush()
    sink.flush()
    return sent


def _connected() -> tuple[Scan, Callable[[], "RecordSink"]]:
    """How to read all dead letters, each once, and to open a sink, by the settings."""
    from streaming.dead_letters import distinct, read_dead_letter
    from streaming.kafka import Broker, quiet_logs
    from streaming.settings import StreamingSettings

    quiet_logs()
    settings = StreamingSettings()
    broker = Broker(settings.kafka, settings.kafka_security())
    topic = settings.dead_letters_topic
    return lambda: distinct(map(read_dead_letter, broker.scan(topic))), broker.sink


def _chosen(letter: "DeadLetter", reason: str | None) -> bool:
    return reason is None or reason.casefold() in letter.reason.casefold()


def _origin(letter: "DeadLetter") -> tuple[str, int, int]:
    return (letter.topic, letter.partition, letter.offset)


def _letters(letters: "deque[DeadLetter]") -> Table:
    table = Table("topic", "partition", "offset", "when", "reason", "first bytes")
    for letter in letters:
        when = datetime.fromtimestamp(letter.append_time / 1000, UTC).isoformat(" ", "seconds")
        table.add_row(
            escape(letter.topic),
            str(letter.partition),
            str(letter.offset),
            when,
            escape(_printable(letter.reason)),
            escape(_printable(letter.value[:FIRST_BYTES].decode(errors="replace"))),
        )
    return table


def _reasons(counts: Counter[str]) -> Table:
    table = Table("reason")
    table.add_column("records", justify="right")
    for text, count in counts.most_common():
        table.add_row(escape(_printable(text)), f"{count:,}")
    table.add_section()
    table.add_row("all", f"{counts.total():,}")
    return table


def _printable(text: str) -> str:
    """Text from a stranger, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "·" for c in text)
