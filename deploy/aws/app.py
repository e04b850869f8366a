"""`cdk deploy --app "python -m deploy.aws.app SETTINGS.json"`; without CDK's command line it
writes the template to `cdk.out/`."""

import json
import os
import sys
from pathlib import Path

import aws_cdk as cdk

from deploy.aws.settings import StackSettings
from deploy.aws.stack import fill


def make_app(settings: StackSettings, folder: Path | None = None) -> tuple[cdk.App, cdk.Stack]:
    """The app with its one stack; templates go to the folder when it is synthesised."""
    flags = {"@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True}
    app = cdk.App(outdir=None if folder is None else str(folder), context=flags)
    stack = cdk.Stack(
        app,
        settings.name,
        env=cdk.Environment(account=settings.account, region=settings.region),
        description="Headrace: feature store and streaming ranker",
    )
    fill(stack, settings)
    cdk.Tags.of(app).add("project", settings.name)
    return app, stack


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else {}
    # CDK's command line says where it wants the template.
    target = None if "CDK_OUTDIR" in os.environ else Path("cdk.out")
    make_app(StackSettings(**given), target)[0].synth()
