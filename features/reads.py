"""The vocabulary's words for reads: what is computed from stored state as of `now`.

`features.declare` offers them beside the stored views. None of them touches Feast: a word returns
plain data, which `as_of_view` places on its source and puts into the registry.

In the formulas, n(a, w) is the sum of action a over window w as of `now`: over the buckets b of
width v with ⌊now/v⌋ − w/v < b ≤ ⌊now/v⌋, v being the width of the finest ring of the source view
that holds w in whole buckets; or the all-time total for "all". A bucket that fell off the row's
ring (they are kept back from the row's own newest event) counts nothing; events after `now`
that lie in its own bucket count. Candidates, lists and times are those of the read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from features.plan_check import bad_number
from features.spec import (
    ActivityView,
    AffinityFeature,
    AgeFeature,
    CodeFeature,
    ContextFeature,
    CountFeature,
    DecayedFeature,
    DotProductFeature,
    Feature,
    Metric,
    NearRateFeature,
    RateFeature,
    RecencyFeature,
    RingSpec,
    SimilarityFeature,
    SinceFeature,
    TrendFeature,
    ValueFeature,
    Window,
    summed,
)
from features.tags import action_name, duration_ms, duration_text

Key = Literal["item", "author", "category"]


def count(
    name: str, of: str, window: str = "all", amount: Literal["count", "value"] = "count"
) -> Feature:
    """n(of, window): events, or with `amount="value"` the sum of their values. 0 when unknown."""
    metric = Metric(action=action_name(of), amount=amount)
    return CountFeature(name=name, view="", metric=metric, window=_asked(window))


def rate(
    name: str,
    of: str | Sequence[str],
    per: str | Sequence[str],
    window: str = "all",
    prior: tuple[float, float] = (1.0, 10.0),
) -> Feature:
    """(n(of, window) + prior[0]) / (n(per, window) + prior[1]); prior[0]/prior[1] when unknown.

    Several actions on either side are added up. Raises ValueError unless both numbers of the prior
    are finite and prior[1] is above 0: it is all there is to divide by while nothing has happened.
    """
    (first_of, *more_of), (first_per, *more_per) = _metrics(name, of), _metrics(name, per)
    return _checked(
        RateFeature(
            name=name,
            view="",
            metric=first_of,
            more_of=tuple(more_of),
            per=first_per,
            more_per=tuple(more_per),
            window=_asked(window),
            prior_of=prior[0],
            prior_per=prior[1],
        )
    )


def mean(
    name: str, of: str, window: str = "all", prior: tuple[float, float] = (0.0, 1.0)
) -> Feature:
    """(Σ value of `of` + prior[0]) / (n(of, window) + prior[1]): dwell means, in the value's unit.

    prior[0]/prior[1] when unknown; the prior is checked like a rate's.
    """
    return _checked(
        RateFeature(
            name=name,
            view="",
            metric=Metric(action=action_name(of), amount="value"),
            per=Metric(action=of),
            window=_asked(window),
            prior_of=prior[0],
            prior_per=prior[1],
        )
    )


def decayed(name: str, of: str, window: str, half_life: str) -> Feature:
    """Σ over the window's buckets b of n(of, b) · 2^(−(⌊now/v⌋ − b) · v/half_life); 0 when unknown.

    Age counts in whole buckets, so the value moves when a bucket begins and stands in between.
    """
    return DecayedFeature(
        name=name,
        view="",
        metric=Metric(action=action_name(of)),
        window=_bounded(name, "a decayed count needs a bounded window", window),
        half_life_ms=duration_ms(half_life),
    )


def trend(name: str, of: str, short: str, long: str) -> Feature:
    """(n(of, short) + 1) / (n(of, long) · short/long + 1): above 1 is rising; 1 when unknown."""
    return TrendFeature(
        name=name,
        view="",
        metric=Metric(action=action_name(of)),
        window=_bounded(name, "a trend needs two bounded windows", short),
        long=_bounded(name, "a trend needs two bounded windows", long),
    )


def recency(name: str, of: Literal["first", "last"] = "last") -> Feature:
    """(now − t)/1000, t the time of the row's first or last event: seconds; null when unknown.

    Negative when that event lies after `now`.
    """
    return RecencyFeature(name=name, view="", of=of)


def affinity(
    name: str, sequence: str, actions: Iterable[str], key: Key, half_life: str = "1d"
) -> Feature:
    """Σ 2^(−(now − t)/half_life) over the user's listed events of these actions, at times t ≤ now,
    that share the candidate's item, author or (first) category; 0 when there is none."""
    return AffinityFeature(
        name=name,
        view="",
        sequence=sequence,
        actions=tuple(map(action_name, actions)),
        key=key,
        half_life_ms=duration_ms(half_life),
    )


def since(name: str, sequence: str, actions: Iterable[str], key: Key) -> Feature:
    """(now − t)/1000 of the newest listed event, t ≤ now, that shares the candidate's item, author
    or (first) category: seconds; null when there is none."""
    listed = tuple(map(action_name, actions))
    return SinceFeature(name=name, view="", sequence=sequence, actions=listed, key=key)


def similarity(
    name: str,
    sequence: str,
    actions: Iterable[str],
    reduce: Literal["max", "mean"] = "max",
    newest: int = 32,
    embedding: str = "",
) -> Feature:
    """max or mean of e(candidate) · e(item) over the items of the user's `newest` listed events of
    these actions, at t ≤ now; e is the embedding, the product is summed in single precision.

    An item listed twice counts twice; items without an embedding (or with one of zeros) are left
    out. Null when the candidate has none, or none is left. `embedding` names the view that keeps
    it, where there are several; otherwise it is the first.
    """
    return _checked(
        SimilarityFeature(
            name=name,
            view="",
            sequence=sequence,
            actions=tuple(map(action_name, actions)),
            reduce=reduce,
            newest=newest,
            embedding=embedding,
        )
    )


def near_rate(
    name: str,
    of: tuple[str, Sequence[str]],
    per: tuple[str, Sequence[str]],
    power: int = 1,
    newest: int = 32,
    prior: tuple[float, float] = (1.0, 10.0),
    embedding: str = "",
) -> Feature:
    """(Σ k over the events `of` + prior[0]) / (Σ k over the events `per` + prior[1]), where k is
    max(0, cos(e(candidate), e(item)))^power: how often the user did it with items like this one.

    Either side is a list and actions of it, at t ≤ now: `per` counts its newest so many, `of` those
    since the oldest of them, the newest so many as well. Items without an embedding count nothing;
    prior[0]/prior[1] when nothing is known. The prior is checked like a rate's. A greater power
    asks for nearer items (Sarwar et al., WWW 2001: item-based collaborative filtering).
    """
    (sequence, actions), (per_sequence, per_actions) = of, per
    return _checked(
        NearRateFeature(
            name=name,
            view="",
            sequence=sequence,
            actions=tuple(map(action_name, actions)),
            per_sequence=per_sequence,
            per_actions=tuple(map(action_name, per_actions)),
            power=power,
            newest=newest,
            prior_of=prior[0],
            prior_per=prior[1],
            embedding=embedding,
        )
    )


def dot_product(
    name: str,
    user: str,
    item: str = "",
    normalize: bool = False,
    bias: str = "",
    bias_view: str = "",
) -> Feature:
    """e(user) · e(candidate), of embeddings that two models' towers, or a factorisation, made to be
    multiplied; with `normalize` the cosine. The product is summed in single precision.

    `user` and `item` name the views that keep them; no `item` is the first with embeddings of
    items. `bias` is a number of the candidate that is added to the product: a field of `bias_view`,
    or of the view of its embedding (Koren et al., Computer 2009: matrix factorization techniques
    for recommender systems). Null when either embedding is missing (or one of zeros), when they
    have not as many numbers, and when there is no bias to add.
    """
    return DotProductFeature(
        name=name,
        view=user,
        embedding=item,
        normalize=normalize,
        bias=bias,
        bias_view=bias_view,
    )


def value(name: str, field: str, view: str = "") -> Feature:
    """A stored number as it is, in its own unit; null when there is none."""
    return ValueFeature(name=name, view=view, field=field)


def code(name: str, field: str, buckets: int = 256, view: str = "") -> Feature:
    """murmur3(text) modulo `buckets` of a stored text (the first of a list): a category that is
    the same in every process; null when there is none."""
    return _checked(CodeFeature(name=name, view=view, field=field, buckets=buckets))


def age(name: str, field: str, view: str = "") -> Feature:
    """(now − t)/1000 of a stored time t in milliseconds: seconds; null when there is none."""
    return AgeFeature(name=name, view=view, field=field)


def surface_code(name: str = "surface", buckets: int = 64) -> Feature:
    """murmur3(surface) modulo `buckets` of the request's surface; null when it names none."""
    return _checked(ContextFeature(name=name, view="", of="surface", buckets=buckets))


def hour_of_day(name: str = "hour", utc_offset_hours: float = 0.0) -> Feature:
    """⌊now/1 h + utc_offset_hours⌋ modulo 24: the hour of the request's day at a fixed offset."""
    return _checked(
        ContextFeature(name=name, view="", of="hour", utc_offset_hours=utc_offset_hours)
    )


def placed(feature: Feature, default: str, views: Mapping[str, Any]) -> Feature:
    """A feature on its source view, its windows cut into the buckets of that view's rings.

    Raises ValueError, naming what is kept, when no ring of the view holds a window.
    """
    view = feature.view or default
    source = views.get(view)
    changes: dict[str, Any] = {"view": view}
    if isinstance(source, ActivityView):
        for place in ("window", "long"):
            asked = getattr(feature, place, None)
            if asked is not None:
                changes[place] = _buckets(feature, source, asked)
    return feature.model_copy(update=changes)


def _buckets(feature: Feature, source: ActivityView, asked: Window) -> Window:
    """A window as buckets of the finest ring that holds it for every metric the feature sums."""
    length = asked.width_ms * asked.buckets
    metrics = summed(feature)
    for width in sorted({ring.width_ms for ring in source.rings}):
        kept = min(_kept(source, metric, width) for metric in metrics)
        if length % width == 0 and length // width <= kept:
            return Window(width_ms=width, buckets=length // width)
    rings = {m: [ring for ring in source.rings if ring.metric == m] for m in metrics}
    told = "; ".join(f"{_named(metric)} in {_shapes(found)}" for metric, found in rings.items())
    raise ValueError(
        f"feature {feature.name!r}: window {duration_text(length)!r} is not a whole number of "
        f"buckets of one ring of view {source.name!r}, which keeps {told}"
    )


def _kept(source: ActivityView, metric: Metric, width: int) -> int:
    fits = [r.buckets for r in source.rings if r.metric == metric and r.width_ms == width]
    return max(fits, default=0)


def _shapes(rings: Iterable[RingSpec]) -> str:
    shapes = [f"{ring.buckets} × {duration_text(ring.width_ms)}" for ring in rings]
    return ", ".join(shapes) or "no ring"


def _named(metric: Metric) -> str:
    return repr(metric.action) if metric.amount == "count" else f"values of {metric.action!r}"


def _metrics(name: str, actions: str | Sequence[str]) -> list[Metric]:
    """Counts of one action, or of several, each once."""
    named = [actions] if isinstance(actions, str) else list(actions)
    if not named or len(set(named)) < len(named):
        raise ValueError(f"{name}: a rate needs an action on either side, each once, not {named}")
    return [Metric(action=action_name(action)) for action in named]


def _asked(window: str) -> Window | None:
    """A window whose ring is not known yet: one bucket of its whole length."""
    return None if window == "all" else Window(width_ms=duration_ms(window), buckets=1)


def _bounded(name: str, needs: str, window: str) -> Window:
    found = _asked(window)
    if found is None:
        raise ValueError(f"{name}: {needs}, not {window!r}")
    return found


def _checked(feature: Feature) -> Feature:
    wrong = bad_number(feature)
    if wrong is not None:
        raise ValueError(f"{feature.name}: {wrong}")
    return feature
