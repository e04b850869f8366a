"""What Feast's own test-suite is told to run against: see this folder's README.

Not a test of ours. Feast's tests import it by the name in FULL_REPO_CONFIGS_MODULE, from inside
their own tree, where `tests` is Feast's package.
"""

import importlib
import os

_files = importlib.import_module("tests.universal.feature_repos.universal.data_sources.file")

# Feast chooses the tests by this key, so our store runs those that are meant for Redis.
AVAILABLE_ONLINE_STORES = {
    "redis": (
        {
            "type": os.environ.get("ONLINE_STORE", "features.online_store.HeadraceOnlineStore"),
            "connection_string": os.environ.get("ONLINE_STORE_ADDRESS", "127.0.0.1:6379"),
        },
        None,
    )
}
AVAILABLE_OFFLINE_STORES = [("local", _files.FileDataSourceCreator)]
