"""The commands about model folders: versions in a registry, bringing one here, handing one on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from deploy.console import out, say

if TYPE_CHECKING:
    from ranker.scoring.model import HeadManifest

app = typer.Typer(name="model", help="Models: versions, fetch, export.", no_args_is_help=True)

Registry = Annotated[Path, typer.Argument(help="The registry: a folder of versions.")]


@app.command()
def add(
    model: Annotated[Path, typer.Argument(help="A folder that `headrace train` wrote.")],
    registry: Registry,
) -> None:
    """Keep a copy of a model as the next version of a registry."""
    from deploy.model_registry import ModelRegistry

    version = ModelRegistry(registry).add(model)
    say(f"{registry / version.name}: the model of {version.manifest.created_at.isoformat()}")


@app.command("list")
def list_(registry: Registry) -> None:
    """Show the versions of a registry: span, requests, metrics, checksum, and which one serves."""
    from deploy.model_registry import ModelRegistry

    found = ModelRegistry(registry)
    serves = found.promoted()
    table = Table("version", "made", "from ms", "to ms", "requests", "columns", "heads", "sha256")
    for one in found.versions():
        span = one.manifest.data_span
        table.add_row(
            f"{one.name} promoted" if one.name == serves else one.name,
            one.manifest.created_at.isoformat(" ", "seconds"),
            str(span.from_ms),
            str(span.to_ms),
            f"{span.requests:,}",
            str(len(one.manifest.features)),
            "; ".join(_judged(head) for head in one.manifest.heads),
            one.sha256[:12],
        )
    out.print(table)


@app.command()
def promote(
    registry: Registry,
    version: Annotated[str, typer.Argument(help="Its number; default: the newest.")] = "latest",
) -> None:
    """Let a version serve: `REGISTRY/promoted`, which HEADRACE_MODEL names, leads to it."""
    from deploy.model_registry import PROMOTED, ModelRegistry

    promoted = ModelRegistry(registry).promote(version)
    say(f"{registry / PROMOTED} is version {promoted.name}: start the ranker again to serve it")


def _judged(head: "HeadManifest") -> str:
    auc = head.metrics.get("held_back_auc")
    return head.name if auc is None else f"{head.name} AUC {auc:.4f}"


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, or another URI.")],
    folder: Annotated[Path, typer.Argument(help="Where it is put; what is there is replaced.")],
) -> None:
    """Copy a model folder from an object store, and check that it loads."""
    from deploy.model_folder import fetch as fetch_model

    say(f"{folder}: the model of {fetch_model(source, folder)}")


@app.command()
def export_sagemaker(
    model: Annotated[Path, typer.Argument(help="A folder that `headrace train` wrote.")],
    archive: Annotated[Path, typer.Argument(help="NAME.tar.gz; its name is the TargetModel.")],
    weights: Annotated[
        Path, typer.Option("--weights", help="YAML of head weights, as the ranker reads.")
    ] = Path("feature_repo/value.yaml"),
) -> None:
    """Write a model for a SageMaker multi-model endpoint, with its inference handler."""
    from deploy.sagemaker.export import export
    from ranker.scoring.value import read_weights

    say(f"{export(model, read_weights(weights), archive)} goes below the endpoint's model prefix")
