"""`headrace up`, `status`, `down`, `env`: the local stack."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from deploy import local, stack_file
from deploy.console import out, say
from features.errors import BadInput

Data = Annotated[
    Path,
    typer.Option(envvar="HEADRACE_DATA", help="Folder for the servers' data, logs and stack.json."),
]
Repo = Annotated[Path, typer.Option(envvar="HEADRACE_REPO", help="The feature repo to apply.")]
Model = Annotated[
    Path | None, typer.Option(envvar="HEADRACE_MODEL", help="The model folder the ranker loads.")
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, show_default="usual, or a free one")]

DATA = Path(".headrace")


def up(
    data: Data = DATA,
    repo: Repo = Path("feature_repo"),
    model: Model = None,
    kafka_port: Port = None,
    redis_port: Port = None,
    http_port: Port = None,
    grpc_port: Port = None,
    only_servers: Annotated[
        bool, typer.Option("--only-servers", help="Start the broker and Valkey alone.")
    ] = False,
) -> None:
    """Start the local stack: broker, Valkey, route, aggregate, ranker.

    What already runs in the data folder stays; only what is missing is started.
    """
    asked = local.Asked(
        data=data,
        repo=repo,
        model=model,
        kafka_port=kafka_port,
        redis_port=redis_port,
        http_port=http_port,
        grpc_port=grpc_port,
        workers=() if only_servers else local.WORKERS,
    )
    local.up(asked, say)
    out.print(_table(local.status(data)))
    say(f'To point a shell at it: eval "$(headrace env{_data_option(data)})"')


def status(data: Data = DATA) -> None:
    """Show what of the stack runs and answers; exit 1 if anything is down."""
    found = local.status(data)
    if not found:
        say(f"nothing runs in {data}")
        raise typer.Exit(1)
    out.print(_table(found))
    raise typer.Exit(0 if all(one.healthy for one in found) else 1)


def down(data: Data = DATA) -> None:
    """Stop the stack and leave no process behind. The data folder stays."""
    local.down(data, say)


def env(data: Data = DATA) -> None:
    """Print the stack's settings as export lines for a shell."""
    stack = stack_file.load(data.resolve())  # paths that hold wherever the shell goes
    if stack is None:
        raise BadInput(f"nothing runs in {data}: headrace up{_data_option(data)}")
    for name, value in local.settings(stack).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def _table(found: list[local.Health]) -> Table:
    table = Table("process", "pid", "port", "healthy", "since")
    for one in found:
        if one.healthy:
            healthy = "[green]yes[/]"
        else:
            healthy = "[red]does not answer[/]" if one.alive else "[red]ended[/]"
        since = datetime.fromtimestamp(one.child.started_at).astimezone()
        table.add_row(
            one.child.name,
            str(one.child.pid),
            str(one.child.port),
            healthy,
            since.isoformat(" ", "seconds"),
        )
    return table


def _data_option(data: Path) -> str:
    return "" if data == DATA else f" --data {shlex.quote(str(data))}"
