"""How the commands speak: where they print, in which order help lists them, how an error looks."""

import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from features.errors import HeadraceError, Refused

out = Console()
err = Console(stderr=True)

PANELS = ["Run", "Events", "Learn", "Demo"]


def say(message: str) -> None:
    """A line of progress, on stderr: stdout is for what was asked for."""
    err.print(escape(message), soft_wrap=True, highlight=False)


class Commands(TyperGroup):
    """A group that lists its commands by panel and prints our errors without a traceback."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        def panel(name: str) -> int:
            title = getattr(self.commands[name], "rich_help_panel", None)
            return PANELS.index(title) if title in PANELS else len(PANELS)

        return sorted(self.commands, key=panel)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except ValueError as error:
            from pydantic import ValidationError

            if not isinstance(error, ValidationError):
                raise
            for one in error.errors(include_url=False, include_input=False, include_context=False):
                name = "_".join(map(str, one["loc"])).upper()
                what = f"HEADRACE_{name}: {one['msg']}" if name else one["msg"]
                err.print(f"[bold red]{error.title}:[/] [red]{escape(what)}[/]", soft_wrap=True)
            sys.exit(2)
        except HeadraceError as error:
            err.print(
                f"[bold red]{type(error).__name__}:[/] [red]{escape(str(error))}[/]", soft_wrap=True
            )
            sys.exit(2 if isinstance(error, Refused) else 1)
