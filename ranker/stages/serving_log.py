"""The serving log: what was served, to whom, from which state, by which model."""

from typing import Any, Protocol

import numpy as np
import orjson

from ranker.stages.roles import Query, Served

FORMAT_VERSION = 3
"""1 had no `source`, `propensity`, `by_score`, `variant` and `page`; 2 had no `rows`."""


class Log(Protocol):
    """Takes records without ever blocking; what it cannot take it counts."""

    dropped: int

    def put(self, record: bytes, key: bytes) -> None: ...


class ServingLogEffect:
    """Writes one record a request: vectors as they were scored, and the marker they came from."""

    name = "serving_log"

    def __init__(self, log: Log) -> None:
        self._log = log
        self._trouble: str | None = None

    def served(self, query: Query, served: Served) -> None:
        """Queue the record of an answer."""
        content = orjson.dumps(record_of(query, served), option=orjson.OPT_SERIALIZE_NUMPY)
        before = self._log.dropped
        self._log.put(content, query.request.user_id.encode())
        lost = self._log.dropped
        self._trouble = f"full or away, {lost} records are lost" if lost > before else None

    def trouble(self) -> str | None:
        """Whether the last record was lost."""
        return self._trouble


def record_of(query: Query, served: Served) -> dict[str, Any]:
    """What the log keeps of one answer; NaN is written as null."""
    marker = None if served.user is None else served.user.marker
    return {
        "version": FORMAT_VERSION,
        "request_id": query.request_id,
        "user_id": query.request.user_id,
        "surface": query.request.surface,
        "now": query.now,
        "page": len(query.session.shown),
        "plan": served.plan,
        "model": served.model,
        "variant": served.variant,
        "user_marker": None if marker is None else marker.encode().decode(),
        "rows": None if served.read is None else served.read.told(),
        "degraded": query.degraded,
        "columns": list(served.columns),
        "items": list(served.items),
        "source": list(served.sources),
        "propensity": list(served.propensity),
        "by_score": np.ascontiguousarray(served.by_score),
        "score": np.ascontiguousarray(served.score),
        "heads": {head: np.ascontiguousarray(values) for head, values in served.heads.items()},
        "vectors": np.ascontiguousarray(served.matrix),
    }
