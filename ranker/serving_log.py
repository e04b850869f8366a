"""The serving log: what was served, to whom, from which state, by which model."""

import json
from typing import Protocol

import numpy as np

from ranker.stages import Query, Served

FORMAT_VERSION = 1


class Log(Protocol):
    """Takes records without ever blocking; what it cannot take it counts."""

    def put(self, record: bytes, key: bytes) -> None: ...


class ServingLogEffect:
    """Writes one record a request: vectors as they were scored, and the marker they came from."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def served(self, query: Query, served: Served) -> None:
        """Queue the record of an answer."""
        marker = served.user.marker
        record = {
            "version": FORMAT_VERSION,
            "request_id": query.request_id,
            "user_id": query.request.user_id,
            "surface": query.request.surface,
            "now": query.now,
            "plan": served.plan,
            "model": served.model,
            "user_marker": None if marker is None else marker.encode().decode(),
            "degraded": query.degraded,
            "columns": list(served.columns),
            "items": list(served.items),
            "score": served.score.tolist(),
            "heads": {head: values.tolist() for head, values in served.heads.items()},
            "vectors": [
                [None if np.isnan(x) else x for x in row] for row in served.matrix.tolist()
            ],
        }
        content = json.dumps(record, separators=(",", ":")).encode()
        self._log.put(content, query.request.user_id.encode())
