"""`python -m deploy.healthcheck`: exit 0 if the process of this container answers, for HEALTHCHECK.

Nothing heavy is imported: it runs every few seconds.
"""

import os
import sys
from collections.abc import Mapping

from deploy import probes

PORTS = (("HEADRACE_METRICS_PORT", 0), ("HEADRACE_HTTP_PORT", 8080))
"""A worker's, which is off by default, and the ranker's."""


def healthy(environment: Mapping[str, str]) -> bool:
    """Whether /healthz answers 200 on the port of either kind of process."""
    ports = (int(environment.get(name) or usual) for name, usual in PORTS)
    return any(port and probes.is_healthy(port) for port in ports)


if __name__ == "__main__":
    sys.exit(not healthy(os.environ))
