"""`headrace demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Leave it running at the end.")] = False,
    data: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path(
        ".headrace-demo"
    ),
    repo: Annotated[Path, typer.Option(help="Feature repository.")] = Path("feature_repo"),
) -> None:
    """The whole path on real events: stream, train, rank, click, and a picture of it."""
    import shutil

    from deploy import local
    from deploy.console import out
    from deploy.demo.run import run_demo

    local.down(data, out.print)
    for leftover in ("valkey", "registry.db", "model"):
        path = data / leftover
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    run_demo(data, repo, serve, out)
