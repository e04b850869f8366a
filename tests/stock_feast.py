"""A feature repository seen through stock Feast, whatever online store its settings name."""

from pathlib import Path
from typing import Any

import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig

HEADRACE_ALONE = ("max_ahead_s",)
"""Settings of our online store that the stock one does not know."""


def stock_store(settings_file: Path) -> FeatureStore:
    """The store of a feature_store.yaml, with Feast's own online store on the same Redis."""
    settings: dict[str, Any] = yaml.safe_load(settings_file.read_text())
    kept = {k: v for k, v in settings["online_store"].items() if k not in HEADRACE_ALONE}
    settings["online_store"] = kept | {"type": "redis"}
    return FeatureStore(config=RepoConfig(**settings, repo_path=settings_file.parent))
