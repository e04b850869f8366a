"""The command `rank`: ask a ranker for a feed."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

DAY_MS = 86_400_000
REASONS_SHOWN = 3


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
