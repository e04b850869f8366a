"""The pipeline: a request becomes a ranked feed. `rank` reads as the specification.

query hydrators ∥ sources → dedupe → item and cross features → filters → heads → value model
→ page → side effects
"""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY
from features.errors import HeadraceError
from features.layout import Ints
from ranker.reading import Reading
from ranker.request import Freshness, RankedItem, RankRequest, RankResponse, Reason
from ranker.stages import (
    Candidates,
    Filter,
    Query,
    Served,
    SideEffect,
    Source,
    User,
    UserHydrator,
)

log = logging.getLogger("headrace.ranker")

Mask = NDArray[np.bool_]
POPULARITY = "popularity"


class Live(Protocol):
    """How far the tables may be behind the store."""

    def staleness_ms(self) -> float:
        """Age of the oldest change that is not in the tables."""
        ...

    @property
    def degraded(self) -> str | None:
        """What is wrong with them, if anything."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """What runs, in order: composed in `ranker.wiring`."""

    live: Live
    lock: AbstractContextManager[object]
    """Held from the first look-up in the tables to the last number computed."""
    reading: Callable[[], Reading]
    """The reading that stands now; called with the lock held."""
    hydrator: UserHydrator
    sources: Sequence[Source]
    filters: Sequence[Filter]
    side_effects: Sequence[SideEffect]
    clock_ms: Callable[[], int]


class Pipeline:
    """Ranks; holds no state of its own."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    async def rank(self, request: RankRequest) -> RankResponse:
        """The feed for a request. Late or failed stages degrade and are named in the response."""
        began = time.perf_counter()
        stages = self.stages
        now = request.now if request.now is not None else stages.clock_ms()
        query = Query(request, request.request_id or uuid.uuid4().hex, now)
        with query.timed("user_row"):
            user = await self._user(query)
        with stages.lock:
            reading, user = stages.reading(), stages.hydrator.current(user)
            with query.timed("candidates"):
                candidates = self._candidates(query, reading)
            with query.timed("features"):
                matrix = self._features(query, reading, user, candidates)
            keep = self._filter(query, candidates)
            with query.timed("heads"):
                heads, score = self._score(query, reading, candidates, matrix)
            with query.timed("page"):
                order = _page(keep, score, request.limit)
                served = _served(reading, user, candidates, matrix, heads, score, order)
                items = self._items(query, reading, served, candidates, order)
        for effect in stages.side_effects:
            effect.served(query, served)
        return RankResponse(
            request_id=query.request_id,
            now=now,
            items=items,
            model=served.model,
            freshness=self._freshness(query, user),
            degraded=query.degraded,
            took_ms=(time.perf_counter() - began) * 1000,
            timings_ms=query.timings_ms if request.explain_time else None,
        )

    async def _user(self, query: Query) -> User:
        try:
            return await self.stages.hydrator.hydrate(query)
        except HeadraceError as error:
            log.warning("user row: %s", error)
            query.degraded.append(f"user_row: {error}; ranked as an unknown user")
            return self.stages.hydrator.nobody()

    def _candidates(self, query: Query, reading: Reading) -> Candidates:
        """The caller's candidates, or those of our sources; each once, in order of arrival."""
        stages, given = self.stages, query.request.candidates
        degraded = stages.live.degraded
        if degraded is not None:
            query.degraded.append(f"item_table: {degraded}")
        if given is None:
            given = [item for source in stages.sources for item in source.items(query, reading)]
        items = list(dict.fromkeys(given))
        return Candidates(items, reading.tables[ITEM_KEY].rows_of_ids(items), reading.join)

    def _features(
        self, query: Query, reading: Reading, user: User, candidates: Candidates
    ) -> Floats:
        moment = reading.join.moment(
            query.now,
            user.table,
            user.row,
            candidates.items,
            candidates.rows,
            query.request.surface,
        )
        return reading.reader.matrix(moment, user.table)

    def _filter(self, query: Query, candidates: Candidates) -> Mask:
        keep = np.ones(len(candidates), np.bool_)
        for stage in self.stages.filters:
            keep &= stage.keep(query, candidates)
        return keep

    def _score(
        self, query: Query, reading: Reading, candidates: Candidates, matrix: Floats
    ) -> tuple[dict[str, Floats], Floats]:
        if reading.heads is None:
            query.degraded.append(f"model: {reading.unfit}; ranked by popularity")
            return {}, reading.popularity.counts(candidates.rows, query.now)
        predictions = reading.heads.score(matrix)
        return predictions, reading.heads.value.value(predictions, query.request.surface)

    def _items(
        self,
        query: Query,
        reading: Reading,
        served: Served,
        candidates: Candidates,
        order: Ints,
    ) -> list[RankedItem]:
        rows = candidates.rows[order]
        authors = candidates.join.texts("author_id", rows)
        categories = candidates.join.texts("categories", rows)
        reasons: Sequence[list[Reason] | None] = [None] * len(order)
        if query.request.explain and reading.heads is not None:
            reasons = reading.heads.explainer.reasons(reading.heads.pick(served.matrix))
        features: Sequence[dict[str, float | None] | None] = [None] * len(order)
        if query.request.features:
            features = [
                {n: None if x != x else x for n, x in zip(served.columns, row, strict=True)}
                for row in served.matrix.tolist()
            ]
        return [
            RankedItem(
                item_id=item,
                position=place,
                score=float(served.score[place]),
                heads={head: float(values[place]) for head, values in served.heads.items()},
                author_id=authors[place],
                categories=[category] if (category := categories[place]) else [],
                known=bool(rows[place] >= 0),
                reasons=reasons[place],
                features=features[place],
            )
            for place, item in enumerate(served.items)
        ]

    def _freshness(self, query: Query, user: User) -> Freshness:
        updated_at = user.updated_at
        return Freshness(
            user_updated_at=updated_at,
            user_age_ms=None if updated_at is None else query.now - updated_at,
            item_staleness_ms=self.stages.live.staleness_ms(),
        )


def _page(keep: Mask, score: Floats, limit: int) -> Ints:
    """Places of the best candidates that may be shown; ties keep their order of arrival."""
    places = np.flatnonzero(keep)
    order: Ints = places[np.argsort(-score[places], kind="stable")][:limit]
    return order


def _served(
    reading: Reading,
    user: User,
    candidates: Candidates,
    matrix: Floats,
    heads: dict[str, Floats],
    score: Floats,
    order: Ints,
) -> Served:
    return Served(
        user=user,
        plan=reading.plan.version,
        columns=reading.reader.columns,
        matrix=matrix[order],
        items=[candidates.items[place] for place in order.tolist()],
        heads={head: prediction[order] for head, prediction in heads.items()},
        score=score[order],
        model=reading.heads.version if reading.heads else POPULARITY,
    )
