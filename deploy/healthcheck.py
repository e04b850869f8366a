"""`python -m deploy.healthcheck`: exit 0 if the process of this container answers, for HEALTHCHECK.

Nothing heavy is imported: it runs every few seconds.
"""

import os
import ssl
import sys
from collections.abc import Mapping

from deploy import probes

PORTS = (("HEADRACE_METRICS_PORT", 0), ("HEADRACE_HTTP_PORT", 8080))
"""A worker's, which is off by default, and the ranker's."""


def healthy(environment: Mapping[str, str]) -> bool:
    """Whether /healthz answers 200 on the port of either kind of process."""
    ports = (int(environment.get(name) or usual) for name, usual in PORTS)
    tls = _tls(environment)
    return any(port and probes.is_healthy(port, tls) for port in ports)


def _tls(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    """How to reach a port of our own: we know who is there, and show the pair that it shows."""
    certificate = environment.get("HEADRACE_TLS_CERT_FILE")
    if not certificate:
        return None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, environment.get("HEADRACE_TLS_KEY_FILE"))
    return context


if __name__ == "__main__":
    sys.exit(not healthy(os.environ))
