"""Whether a plan's as-of features read only what its stored views keep."""

from collections.abc import Iterator

from features.errors import Refused
from features.spec import (
    ActivityView,
    AffinityFeature,
    AgeFeature,
    CodeFeature,
    ContextFeature,
    CountFeature,
    DecayedFeature,
    Feature,
    LatestView,
    Metric,
    PlainView,
    Plan,
    RateFeature,
    RecencyFeature,
    SequenceSpec,
    SimilarityFeature,
    SinceFeature,
    StoredView,
    TrendFeature,
    ValueFeature,
    Window,
)

ListFeature = AffinityFeature | SinceFeature | SimilarityFeature
FieldFeature = ValueFeature | CodeFeature | AgeFeature


def check_plan(plan: Plan) -> None:
    """Refuse the first as-of feature that reads what no stored view keeps, and say what."""
    stored = {view.name: view for view in plan.views}
    for view in plan.as_of:
        for feature in view.features:
            if isinstance(feature, ContextFeature):
                continue
            where = f"feature {feature.name!r} of {view.name!r}"
            source = stored.get(feature.view)
            if source is None:
                raise Refused(f"{where} reads view {feature.view!r}, which is not in the registry")
            missing = _missing(feature, source)
            if missing is not None:
                raise Refused(f"{where} reads {missing}, which view {source.name!r} does not keep")


def _missing(feature: Feature, source: StoredView) -> str | None:
    """What a feature reads that its view does not keep."""
    if isinstance(source, PlainView):
        return f"state of Headrace's own events ({feature.kind})"
    if isinstance(feature, FieldFeature):
        return _missing_field(feature, source)
    if isinstance(source, LatestView):
        return f"counts and lists ({feature.kind})"
    if isinstance(feature, ListFeature):
        return _missing_list(feature, source)
    if isinstance(feature, RecencyFeature):
        kept = source.first_seen if feature.of == "first" else source.last_seen
        return None if kept else f"{feature.of}_seen"
    lost = [_named(m, w) for m, w in _sums(feature) if not _keeps(source, m, w)]
    return lost[0] if lost else None


def _missing_field(feature: FieldFeature, source: ActivityView | LatestView) -> str | None:
    fields = source.fields if isinstance(source, LatestView) else ()
    dtypes = {field.name: field.dtype for field in fields}
    dtype = dtypes.get(feature.field)
    if dtype is None:
        return f"field {feature.field!r}"
    text = dtype in ("String", "Array(String)")
    if isinstance(feature, CodeFeature):
        return None if text else f"a text in field {feature.field!r}"
    number = not text and not dtype.startswith("Array(Float")
    return None if number else f"a number in field {feature.field!r}"


def _missing_list(feature: ListFeature, source: ActivityView) -> str | None:
    found = next((s for s in source.sequences if s.name == feature.sequence), None)
    if found is None:
        return f"sequence {feature.sequence!r}"
    lost = set(feature.actions) - set(found.actions)
    if lost:
        return f"action {min(lost)!r} in sequence {found.name!r}"
    missing = [column for column in _columns(feature, found) if column not in found.columns]
    return f"column {missing[0]!r} in sequence {found.name!r}" if missing else None


def _columns(feature: ListFeature, sequence: SequenceSpec) -> Iterator[str]:
    """The columns of a sequence that a feature needs."""
    yield "item" if isinstance(feature, SimilarityFeature) else feature.key
    if set(feature.actions) != set(sequence.actions):
        yield "action"


def _sums(
    feature: CountFeature | RateFeature | DecayedFeature | TrendFeature | ContextFeature,
) -> Iterator[tuple[Metric, Window | None]]:
    """The metrics and windows that a feature sums."""
    if isinstance(feature, ContextFeature):
        return
    yield feature.metric, feature.window
    if isinstance(feature, RateFeature):
        yield feature.per, feature.window
    if isinstance(feature, TrendFeature):
        yield feature.metric, feature.long


def _keeps(source: ActivityView, metric: Metric, window: Window | None) -> bool:
    if window is None:
        return any(total.metric == metric for total in source.totals)
    return any(
        ring.metric == metric
        and ring.width_ms == window.width_ms
        and ring.buckets >= window.buckets
        for ring in source.rings
    )


def _named(metric: Metric, window: Window | None) -> str:
    of = repr(metric.action) if metric.amount == "count" else f"the values of {metric.action!r}"
    if window is None:
        return f"the total of {of}"
    return f"{window.buckets} buckets of {window.width_ms} ms of {of}"
