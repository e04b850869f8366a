"""A feature repo's settings with the local stack's addresses in them, and stock `feast apply`."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.ports import HOST
from features.errors import BadInput

APPLY_TIMEOUT_S = 180
SETTINGS = "feature_store.yaml"


def write_settings(repo: Path, target: Path, redis_port: int) -> None:
    """The repo's feature_store.yaml, with Redis as it runs here and the registry beside `target`.

    Raises BadInput when the repo has none, or it is not a mapping.
    """
    source = repo / SETTINGS
    try:
        settings: Any = yaml.safe_load(source.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{repo} is no feature repo: it has no {SETTINGS} (see --repo)") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{source} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{source} holds no settings")
    store = settings.get("online_store")
    redis = {"connection_string": f"{HOST}:{redis_port}"}
    settings["online_store"] = {**(store if isinstance(store, dict) else {"type": store}), **redis}
    registry = settings.get("registry")
    sqlite = {"registry_type": "sql", "path": f"sqlite:///{target.parent.resolve()}/registry.db"}
    settings["registry"] = {**(registry if isinstance(registry, dict) else {}), **sqlite}
    target.write_text(yaml.safe_dump(settings, sort_keys=False))


@contextlib.contextmanager
def applying(repo: Path, settings: Path, log: Path) -> Iterator[Callable[[], None]]:
    """Stock `feast apply`, running from here on; the call it gives waits for its end.

    The call raises BadInput, with the last lines of the log, when the apply failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "feast.cli.cli", "apply"],
            cwd=repo,
            env={**os.environ, "FEAST_FS_YAML_FILE_PATH": str(settings.resolve())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def wait() -> None:
        if process.wait(APPLY_TIMEOUT_S) != 0:
            tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-15:])
            raise BadInput(f"feast apply failed in {repo}:\n  {tail}")

    try:
        yield wait
    finally:
        process.kill()
        process.wait()
