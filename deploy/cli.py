"""`headrace`: the table of contents. Each command lives in `deploy/commands/`."""

import typer

from deploy.commands import (
    archive,
    dead_letters,
    demo,
    doctor,
    embeddings,
    events,
    factors,
    kernels,
    model,
    plan,
    rank,
    replay,
    stack,
    switch,
    train,
    workers,
)
from deploy.console import Commands

app = typer.Typer(
    cls=Commands,
    help="Headrace: a feature store and streaming ranker for home feeds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # a local may be a password
)

app.command(rich_help_panel="Run")(stack.up)
app.command(rich_help_panel="Run")(stack.status)
app.command(rich_help_panel="Run")(stack.down)
app.command(rich_help_panel="Run")(stack.env)
app.command(rich_help_panel="Run")(workers.route)
app.command(rich_help_panel="Run")(workers.aggregate)
app.add_typer(archive.app, name="archive", rich_help_panel="Run")
app.command(rich_help_panel="Run")(workers.ranker)
app.command(rich_help_panel="Run")(plan.plan)
app.command(rich_help_panel="Run")(switch.switch)
app.command(rich_help_panel="Run")(doctor.doctor)
app.command("compile", rich_help_panel="Run")(kernels.compile_)

app.add_typer(events.app, name="events", rich_help_panel="Events")
app.command(rich_help_panel="Events")(events.adapt)
app.command(rich_help_panel="Events")(events.send)
app.add_typer(embeddings.app, name="embeddings", rich_help_panel="Events")
app.add_typer(dead_letters.app, name="dead-letters", rich_help_panel="Events")

app.command(rich_help_panel="Learn")(replay.replay)
app.command(rich_help_panel="Learn")(train.train)
app.add_typer(factors.app, name="factors", rich_help_panel="Learn")
app.command(rich_help_panel="Learn")(rank.rank)
app.add_typer(model.app, name="model", rich_help_panel="Learn")

app.command(rich_help_panel="Demo")(demo.demo)

if __name__ == "__main__":
    app()
