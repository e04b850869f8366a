"""The commands that learn and ask: `train` and `rank`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

if TYPE_CHECKING:
    from features.events import Event
    from features.spec import Plan
    from ranker.training.fitting import HeadSpec
    from ranker.training.rows import RowMaker
    from streaming.replay import Request, Timeline

DAY_MS = 86_400_000
REASONS_SHOWN = 3


def train(
    file: Annotated[Path, typer.Argument(help="Events as JSON Lines, plain or gzipped.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="An action (`click`), or name=objective:action (`rank=lambdarank:click`); "
            "repeatable. Default: click and rank=lambdarank:click.",
        ),
    ] = None,
    until_ms: Annotated[
        int | None, typer.Option("--until-ms", help="Train on requests before this instant only.")
    ] = None,
    repo: Annotated[
        Path, typer.Option("--repo", envvar="HEADRACE_REPO", help="Feature repository.")
    ] = Path("feature_repo"),
    service: Annotated[str, typer.Option("--service", help="Feature service.")] = "home_feed",
    trees: Annotated[int, typer.Option("--trees", min=1, max=10_000)] = 300,
    seed: Annotated[int, typer.Option("--seed")] = 1,
) -> None:
    """Train a ranker: replay events on a virtual clock, learn what followed what was shown.

    Every row is read by the code that serves, with state as of its own request.
    """
    from features.errors import BadInput
    from features.plan import FeatureRepo
    from ranker.training.fitting import HeadSpec, train_heads, write_model
    from streaming.event_file import read_events

    heads = [HeadSpec.parse(text) for text in head or ["click", "rank=lambdarank:click"]]
    if not file.is_file():
        raise BadInput(f"no file {file}: make one with `headrace adapt`, or name another")
    plan = FeatureRepo(repo).open().read()
    if service not in plan.services:
        raise BadInput(
            f"no feature service {service!r} in the registry: it has {', '.join(plan.services)}"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        reading = bar.add_task(f"reading {file.name}", total=None)
        events = _counted(read_events(file), bar, reading)
        timeline, maker = _replayed(plan, service, events, until_ms, heads, bar)
        rows = maker.rows()
        if not len(rows):
            raise BadInput(f"{file} holds no impressions before {until_ms}: nothing to learn from")
        tasks = {h.name: bar.add_task(f"training {h.name}", total=trees) for h in heads}
        trained = train_heads(
            rows,
            heads,
            trees=trees,
            seed=seed,
            progress=lambda name, tree: bar.update(tasks[name], completed=tree),
        )
    write_model(output, trained, rows, plan, service, timeline.events)
    table = Table(
        "head", "objective", "label", "held-back AUC", "request GAUC", "NDCG@10", "calibration"
    )
    for one in trained:
        figures = (one.metrics.get(f"held_back_{m}") for m in ("auc", "request_gauc", "ndcg10"))
        shown = (f"{figure:.4f}" if figure is not None else "–" for figure in figures)
        calibration = one.calibration.method if one.calibration else "none"
        table.add_row(one.name, one.objective, one.label, *shown, calibration)
    console = Console()
    console.print(table)
    console.print(
        f"{len(rows):,} rows of {len(timeline.requests):,} requests × {len(rows.columns)} columns; "
        f"{timeline.repeated:,} repeated events dropped; model in {output}"
    )


def _counted(events: "Iterator[Event]", bar: Progress, task: TaskID) -> "Iterator[Event]":
    count = 0
    for event in events:
        count += 1
        if count % 5000 == 0:
            bar.update(task, completed=count)
        yield event
    bar.update(task, completed=count, total=count)


def _replayed(
    plan: "Plan",
    service: str,
    events: "Iterator[Event]",
    until_ms: int | None,
    heads: "list[HeadSpec]",
    bar: Progress,
) -> "tuple[Timeline, RowMaker]":
    """The rows of all requests before an instant, made as they would have been served."""
    from ranker.training.rows import RowMaker
    from streaming.replay import Timeline

    timeline = Timeline(plan, events)
    actions = sorted({head.action for head in heads})
    maker = RowMaker(plan, service, timeline.tables, actions)
    wanted = [r for r in timeline.requests if until_ms is None or r.now < until_ms]
    task = bar.add_task("replaying requests", total=len(wanted))

    def make(request: "Request") -> None:
        maker.add(request.now, request.user_id, request.surface, request.items, request.outcomes)
        bar.advance(task)

    timeline.run(make, until_ms)
    return timeline, maker


def rank(
    user_id: Annotated[str, typer.Argument(help="Whose feed.")],
    candidate: Annotated[
        list[str] | None, typer.Option("--candidate", "-c", help="Choose from these; repeatable.")
    ] = None,
    surface: Annotated[str, typer.Option("--surface")] = "home",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 10,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Say why: the three strongest reasons; all of them with --json."
        ),
    ] = False,
    explain_time: Annotated[
        bool, typer.Option("--explain-time", help="Say how long each stage took.")
    ] = False,
    features: Annotated[
        bool, typer.Option("--features", help="With --json: every feature of every item.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
    url: Annotated[
        str, typer.Option("--url", envvar="HEADRACE_RANKER", help="Where the ranker listens.")
    ] = "http://127.0.0.1:8080",
) -> None:
    """Ask the ranker for a feed and print it."""
    import httpx

    from deploy.ranker_link import reaching
    from features.errors import BadInput, Unavailable

    body = {
        "user_id": user_id,
        "surface": surface,
        "limit": limit,
        "candidates": candidate,
        "explain": explain,
        "explain_time": explain_time,
        "features": features,
    }
    try:
        answer = httpx.post(f"{url}/v1/rank", json=body, timeout=10.0, **reaching())
    except (httpx.HTTPError, OSError) as error:
        raise Unavailable(
            f"no ranker answers at {url} ({error}): start one with `headrace up`, or give --url"
        ) from error
    if answer.status_code != 200:
        raise BadInput(f"the ranker refused: {answer.text}")
    feed = answer.json()
    if as_json:
        typer.echo(json.dumps(feed, indent=2))
    else:
        _print_feed(feed, explain)
        if explain_time:
            _print_times(feed["timings_ms"] or {}, feed["took_ms"])


def _print_feed(feed: dict[str, Any], explain: bool) -> None:
    table = Table("#", "item", "score", "author", "why" if explain else "categories")
    for item in feed["items"]:
        strongest = (item["reasons"] or [])[:REASONS_SHOWN]
        why = "; ".join(f"{one['says']} {one['contribution']:+.2f}" for one in strongest)
        table.add_row(
            str(item["position"]),
            item["item_id"],
            f"{item['score']:.4f}",
            item["author_id"] or "",
            why if explain else ", ".join(item["categories"]),
        )
    console = Console()
    console.print(table)
    age = feed["freshness"]["user_age_ms"]
    known = "unknown user" if age is None else f"newest event of the user {_ago(age)}"
    console.print(f"model {feed['model']}; {known}; took {feed['took_ms']:.1f} ms")
    for stage in feed["degraded"]:
        console.print(f"[yellow]degraded[/] {stage}")


def _print_times(timings_ms: dict[str, float], took_ms: float) -> None:
    """Where the time of the request went, stage by stage in their order."""
    table = Table("stage", Column("ms", justify="right"), Column("share", justify="right"))
    between = max(0.0, took_ms - sum(timings_ms.values()))
    for stage, taken in {**timings_ms, "between them": between, "all": took_ms}.items():
        table.add_row(stage, f"{taken:.2f}", f"{taken / took_ms:.0%}")
    Console().print(table)


def _ago(age_ms: int) -> str:
    """An age in the unit that reads best."""
    if age_ms < 10_000:
        return f"{age_ms:,} ms ago"
    if age_ms < DAY_MS:
        return f"{age_ms / 1000:,.0f} s ago"
    return f"{age_ms / DAY_MS:,.0f} days ago"
