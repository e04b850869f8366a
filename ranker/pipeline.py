"""The pipeline: a request becomes a ranked feed. `_ranked` reads as the specification.

query hydrators ∥ sources → dedupe → item and cross features → filters → heads → value model
→ diversity → page → side effects
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY
from features.errors import HeadraceError
from features.layout import Ints
from ranker.cursor import first, unseen
from ranker.deadline import GivenUp, Timing, attempt, told
from ranker.reading import Reading
from ranker.request import RankRequest, RankResponse, Reason
from ranker.rules import Rules
from ranker.stages.diversity import reach, varied
from ranker.stages.effects import Effects
from ranker.stages.feed import Answer, Ranked, answer_of, popular_answer
from ranker.stages.filters import BlockedAuthorFilter, related_texts
from ranker.stages.gathering import joined
from ranker.stages.last_resort import Popular
from ranker.stages.roles import (
    GIVEN,
    Candidates,
    Filter,
    Mask,
    Query,
    SideEffect,
    Source,
    Sourced,
    User,
    UserHydrator,
)
from ranker.stages.rows_read import rows_read
from ranker.workers import Workers

T = TypeVar("T")

log = logging.getLogger("headrace.ranker")

POPULAR: Final = "popular"
"""The source that is asked when no other brought anything."""


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
    """Held while tables are looked at. What a row number is about may change in between."""
    reading: Callable[[], Reading]
    """The reading that stands now; called with the lock held."""
    hydrator: UserHydrator
    sources: Sequence[Source]
    filters: Sequence[Filter]
    side_effects: Sequence[SideEffect]
    clock_ms: Callable[[], int]
    rules: Callable[[], Rules] = Rules
    popular: Callable[[], Popular] = Popular
    """What is popular, as it was seen lately: for when there is no time to look."""
    observe: Callable[[Query], None] = lambda _: None
    """Told of every query just before its answer is given; must neither block nor fail."""
    precedence: AbstractContextManager[object] = field(default_factory=nullcontext)
    """Held from a request's arrival to its answer: work in the background stands back."""
    deadline_ms: int = 10_000
    """For requests that name none; budgets are made for it."""
    user_row_ms: float = 1_000.0
    """What the user's row may take of such a request."""
    workers: int = 4
    """Requests that are computed at a time; the tables are looked at by one of them at a time."""


@dataclass
class Pipeline:
    """Ranks; holds nothing of what it ranked. `close` it."""

    stages: Stages
    _workers: Workers = field(init=False)
    _effects: Effects = field(init=False)

    def __post_init__(self) -> None:
        self._workers = Workers(self.stages.workers, "rank")
        self._effects = Effects(self.stages.side_effects)

    async def rank(self, request: RankRequest) -> RankResponse:
        """The feed for a request, within its deadline.

        Late or failed stages degrade and are named in the response.
        """
        with self.stages.precedence:
            return await self._rank(self._query(request))

    async def _rank(self, query: Query) -> RankResponse:
        try:
            async with asyncio.timeout(max(query.timing.left_ms(), 0) / 1000):
                query.stored = await self._fetched(query)
                answer = await self._workers.submit(self._ranked, query)
        except Exception as error:  # noqa: BLE001 - no fault of a stage costs the feed
            answer = self._last_resort(query, told(query.timing.stage, error))
        finally:
            query.timing.given_up = True
        if query.request.explain_time:
            answer.response.timings_ms = dict(query.timings_ms)
        self.stages.observe(query)
        # After the answer: their thread would take the interpreter from who passes it on.
        asyncio.get_running_loop().call_soon(self._effects.put, query, answer.served)
        return answer.response

    @property
    def dropped(self) -> int:
        """Answers whose side effects were left out: too many waited."""
        return self._effects.dropped

    def drain(self) -> None:
        """Wait until the side effects of all answers so far are done."""
        self._effects.drain()

    def close(self) -> None:
        """End the threads, side effects first."""
        self._effects.close()
        self._workers.shutdown()

    def _query(self, request: RankRequest) -> Query:
        session, usual, now = request.session(), self.stages.deadline_ms, request.now
        if now is None:
            now = self.stages.clock_ms() if session is None else session.now
        deadline = request.deadline_ms or usual
        timing = Timing(deadline, min(1.0, deadline / usual))
        session = first(now) if session is None else session
        query = Query(request, request.request_id or uuid.uuid4().hex, now, session, timing)
        query.degraded += self._effects.trouble()
        return query

    async def _fetched(self, query: Query) -> Any:
        """The user's row as it is stored."""
        timing, began, found = query.timing, time.perf_counter(), None
        timing.stage = "user_row"
        try:
            async with asyncio.timeout(timing.user_row_ms(self.stages.user_row_ms) / 1000):
                found = await self.stages.hydrator.fetch(query)
        except Exception as error:  # noqa: BLE001 - the stage boundary
            why = told("user_row", error)
            query.degraded.append(f"user_row: {why}; ranked as an unknown user")
        timing.note("user_row", began)
        timing.stage = "waiting"
        return found

    def _ranked(self, query: Query) -> Answer:
        """What the specification says, stage by stage; on a thread of its own."""
        lock, began = self.stages.lock, time.perf_counter()
        with lock:
            query.timing.note("waiting", began)
            reading = self.stages.reading()
            query.user = self._user(query)
            query.candidates = candidates = self._candidates(query, reading, query.user)
            matrix = self._features(query, candidates, query.user)
            query.keep = self._kept(query, candidates)
        places = np.flatnonzero(query.keep)
        heads = self._heads(query, reading, matrix, places)
        utility = self._value(query, reading, heads)
        with lock:
            if utility is None:
                utility = self._popularity(query, candidates, places), {}
            score, weights = utility
            best = np.argsort(-score, kind="stable")
            order = self._varied(query, candidates, places[best], score[best])
        page, more = self._page(query, candidates, places, best[order])
        reasons = self._reasons(query, reading, matrix, places[page], weights)
        ranked = Ranked(candidates, matrix, places, heads, score, best, page, more, reasons)
        staleness_ms = self.stages.live.staleness_ms()
        return self._stage(query, "page", lambda: answer_of(query, ranked, staleness_ms))

    def _user(self, query: Query) -> User:
        hydrator, stored = self.stages.hydrator, query.stored
        if stored is None:
            return hydrator.nobody()
        return self._attempt(
            query,
            "user_row",
            lambda: hydrator.hydrate(query, stored),
            "ranked as an unknown user",
            hydrator.nobody,
        )

    def _candidates(self, query: Query, reading: Reading, user: User) -> Candidates:
        """The caller's candidates, or those of our sources; each once, in order of arrival."""
        degraded, given = self.stages.live.degraded, query.request.candidates
        if degraded is not None:
            query.degraded.append(f"item_table: {degraded}")
        found = {GIVEN: Sourced(given)} if given is not None else self._sourced(query, reading)
        if given is None and not any(len(sourced.items) for sourced in found.values()):
            found[POPULAR] = Sourced([*self.stages.popular().items])
        return self._stage(query, "candidates", lambda: joined(query, reading, user, found))

    def _sourced(self, query: Query, reading: Reading) -> dict[str, Sourced]:
        return {
            source.name: self._attempt(
                query,
                f"source:{source.name}",
                partial(source.items, query, reading),
                "its candidates are missing",
                partial(Sourced, ()),
            )
            for source in self.stages.sources
        }

    def _features(self, query: Query, candidates: Candidates, user: User) -> Floats | None:
        """[candidate, column], and the versions of rows that they were computed from."""
        reader = candidates.reading.reader
        found = self._attempt(
            query,
            "features",
            lambda: reader.read(candidates.moment, user.table),
            "ranked by popularity",
            lambda: None,
        )
        if found is None:
            return None
        query.read = rows_read(candidates, found, query.request.surface)
        return found.matrix

    def _kept(self, query: Query, candidates: Candidates) -> Mask:
        """Which may be shown. Only the last resort is left when one that vouches fails."""
        keep = np.ones(len(candidates), np.bool_)
        for stage in self.stages.filters:
            name, ask = f"filter:{stage.name}", partial(stage.keep, query, candidates)
            if stage.vouches:
                keep &= self._stage(query, name, ask)
            else:
                keep &= self._attempt(query, name, ask, "all passed", partial(np.copy, keep))
        return keep

    def _heads(
        self, query: Query, reading: Reading, matrix: Floats | None, places: Ints
    ) -> dict[str, Floats]:
        """Head → [kept candidate]; empty when there is none to score with."""
        heads = reading.heads
        if heads is None:
            query.degraded.append(f"model: {reading.unfit}; ranked by popularity")
        if heads is None or matrix is None:
            return {}
        kept = matrix if len(places) == len(matrix) else matrix[places]
        return self._attempt(
            query, "heads", lambda: heads.score(kept), "ranked by popularity", dict
        )

    def _value(
        self, query: Query, reading: Reading, heads: dict[str, Floats]
    ) -> tuple[Floats, Mapping[str, float]] | None:
        """[kept candidate]: its utility, and by which weights; None without predictions."""
        if not heads or reading.heads is None:
            return None
        value, surface = reading.heads.value, query.request.surface
        name, head = next(iter(heads.items()))
        return self._attempt(
            query,
            "value",
            lambda: (value.value(heads, surface), value.weights(surface)),
            f"ranked by the head {name}",
            lambda: (head, {name: 1.0}),
        )

    def _popularity(self, query: Query, candidates: Candidates, places: Ints) -> Floats:
        popularity = candidates.reading.popularity
        return self._attempt(
            query,
            "popularity",
            lambda: popularity.counts(_rows_now(candidates, places), query.now),
            "in the order of arrival",
            lambda: np.zeros(len(places)),
        )

    def _varied(self, query: Query, candidates: Candidates, best: Ints, score: Floats) -> Ints:
        """The order of kept candidates (`best`, by falling score) once it is made varied."""
        rules = self.stages.rules().of(query.request.surface).diversity
        count = len(query.session.shown) + query.request.limit

        def vary() -> Ints:
            pool = best[: reach(rules, count)]
            reading = candidates.reading
            vectors = reading.vectors(_rows_now(candidates, pool))
            authors, categories = candidates.authors[pool], candidates.categories[pool]
            return varied(rules, score, vectors, authors, categories, count)

        def by_score() -> Ints:
            return np.arange(len(best))

        if rules.off:
            return by_score()
        return self._attempt(query, "diversity", vary, "ordered by score alone", by_score)

    def _page(
        self, query: Query, candidates: Candidates, places: Ints, order: Ints
    ) -> tuple[Ints, bool]:
        """The next of the order that the session has not shown, and whether there are more."""
        session, limit = query.session, query.request.limit
        if len(session.shown):
            order = order[unseen(session.shown, _these(candidates, places[order]))]
        return order[: min(limit, session.rest())], len(order) > limit

    def _reasons(
        self,
        query: Query,
        reading: Reading,
        matrix: Floats | None,
        shown: Ints,
        weights: Mapping[str, float],
    ) -> list[list[Reason]] | None:
        heads = reading.heads
        if not query.request.explain or heads is None or matrix is None or not weights:
            return None
        vectors = matrix[shown]
        return self._attempt(
            query, "explain", lambda: heads.reasons(vectors, weights), "no reasons", lambda: None
        )

    def _last_resort(self, query: Query, why: str) -> Answer:
        """What is popular, when the time is up or nothing else is left; looks at no table."""
        query.timing.given_up = True
        query.degraded = [*query.degraded, f"{query.timing.stage}: {why}; popular items instead"]
        stages, user, blocked = self.stages, query.user, set[str]()
        try:
            if user is None and query.stored is not None:
                user = stages.hydrator.alone(query, query.stored)
            if user is not None:
                blocked = related_texts(user, "author", BlockedAuthorFilter.relations)
        except HeadraceError as error:
            log.warning("whom a user blocked cannot be told: %s", error)
        rules, staleness_ms = stages.rules().of(query.request.surface), stages.live.staleness_ms()
        return popular_answer(query, user, blocked, stages.popular(), rules, staleness_ms)

    def _attempt(
        self, query: Query, stage: str, do: Callable[[], T], instead: str, other: Callable[[], T]
    ) -> T:
        return attempt(query.timing, query.degraded, stage, do, instead, other)

    def _stage(self, query: Query, stage: str, do: Callable[[], T]) -> T:
        """A stage without which there is nothing but the last resort."""
        if query.timing.given_up:
            raise GivenUp(stage)
        query.timing.stage, began = stage, time.perf_counter()
        found = do()
        query.timing.note(stage, began)
        return found


def _these(candidates: Candidates, places: Ints) -> list[str]:
    items = candidates.items
    return [items[place] for place in places.tolist()]


def _rows_now(candidates: Candidates, places: Ints) -> Ints:
    """Rows of candidates, asked for again: the lock was let go since they were joined."""
    return candidates.reading.tables[ITEM_KEY].rows_of_ids(_these(candidates, places))
