"""The command `train`: events, or what a ranker served, into a model folder."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from features.events import Event
    from features.spec import Plan
    from ranker.scoring.model import TrainedHead
    from ranker.training.fitting import HeadSpec
    from ranker.training.rows import RowMaker, TrainingRows
    from streaming.replay import Request, Timeline

STRONGEST = 10
DIRECTIONS = {"rises": 1, "falls": -1}
MODEL, LABELS, BOOSTING = "The model", "What is learnt from", "How it is learnt"


def train(
    file: Annotated[Path, typer.Argument(help="Events as JSON Lines, plain or gzipped.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="An action (`click`), or name=objective:action (`rank=lambdarank:click`); "
            "repeatable. Default: click and rank=lambdarank:click.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    repo: Annotated[
        Path,
        typer.Option(
            "--repo",
            envvar="HEADRACE_REPO",
            help="Feature repository.",
            rich_help_panel=MODEL,
        ),
    ] = Path("feature_repo"),
    service: Annotated[
        str, typer.Option("--service", help="Feature service.", rich_help_panel=MODEL)
    ] = "home_feed",
    from_ms: Annotated[
        int | None,
        typer.Option(
            "--from-ms",
            help="Train on requests from this instant on; what came before still makes state.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    until_ms: Annotated[
        int | None,
        typer.Option(
            "--until-ms",
            help="Train on requests before this instant only.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            help="How long after an item was shown an engagement is a label (`30m`, `1d`); newer "
            "requests, which may still be answered, are left out. Default: all that follows.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    repeats: Annotated[
        bool,
        typer.Option(
            "--repeats/--no-repeats",
            help="Whether an item shown twice under one request makes two rows.",
            rich_help_panel=LABELS,
        ),
    ] = False,
    negatives: Annotated[
        float,
        typer.Option(
            "--negatives",
            help="Share of the rows that nothing followed to learn from; each kept one weighs as "
            "many as it stands for.",
            rich_help_panel=LABELS,
        ),
    ] = 1.0,
    on_disk: Annotated[
        bool,
        typer.Option(
            "--on-disk",
            help="Keep the rows in a file beside the model while training: for more of them than "
            "memory holds.",
            rich_help_panel=LABELS,
        ),
    ] = False,
    trees: Annotated[
        int,
        typer.Option(
            "--trees", min=1, max=10_000, help="Of each booster.", rich_help_panel=BOOSTING
        ),
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", rich_help_panel=BOOSTING)] = 1,
    average: Annotated[
        int,
        typer.Option(
            "--average",
            min=1,
            max=20,
            help="Boosters of different seeds whose mean is the head; it costs as many trees.",
            rich_help_panel=BOOSTING,
        ),
    ] = 1,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=1,
            help="Stop early: trees that may follow without a gain on held-back requests.",
            rich_help_panel=BOOSTING,
        ),
    ] = None,
    held_back: Annotated[
        float,
        typer.Option(
            "--held-back",
            min=0.01,
            max=0.9,
            help="Share of the time, the newest, that judges.",
            rich_help_panel=BOOSTING,
        ),
    ] = 0.1,
    monotone: Annotated[
        list[str] | None,
        typer.Option(
            "--monotone",
            help="COLUMN=rises or COLUMN=falls: the score may only do so with it; repeatable.",
            rich_help_panel=BOOSTING,
        ),
    ] = None,
    calibration: Annotated[
        Literal["auto", "isotonic", "platt", "none"],
        typer.Option(
            "--calibration",
            help="How a binary head's scores become probabilities.",
            rich_help_panel=BOOSTING,
        ),
    ] = "auto",
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A parameter of LightGBM, NAME=VALUE (`num_leaves=31`); repeatable.",
            rich_help_panel=BOOSTING,
        ),
    ] = None,
) -> None:
    """Train a ranker: replay events on a virtual clock, learn what followed what was shown.

    Every row is read by the code that serves, with state as of its own request. What it is judged
    by is later than what it learnt from, never drawn at random.
    """
    from features.errors import BadInput
    from features.plan import FeatureRepo
    from features.tags import duration_ms
    from ranker.training.boosting import Fitting
    from ranker.training.fitting import HeadSpec, train_heads, write_model
    from ranker.training.sampling import thinned

    heads = [HeadSpec.parse(text) for text in head or ["click", "rank=lambdarank:click"]]
    fitting = Fitting(
        trees=trees,
        seed=seed,
        average=average,
        held_back=held_back,
        patience=patience,
        monotone=_directions(monotone or []),
        calibration=calibration,
        parameters=_parameters(parameter or []),
    )
    if not file.is_file():
        raise BadInput(f"no file {file}: make one with `headrace adapt`, or name another")
    try:
        window_ms = duration_ms(window) if window is not None else None
    except ValueError as error:
        raise BadInput(f"--window {window!r}: {error}") from error
    plan = FeatureRepo(repo).open().read()
    if service not in plan.services:
        raise BadInput(
            f"no feature service {service!r} in the registry: it has {', '.join(plan.services)}"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=output.parent) as scratch,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        spill = Path(scratch) / "rows" if on_disk else None
        span = _Span(from_ms, until_ms, window_ms)
        timeline, maker = _replayed(plan, service, file, span, heads, repeats, spill, bar)
        rows = maker.rows()
        if not len(rows):
            raise BadInput(f"{file} holds no impressions {span}: nothing to learn from")
        if negatives != 1.0:
            rows = thinned(rows, negatives, seed)
        tasks = {h.name: bar.add_task(f"training {h.name}", total=None) for h in heads}
        trained = train_heads(
            rows, heads, fitting, lambda name, tree: bar.update(tasks[name], completed=tree)
        )
        write_model(output, trained, rows, plan, service, timeline.events)
    _print_heads(trained, rows, timeline, output)


class _Span:
    """Which requests are learnt from."""

    def __init__(self, from_ms: int | None, until_ms: int | None, window_ms: int | None) -> None:
        self.from_ms, self.until_ms, self.window_ms = from_ms, until_ms, window_ms

    def close(self, newest_ms: int) -> None:
        """Leave out what may still be answered after the newest event there is."""
        if self.window_ms is not None:
            whole = newest_ms - self.window_ms
            self.until_ms = whole if self.until_ms is None else min(self.until_ms, whole)

    def holds(self, now: int) -> bool:
        late = self.until_ms is not None and now >= self.until_ms
        return not late and (self.from_ms is None or now >= self.from_ms)

    def __str__(self) -> str:
        after = "" if self.from_ms is None else f"from {self.from_ms} "
        return f"{after}before {self.until_ms}" if self.until_ms is not None else after


def _replayed(
    plan: "Plan",
    service: str,
    file: Path,
    span: _Span,
    heads: "list[HeadSpec]",
    repeats: bool,
    spill: Path | None,
    bar: Progress,
) -> "tuple[Timeline, RowMaker]":
    """The rows of the requests in the span, made as they would have been served."""
    from ranker.training.rows import RowMaker
    from ranker.training.sampling import once
    from streaming.attribution import attributed
    from streaming.event_file import read_events
    from streaming.replay import Timeline

    read = _Read(bar, bar.add_task(f"reading {file.name}", total=None))
    events = read.each(read_events(file))
    if span.window_ms is not None:
        events = attributed(events, span.window_ms)
    timeline = Timeline(plan, events)
    span.close(read.newest_ms)
    actions = sorted({head.action for head in heads})
    maker = RowMaker(plan, service, timeline.tables, actions, spill)
    wanted = sum(span.holds(request.now) for request in timeline.requests)
    task = bar.add_task("replaying requests", total=wanted)

    def make(request: "Request") -> None:
        if not span.holds(request.now):
            return
        items, outcomes = request.items, request.outcomes
        if not repeats:
            items, outcomes = once(items, outcomes)
        maker.add(request.now, request.user_id, request.surface, items, outcomes)
        bar.advance(task)

    timeline.run(make, span.until_ms)
    return timeline, maker


class _Read:
    """How many events were read, and the time of the newest."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self.newest_ms = 0

    def each(self, events: "Iterator[Event]") -> "Iterator[Event]":
        count = 0
        for event in events:
            count += 1
            self.newest_ms = max(self.newest_ms, event.event_time)
            if count % 5000 == 0:
                self._bar.update(self._task, completed=count)
            yield event
        self._bar.update(self._task, completed=count, total=count)


def _directions(given: list[str]) -> dict[str, int]:
    from features.errors import BadInput

    found = {}
    for text in given:
        column, _, direction = text.partition("=")
        if direction not in DIRECTIONS:
            raise BadInput(f"--monotone {text!r}: write COLUMN=rises or COLUMN=falls")
        found[column] = DIRECTIONS[direction]
    return found


def _parameters(given: list[str]) -> dict[str, Any]:
    from features.errors import BadInput

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise BadInput(f"--set {text!r}: write NAME=VALUE, as in num_leaves=31")
        if name in OWNED:
            raise BadInput(f"--set {text!r}: {OWNED[name]} decides that")
        found[name] = value
    return found


OWNED = {
    "objective": "--head",
    "seed": "--seed",
    "num_iterations": "--trees",
    "early_stopping_round": "--patience",
    "monotone_constraints": "--monotone",
    "boosting": "that a model is served as a plain sum of trees",
    "linear_tree": "that a model is served as a plain sum of trees",
}
"""Parameters of LightGBM that something else here decides, and what."""


def _print_heads(
    trained: "list[TrainedHead]", rows: "TrainingRows", timeline: "Timeline", output: Path
) -> None:
    table = Table(
        "head", "objective", "label", "held-back AUC", "request GAUC", "NDCG@10", "calibration"
    )
    for one in trained:
        figures = (one.metrics.get(f"held_back_{m}") for m in ("auc", "request_gauc", "ndcg10"))
        shown = (f"{figure:.4f}" if figure is not None else "–" for figure in figures)
        method = one.calibration.method if one.calibration else "none"
        table.add_row(one.name, one.objective, one.label, *shown, method)
    console = Console()
    console.print(table)
    for one in trained:
        strongest = sorted(one.gain.items(), key=lambda pair: -pair[1])[:STRONGEST]
        told = ", ".join(f"{name} {share:.0%}" for name, share in strongest if share > 0)
        console.print(f"{one.name} gains most by: {told or 'nothing'}")
    console.print(
        f"{len(rows):,} rows of {len(timeline.requests):,} requests × {len(rows.columns)} columns; "
        f"{timeline.repeated:,} repeated events dropped; model in {output}"
    )
