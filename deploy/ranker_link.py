"""How the command line reaches our processes over HTTP: their authority, our pair, our token."""

import os
import ssl
from collections.abc import Mapping
from typing import Any

CA, TOKEN = "HEADRACE_RANKER_CA_FILE", "HEADRACE_RANKER_TOKEN"
CERTIFICATE, KEY = "HEADRACE_RANKER_CERT_FILE", "HEADRACE_RANKER_KEY_FILE"


def reaching(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What httpx is told beside the URL. Raises OSError for a file that is of no use."""
    file, token = environment.get(CA), environment.get(TOKEN)
    pair = environment.get(CERTIFICATE)
    found: dict[str, Any] = {}
    if file or pair:
        context = ssl.create_default_context(cafile=file)
        if pair:
            context.load_cert_chain(pair, environment.get(KEY))
        found["verify"] = context
    if token:
        found["headers"] = {"authorization": f"Bearer {token}"}
    return found
