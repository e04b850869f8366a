"""`headrace switch`: let a project that was filled beside take over from the one that serves."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.console import out


def switch(
    to: Annotated[
        Path | None, typer.Argument(help="The repository of the project that takes over.")
    ] = None,
    repo: Annotated[
        Path, typer.Option("--repo", envvar="HEADRACE_REPO", help="The one the rankers were given.")
    ] = Path("feature_repo"),
    back: Annotated[
        bool, typer.Option("--back", help="Go back to the project of the rankers' own repository.")
    ] = False,
) -> None:
    """Let every ranker read the rows of another project, at once; --back undoes it.

    Rankers follow within HEADRACE_PLAN_REFRESH_MS, when they have loaded its rows; until then the
    old rows serve. Stock Feast clients follow their own feature_store.yaml.
    """
    from features.errors import BadInput, Refused
    from features.plan import FeatureRepo
    from ranker.switching import take_over
    from streaming.settings import StreamingSettings
    from streaming.wiring import open_store

    if (to is None) != back:
        raise BadInput("name the repository that takes over, or --back, and not both")
    settings = StreamingSettings()
    served = FeatureRepo(repo).open().read()
    other = None if to is None else FeatureRepo(to).open().read()
    if other is not None and other.project == served.project:
        raise BadInput(
            f"both repositories are of project {served.project!r}: give one another name"
        )
    if other is not None:
        store = open_store(settings, other.project)
        try:
            filled = any(next(store.every(e.join_key, 1_000), None) for e in other.entities)
        finally:
            store.close()
        if not filled:
            raise Refused(
                f"project {other.project!r} has no rows: fill it first, "
                f"`headrace replay --repo {to} --into-redis`"
            )
    store = open_store(settings, served.project)
    try:
        take_over(store, other)
    finally:
        store.close()
    now = served.project if other is None else other.project
    out.print(f"rankers of project {served.project!r} read project {now!r} from now on")
