"""How the command line reaches a ranker over HTTP: its authority and our token."""

import os
import ssl
from collections.abc import Mapping
from typing import Any

CA, TOKEN = "HEADRACE_RANKER_CA_FILE", "HEADRACE_RANKER_TOKEN"


def reaching(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What httpx is told beside the URL. Raises OSError for a file that is no authority."""
    file, token = environment.get(CA), environment.get(TOKEN)
    found: dict[str, Any] = {}
    if file:
        found["verify"] = ssl.create_default_context(cafile=file)
    if token:
        found["headers"] = {"authorization": f"Bearer {token}"}
    return found
