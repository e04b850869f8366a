"""The commands about model folders: bringing one here, handing one on."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.console import say

app = typer.Typer(name="model", help="Model folders: fetch, export.", no_args_is_help=True)


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
