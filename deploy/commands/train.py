"""The command `train`: events, or what a ranker served, into a model folder."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from deploy.training.made import Made
    from ranker.scoring.model import TrainedHead
    from ranker.training.rows import TrainingRows
    from streaming.logs.files import LogFiles

STRONGEST = 10
DIRECTIONS = {"rises": 1, "falls": -1}
MODEL, LABELS, BOOSTING = "The model", "What is learnt from", "How it is learnt"
WHERE = "Where it is learnt"


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="Events as JSON Lines, plain or gzipped; with --from-rankings an archive's folder "
            "or URI, by default the repository's."
        ),
    ] = None,
    from_rankings: Annotated[
        bool,
        typer.Option(
            "--from-rankings",
            help="Learn from what was served: vectors of the archived serving log, joined with "
            "what followed.",
        ),
    ] = False,
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
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            metavar="ADDRESS",
            help="Train on all workers of this Dask scheduler (`tcp://HOST:8786`).",
            rich_help_panel=WHERE,
        ),
    ] = None,
    dask_workers: Annotated[
        int | None,
        typer.Option(
            "--dask-workers",
            min=1,
            max=64,
            help="Train on so many workers of Dask, started on this machine for the time.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    dask_timeout: Annotated[
        str | None,
        typer.Option(
            "--dask-timeout",
            help="How long the cluster may give no sign, no tree included, before training is "
            "given up (`30s`, `1h`). Default: 5m.",
            rich_help_panel=WHERE,
        ),
    ] = None,
) -> None:
    """Train a ranker: learn what followed what was shown.

    Events are replayed on a virtual clock: every row is read by the code that serves, with state
    as of its own request; --from-rankings takes rows as they were served. What a model is judged
    by is later than what it learnt from, never drawn at random.
    """
    from dataclasses import replace

    from deploy.training.ground import ground
    from deploy.training.made import Span
    from deploy.training.replayed import replayed
    from deploy.training.served import served
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
    if repeats and from_rankings:
        raise BadInput("--repeats is of events: under --from-rankings an item makes one row")
    try:
        window_ms = duration_ms(window) if window is not None else None
    except ValueError as error:
        raise BadInput(f"--window {window!r}: {error}") from error
    plan = FeatureRepo(repo).open().read()
    if service not in plan.services:
        raise BadInput(
            f"no feature service {service!r} in the registry: it has {', '.join(plan.services)}"
        )
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=output.parent) as scratch,
        Progress(*shown, console=Console(stderr=True)) as bar,
        ground(dask, dask_workers, dask_timeout) as where,
    ):
        where.refuse(fitting.parameters)
        fitting = replace(fitting, workers=where.workers)
        spill = Path(scratch) / "rows" if on_disk else None
        span = Span(from_ms, until_ms, window_ms)
        actions = sorted({head.action for head in heads})
        if from_rankings:
            files, name = _archive(source, repo)
            columns = [column for column, _ in plan.service_features(service)]
            made = served(files, name, columns, span, actions, spill, bar)
        else:
            made = replayed(plan, service, _events(source), span, actions, repeats, spill, bar)
        rows = made.rows
        if not len(rows):
            raise BadInput(
                f"{source or 'the archive'} holds no impressions {span}: nothing to learn from"
                f" ({made.says})"
            )
        if negatives != 1.0:
            rows = thinned(rows, negatives, seed)
        tasks = {h.name: bar.add_task(f"training {h.name}", total=None) for h in heads}
        trained = train_heads(
            rows,
            heads,
            fitting,
            lambda name, tree: bar.update(tasks[name], completed=tree),
            where,
        )
        write_model(output, trained, rows, plan, service, made.events, fitting)
    _print_heads(trained, rows, made, output)


def _events(source: str | None) -> Path:
    from features.errors import BadInput

    if source is None or not Path(source).is_file():
        raise BadInput(f"no file {source}: make one with `headrace adapt`, or name another")
    return Path(source)


def _archive(source: str | None, repo: Path) -> "tuple[LogFiles, str]":
    """The archived logs to learn from, and their name."""
    from features.plan import FeatureRepo
    from streaming.archive_folder import ArrowFolder
    from streaming.logs.files import LogFiles

    name = FeatureRepo(repo).open().archive() if source is None else source
    return LogFiles(ArrowFolder(name)), name


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
    trained: "list[TrainedHead]", rows: "TrainingRows", made: "Made", output: Path
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
        f"{len(rows):,} rows of {made.requests:,} requests × {len(rows.columns)} columns; "
        f"{made.says}; model in {output}"
    )
