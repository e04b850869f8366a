"""`headrace archive`: row versions for Feast, logs for replay, and what the logs hold."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from deploy.commands.workers import ONCE_IDLE_MS, until_stopped
from deploy.console import out
from deploy.quick_start import start_quickly

if TYPE_CHECKING:
    from streaming.logs.files import LogFiles
    from streaming.logs.survey import Survey

GAPS_SHOWN = 3

app = typer.Typer(name="archive", invoke_without_command=True)

Once = Annotated[bool, typer.Option("--once", help="Stop when no record has come for 3 seconds.")]
Repo = Annotated[Path, typer.Option("--repo", envvar="HEADRACE_REPO", help="Feature repository.")]
Root = Annotated[
    str | None,
    typer.Option("--archive", help="Folder or URI (s3://…); default: the repository's archive."),
]


@app.callback()
def versions(context: typer.Context, once: Once = False) -> None:
    """Write row versions for Feast's offline store: Kafka `updates` to Parquet.

    The subcommands are about the logs themselves: what `headrace replay` reads.
    """
    if context.invoked_subcommand is not None:
        return
    start_quickly()
    import streaming.metrics  # noqa: F401 - first
    from deploy import logs
    from streaming.settings import StreamingSettings
    from streaming.wiring import run_archive

    settings = StreamingSettings()
    logs.set_up("archive", settings)
    run_archive(settings, until_stopped(), ONCE_IDLE_MS if once else None)


@app.command("log")
def log_(once: Once = False) -> None:
    """Archive the logs for replay: Kafka `events`, `rankings` and the headers of `updates`.

    They go to Parquet, by day and hour, each record once. DuckDB reads them as they are:
    SELECT type, count(*) FROM 'archive/logs/events/**/*.parquet' GROUP BY type.
    """
    start_quickly()
    import streaming.metrics  # noqa: F401 - first
    from deploy import logs
    from streaming.settings import StreamingSettings
    from streaming.wiring import run_log_archive

    settings = StreamingSettings()
    logs.set_up("archive-log", settings)
    run_log_archive(settings, until_stopped(), ONCE_IDLE_MS if once else None)


@app.command()
def show(repo: Repo = Path("feature_repo"), archive: Root = None) -> None:
    """Show what logs are archived: spans, gaps and duplicates of each partition.

    Exits with 1 if offsets are missing between two files.
    """
    from streaming.logs.survey import survey

    found = list(survey(log_files(repo, archive)))
    if not found:
        out.print("no logs are archived here: `headrace archive log` writes them")
        raise typer.Exit(1)
    out.print(_table(found))
    missing = sum(gap.last - gap.first + 1 for one in found for gap in one.gaps)
    if missing:
        out.print(f"{missing:,} offsets are missing: they were deleted before they were archived")
        raise typer.Exit(1)


@app.command()
def compact(repo: Repo = Path("feature_repo"), archive: Root = None) -> None:
    """Join the small files of every hour but a partition's newest.

    The worker does so by itself, hour by hour; this is for an archive that no worker writes any
    more. A joined file is there before its parts go.
    """
    from streaming.logs.schema import KINDS
    from streaming.logs.survey import survey

    files = log_files(repo, archive)
    joined = sum(
        files.compact(KINDS[one.kind], one.generation, one.partition, one.to_ms)
        for one in survey(files)
    )
    out.print(f"{joined:,} files were joined")


def log_files(repo: Path, archive: str | None) -> "LogFiles":
    """The archived logs of a root, or of the one that a repository names."""
    from features.plan import FeatureRepo
    from streaming.archive_folder import ArrowFolder
    from streaming.logs.files import LogFiles

    root = FeatureRepo(repo).open().archive() if archive is None else archive
    return LogFiles(ArrowFolder(root))


def _table(found: "list[Survey]") -> Table:
    table = Table("log", "life", "partition", "offsets", "appended (UTC)")
    for heading in ("files", "records", "gaps", "twice", "no event", "ids again"):
        table.add_column(heading, justify="right")
    for one in found:
        gaps = ", ".join(f"{gap.first}..{gap.last}" for gap in one.gaps[:GAPS_SHOWN])
        more = len(one.gaps) - GAPS_SHOWN
        table.add_row(
            one.kind,
            str(one.generation),
            str(one.partition),
            f"{one.first:,}..{one.last:,}",
            f"{_time(one.from_ms)} – {_time(one.to_ms)}",
            f"{one.files:,}",
            f"{one.records:,}",
            (f"{gaps} and {more} more" if more > 0 else gaps) or "none",
            f"{one.overlaps:,}",
            f"{one.faults:,}",
            f"{one.repeats:,}",
        )
    return table


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds").partition("+")[0]
