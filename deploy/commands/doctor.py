"""`headrace doctor`: whether a deployment is as it must be, and how to mend what is not."""

import json
from typing import Annotated

import typer
from rich.markup import escape

from deploy.console import out

COLOURS = {"ok": "green", "note": "yellow", "fault": "red"}


def doctor(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Look at this part alone (settings, registry, redis, kafka, model, "
            "ranker, workers); repeatable."
        ),
    ] = None,
    ranker: Annotated[
        str | None,
        typer.Option(
            envvar="HEADRACE_RANKER", help="URL of a ranker. Default: as it would listen."
        ),
    ] = None,
    worker: Annotated[
        list[str] | None,
        typer.Option(help="URL of a worker's HEADRACE_METRICS_PORT; repeatable."),
    ] = None,
    lag_records_max: Annotated[
        int, typer.Option(min=0, help="More records behind than these are worth a note.")
    ] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Look at everything that a process of these settings needs; exit 1 on a fault.

    Run it with the settings and the user of the process that is to be looked after. It changes
    nothing: no topic, no row, no offset.
    """
    import streaming.metrics  # noqa: F401 - before Feast
    from deploy.doctor.rounds import PARTS, Asked, rounds, verdict

    if unknown := set(only or ()) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(PARTS)}")
    asked = Asked(tuple(only or PARTS), ranker, tuple(worker or ()), lag_records_max)
    found = []
    for one in rounds(asked):
        found.append(one)
        if not as_json:
            mend = f" [dim]→[/] {escape(one.mend)}" if one.mend else ""
            head = f"[{COLOURS[one.level]}]{one.level:<5}[/] [bold]{escape(one.check)}[/]"
            out.print(f"{head}  {escape(one.says)}{mend}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps([one._asdict() for one in found], indent=2))
    raise typer.Exit(verdict(found))
