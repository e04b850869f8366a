"""`headrace replay`: recorded events through the code that serves, and checks of what it served."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from deploy.console import err, out

if TYPE_CHECKING:
    from deploy.replaying.report import Section
    from streaming.replays.clocked import Tick
    from streaming.replays.engine import Outcome

STEP_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def replay(
    source: Annotated[
        str | None,
        typer.Argument(
            help="An archive's folder or URI, FILE.jsonl[.gz], or kafka:TOPIC[:FIRST-STOP]. "
            "Default: the archive of the repository."
        ),
    ] = None,
    repo: Annotated[
        Path, typer.Option("--repo", envvar="HEADRACE_REPO", help="Feature repository.")
    ] = Path("feature_repo"),
    state: Annotated[
        Path | None, typer.Option("--state", help="Keep the rows in this file.")
    ] = None,
    into_redis: Annotated[
        bool,
        typer.Option("--into-redis", help="Write the rows into Redis, as the project."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a replay that was broken off.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option("--speed", min=0.001, help="So many times real time; default: full speed."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option("--step", help="Stop after each such span of time (10s, 5m, 1h) for Enter."),
    ] = None,
    until_ms: Annotated[
        int | None, typer.Option("--until-ms", help="Only what was appended before this instant.")
    ] = None,
    check_state: Annotated[
        bool, typer.Option("--check-state", help="Replayed rows = rows in Redis.")
    ] = False,
    check_skew: Annotated[
        bool, typer.Option("--check-skew", help="Vectors in the serving log = replayed vectors.")
    ] = False,
    check_rank: Annotated[
        bool, typer.Option("--check-rank", help="Scores and order served = replayed.")
    ] = False,
    what_if: Annotated[
        bool,
        typer.Option(
            "--what-if",
            help="What --model, --weights, --feed, --service or --repo would make of the rankings "
            "that were served, beside what was.",
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", envvar="HEADRACE_MODEL", help="Model folder, for --check-rank and --what-if."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="For --what-if; default: value.yaml of the repository."),
    ] = None,
    feed: Annotated[
        Path | None,
        typer.Option(
            "--feed",
            help="Rules of diversity, for --what-if; default: feed.yaml of the repository.",
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            help="For --what-if: how long after an item was seen an engagement answers it (30m, "
            "1d). Default: all that follows.",
        ),
    ] = None,
    service: Annotated[str, typer.Option("--service", help="Feature service.")] = "home_feed",
    rankings: Annotated[
        int, typer.Option("--rankings", min=1, help="Check the newest so many rankings.")
    ] = 1_000,
    rows_max: Annotated[
        int, typer.Option("--rows-max", min=1_000, help="Rows held in memory.")
    ] = 1_000_000,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for replay.html and replay.json.")
    ] = None,
) -> None:
    """Replay recorded events through route and aggregate's own code, on a virtual clock.

    Without --state or --into-redis the rows live in memory and their digest is printed: the same
    events and definitions have the same digest. Checks exit with 1 when anything differs;
    --what-if compares, and says where its figures cannot be trusted.
    """
    from deploy.replaying.run import Asked, run

    asked = Asked(
        source=source,
        repo=repo,
        state=state,
        into_redis=into_redis,
        resume=resume,
        until_ms=until_ms,
        check_state=check_state,
        check_skew=check_skew,
        check_rank=check_rank,
        model=model,
        service=service,
        what_if=what_if,
        weights=weights,
        feed=feed,
        window_ms=_window_ms(window),
        rankings=rankings,
        rows_max=rows_max,
        report=report,
        tick_ms=_tick_ms(speed, step),
    )
    with _shown() as watch:
        pace = None if speed is None else _paced(speed)
        result = run(asked, watch, _stepped if step else pace)
    _print_outcome(result.outcome)
    for section in result.sections:
        _print_section(section)
    if result.report is not None:
        out.print(f"report: {result.report}", soft_wrap=True)
    if any(section.passed is False for section in result.sections):
        raise typer.Exit(1)


def _window_ms(window: str | None) -> int | None:
    from features.errors import BadInput
    from features.tags import duration_ms

    try:
        return None if window is None else duration_ms(window)
    except ValueError as error:
        raise BadInput(f"--window {window!r}: {error}") from error


def _tick_ms(speed: float | None, step: str | None) -> int | None:
    from features.errors import BadInput

    if step is None:
        return None if speed is None else max(1, round(200 * speed))
    number, unit = step[:-1], step[-1:]
    if speed is not None:
        raise BadInput("--speed and --step exclude each other")
    if unit not in STEP_MS or not number.isdigit() or not int(number):
        raise BadInput(f"--step {step}: a whole number and one of s, m, h, d, such as 5m")
    return int(number) * STEP_MS[unit]


@contextmanager
def _shown() -> "Iterator[Callable[[Outcome, int | None], None]]":
    """A progress bar of records, where anybody looks."""
    columns = (
        TextColumn("replaying"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None, done="")

        def watch(outcome: "Outcome", total: int | None) -> None:
            done = outcome.counts["records"]
            bar.update(task, total=total, completed=done, done=f"{done:,} events")

        yield watch


def _paced(speed: float) -> "Callable[[Tick], bool]":
    """Waits until real time, times `speed`, has come as far as the recorded one."""
    began: list[tuple[float, int]] = []

    def wait(tick: "Tick") -> bool:
        if not began:
            began.append((time.monotonic(), tick.end_ms))
        due = began[0][0] + (tick.end_ms - began[0][1]) / 1000 / speed
        time.sleep(max(0.0, due - time.monotonic()))
        return True

    return wait


def _stepped(tick: "Tick") -> bool:
    """Asks for Enter; `q` ends the replay where it stands."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(tick.end_ms / 1000, UTC).isoformat(" ", "seconds")
    answer: str = err.input(f"{at}: {tick.records:,} events; Enter goes on, q stops ")
    return answer.strip() != "q"


def _print_outcome(outcome: "Outcome") -> None:
    counts = outcome.counts
    out.print(
        f"{counts['records']:,} records: {counts['accepted']:,} events accepted, "
        f"{counts['repeated']:,} repeated, {counts['dead']:,} dead; {counts['updates']:,} updates, "
        f"{outcome.rows:,} rows",
        soft_wrap=True,
    )
    if outcome.cpu_s and counts["records"]:
        out.print(
            f"{counts['records'] / outcome.seconds:,.0f} events/s, "
            f"{outcome.events_per_s_per_core:,.0f} per second of a core"
        )
    out.print(f"state digest {outcome.digest}", soft_wrap=True)


def _print_section(section: "Section") -> None:
    colour = "red" if section.passed is False else "green"
    out.print(f"[{colour}]{section.name}: {section.state}[/]. {section.says}", soft_wrap=True)
    for note in section.notes:
        out.print(f"  {note}", markup=False, soft_wrap=True)
    if section.rows and section.passed is not True:
        table = Table(*section.columns)
        for row in section.rows[: 20 if section.passed is False else None]:
            table.add_row(*map(str, row))
        out.print(table)
