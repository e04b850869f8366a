"""The serving log: what was served, to whom, from which state, by which model."""

from typing import Any, Protocol

import mmh3
import numpy as np
import orjson

from ranker.cursor import unseen
from ranker.stages.roles import Query, Served

FORMAT_VERSION = 4
"""1 had no `source`, `propensity`, `by_score`, `variant` and `page`; 2 had no `rows`; 3 had no
`limit` and `among`."""


class Log(Protocol):
    """Takes records without ever blocking; what it cannot take it counts."""

    dropped: int

    def put(self, record: bytes, key: bytes) -> None: ...


class ServingLogEffect:
    """Writes one record a request: vectors as they were scored, and the marker they came from.

    Of a share of the requests, drawn by their id, the record keeps all candidates.
    """

    name = "serving_log"

    def __init__(self, log: Log, candidates_share: float = 1.0) -> None:
        self._log, self._share = log, candidates_share
        self._trouble: str | None = None

    def served(self, query: Query, served: Served) -> None:
        """Queue the record of an answer."""
        record = record_of(query, served, drawn(query.request_id, self._share))
        content = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
        before = self._log.dropped
        self._log.put(content, query.request.user_id.encode())
        lost = self._log.dropped
        self._trouble = f"full or away, {lost} records are lost" if lost > before else None

    def trouble(self) -> str | None:
        """Whether the last record was lost."""
        return self._trouble


def drawn(request_id: str, share: float) -> bool:
    """Whether a request is of the share whose candidates are kept; of one id always the same."""
    return mmh3.hash(request_id, signed=False) < share * 2**32


def record_of(query: Query, served: Served, whole: bool = True) -> dict[str, Any]:
    """What the log keeps of one answer, with all candidates if it is to be whole; NaN is null."""
    marker = None if served.user is None else served.user.marker
    among, read = (_among(query), _read(query)) if whole and served.read else (None, served.read)
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
        "rows": None if read is None else read.told(),
        "limit": query.request.limit,
        "among": among,
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


def _among(query: Query) -> dict[str, Any] | None:
    """The candidates that might have been shown, in the order in which they came."""
    candidates, places = query.candidates, _kept(query)
    if candidates is None:
        return None
    items = [candidates.items[place] for place in places]
    propensity = candidates.propensity
    return {
        "items": items,
        "source": [candidates.source_of(place) for place in places],
        "propensity": [None if propensity is None else float(propensity[p]) for p in places],
        "shown": np.flatnonzero(~unseen(query.session.shown, items)).tolist(),
    }


def _read(query: Query) -> Any:
    return query.read.of(np.array(_kept(query), np.int64))


def _kept(query: Query) -> list[int]:
    return [] if query.keep is None else np.flatnonzero(query.keep).tolist()
