"""Answers: what was ranked, as the caller gets it and as the serving log keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from features.as_of_kernels import Floats
from features.layout import Ints
from ranker.cursor import unseen
from ranker.request import Freshness, RankedItem, RankResponse, Reason
from ranker.rules import SurfaceRules
from ranker.stages.last_resort import Popular
from ranker.stages.roles import Candidates, Query, Served, User

POPULARITY = "popularity"


@dataclass(frozen=True, slots=True)
class Ranked:
    """Candidates with their scores, and the page that was cut out of them."""

    candidates: Candidates
    matrix: Floats | None
    """[candidate, column]"""
    kept: Ints
    """Places of candidates that may be shown; what follows is about those, in this order."""
    heads: dict[str, Floats]
    score: Floats
    best: Ints
    """Places among the kept by falling score."""
    page: Ints
    """Places, among the kept, of what is shown, in order."""
    more: bool
    """Whether there is another page."""
    reasons: Sequence[list[Reason]] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and what is noted of it."""

    response: RankResponse
    served: Served


def answer_of(query: Query, ranked: Ranked, staleness_ms: float) -> Answer:
    """The answer to a request that was ranked."""
    candidates, reading = ranked.candidates, ranked.candidates.reading
    shown = ranked.kept[ranked.page]
    places = shown.tolist()
    matrix = np.zeros((len(shown), 0)) if ranked.matrix is None else ranked.matrix[shown]
    propensity = candidates.propensity
    by_score = np.empty_like(ranked.best)
    by_score[ranked.best] = np.arange(len(by_score))
    served = Served(
        user=query.user,
        plan=reading.plan.version,
        columns=() if ranked.matrix is None else reading.reader.columns,
        matrix=matrix,
        items=[candidates.items[place] for place in places],
        heads={head: values[ranked.page] for head, values in ranked.heads.items()},
        score=ranked.score[ranked.page],
        model=reading.heads.version if ranked.heads and reading.heads else POPULARITY,
        sources=[candidates.source_of(place) for place in places],
        propensity=[None if propensity is None else float(propensity[p]) for p in places],
        by_score=by_score[ranked.page],
        read=None if query.read is None else query.read.of(shown),
    )
    strings = reading.tables["item_id"].strings
    authors = [strings.text(code) for code in candidates.authors[shown].tolist()]
    categories = [strings.text(code) for code in candidates.categories[shown].tolist()]
    known = (candidates.rows[shown] >= 0).tolist()
    features = _features(served) if query.request.features else [None] * len(places)
    reasons = [None] * len(places) if ranked.reasons is None else ranked.reasons
    scores = served.score.tolist()
    heads = [dict(zip(served.heads, row, strict=True)) for row in _rows(served.heads, len(places))]
    items = [
        RankedItem(
            item_id=item,
            position=place,
            score=scores[place],
            heads=heads[place],
            author_id=authors[place],
            categories=[category] if (category := categories[place]) else [],
            known=known[place],
            reasons=reasons[place],
            features=features[place],
        )
        for place, item in enumerate(served.items)
    ]
    return Answer(_response(query, items, served, staleness_ms, ranked.more), served)


def popular_answer(
    query: Query,
    user: User | None,
    blocked: set[str],
    popular: Popular,
    rules: SurfaceRules,
    staleness_ms: float,
) -> Answer:
    """The answer when nothing could be ranked: popular items, and no table is looked at."""
    request, candidates = query.request, query.candidates
    given = request.candidates
    if candidates is not None and query.keep is not None:
        given = [candidates.items[place] for place in np.flatnonzero(query.keep).tolist()]
    allowed = list(popular.feed(given, rules, blocked))
    if len(query.session.shown):
        fresh = unseen(query.session.shown, allowed).tolist()
        allowed = [item for item, new in zip(allowed, fresh, strict=True) if new]
    shown = list(islice(allowed, min(request.limit, query.session.rest())))
    about = [popular.items.get(item) for item in shown]
    score = [0.0 if one is None else one.clicks for one in about]
    served = Served(
        user=user,
        plan="",
        columns=(),
        matrix=np.zeros((len(shown), 0)),
        items=shown,
        heads={},
        score=np.array(score),
        model=POPULARITY,
        sources=[POPULARITY if request.candidates is None else "request"] * len(shown),
        propensity=[None] * len(shown),
        by_score=np.arange(len(shown)),
    )
    items = [
        RankedItem(
            item_id=item,
            position=place,
            score=score[place],
            heads={},
            author_id=one.author if one else None,
            categories=[one.category] if one and one.category else [],
            known=one is not None,
        )
        for place, (item, one) in enumerate(zip(shown, about, strict=True))
    ]
    return Answer(_response(query, items, served, staleness_ms, len(allowed) > len(shown)), served)


def _response(
    query: Query, items: list[RankedItem], served: Served, staleness_ms: float, more: bool
) -> RankResponse:
    request, user = query.request, served.user
    updated_at = None if user is None else user.updated_at
    session = query.session.after(served.items) if more and items else None
    return RankResponse(
        request_id=query.request_id,
        now=query.now,
        items=items,
        model=served.model,
        freshness=Freshness(
            user_updated_at=updated_at,
            user_age_ms=None if updated_at is None else query.now - updated_at,
            item_staleness_ms=staleness_ms,
        ),
        next_cursor=None if session is None else session.text(request.user_id, request.surface),
        degraded=list(query.degraded),
        took_ms=query.timing.took_ms(),
    )


def _rows(heads: dict[str, Floats], count: int) -> list[tuple[float, ...]]:
    """[item]: the predictions of each head."""
    return list(zip(*(v.tolist() for v in heads.values()), strict=True)) if heads else [()] * count


def _features(served: Served) -> list[dict[str, float | None] | None]:
    return [
        {n: None if x != x else x for n, x in zip(served.columns, row, strict=True)}
        for row in served.matrix.tolist()
    ]
