"""Whether a plan can work: its views hold together, its features read only what those keep."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from features.errors import Refused
from features.layout import COUNTS_FIELD, LISTS_FIELD, metric_name, stable_id
from features.spec import (
    ActivityView,
    AffinityFeature,
    AgeFeature,
    CodeFeature,
    Compared,
    ContextFeature,
    CountFeature,
    DecayedFeature,
    DotProductFeature,
    Feature,
    LatestField,
    LatestView,
    Metric,
    NearRateFeature,
    PlainView,
    Plan,
    RateFeature,
    RecencyFeature,
    RelationsView,
    SequenceSpec,
    SimilarityFeature,
    SinceFeature,
    StoredView,
    TrendFeature,
    ValueFeature,
    Window,
    embeddings_of,
    lists_read,
)
from features.tags import action_name

ListFeature = AffinityFeature | SinceFeature | SimilarityFeature | NearRateFeature
FieldFeature = ValueFeature | CodeFeature | AgeFeature


def check_plan(plan: Plan) -> None:
    """Refuse the first view that cannot be stored, and the first as-of feature that reads what no
    stored view keeps or divides by nothing, and say what."""
    _check_stored(plan)
    stored = {view.name: view for view in plan.views}
    for view in plan.as_of:
        for feature in view.features:
            where = f"feature {feature.name!r} of {view.name!r}"
            wrong = bad_number(feature)
            if wrong is not None:
                raise Refused(f"{where}: {wrong}")
            if isinstance(feature, ContextFeature):
                continue
            source = stored.get(feature.view)
            if source is None:
                raise Refused(f"{where} reads view {feature.view!r}, which is not in the registry")
            compared = feature.embedding if isinstance(feature, Compared) else ""
            if compared and compared not in plan.embeddings:
                raise Refused(
                    f"{where} compares the embeddings of {compared!r}, and the registry has "
                    f"{', '.join(plan.embeddings) or 'none'}"
                )
            if isinstance(feature, DotProductFeature):
                wrong = bad_product(feature, stored)
                if wrong is not None:
                    raise Refused(f"{where} {wrong}")
                continue
            missing = _missing(feature, source)
            if missing is not None:
                raise Refused(f"{where} reads {missing}, which view {source.name!r} does not keep")


def check_packs(plan: Plan) -> None:
    """Refuse what the packs of activity rows could not tell apart."""
    for view in plan.activity:
        _check_ids(view.name, (metric_name(metric) for metric in view.metrics))
        _check_ids(view.name, (sequence.name for sequence in view.sequences))
        widths = [(ring.metric, ring.width_ms) for ring in view.rings]
        twice = [(metric, width) for metric, width in widths if widths.count((metric, width)) > 1]
        if twice:
            metric, width = twice[0]
            raise Refused(
                f"view {view.name!r} keeps two rings of {metric_name(metric)!r} with buckets of "
                f"{width} ms: keep the longer one"
            )
        taken = {COUNTS_FIELD, LISTS_FIELD} & {view.first_seen, view.last_seen}
        if taken:
            raise Refused(f"view {view.name!r}: field {min(taken)!r} is the pack's: rename yours")
    _check_ids("the plan", plan.actions)


def _check_ids(where: str, names: Iterable[str]) -> None:
    found: dict[int, str] = {}
    for name in names:
        other = found.setdefault(stable_id(name), name)
        if other != name:
            raise Refused(
                f"{where}: {other!r} and {name!r} have the same id in stored rows: rename one"
            )


def bad_number(feature: Feature) -> str | None:
    """What is wrong with a feature's own numbers: what it divides by, or counts with."""
    if isinstance(feature, RateFeature | NearRateFeature):
        if not math.isfinite(feature.prior_of):
            return f"a prior of {feature.prior_of} is no number to add: give a finite one"
        if not (math.isfinite(feature.prior_per) and feature.prior_per > 0):
            return (
                f"the second number of its prior is {feature.prior_per}, and it is all there is to "
                "divide by before anything happened: give one above 0"
            )
    if isinstance(feature, ContextFeature) and not math.isfinite(feature.utc_offset_hours):
        return f"an offset of {feature.utc_offset_hours} hours is none"
    for name in ("buckets", "newest", "half_life_ms", "power"):
        if getattr(feature, name, 1) < 1:
            return f"{name} is {getattr(feature, name)}: at least 1"
    return None


def bad_product(feature: DotProductFeature, views: Mapping[str, StoredView]) -> str | None:
    """Why a dot product cannot be made of what these views keep."""
    latest = tuple(view for view in views.values() if isinstance(view, LatestView))
    users, items = embeddings_of(latest, "user"), embeddings_of(latest)
    own, name = users.get(feature.view), feature.embedding or next(iter(items), "")
    other = items.get(name)
    if own is None:
        return f"multiplies the embeddings of users in {feature.view!r}: {_among(users, 'users')}"
    if other is None:
        return f"multiplies the embeddings of items in {name!r}: {_among(items, 'items')}"
    if own.dimension != other.dimension and None not in (own.dimension, other.dimension):
        return (
            f"multiplies embeddings of {own.dimension} numbers ({feature.view!r}) and of "
            f"{other.dimension} ({name!r}), and both need as many: name the views that belong "
            "together, or declare another dimension"
        )
    if feature.bias:
        named = feature.bias_view or name
        view = next((v for v in latest if v.name == named and v.event == "item"), None)
        if view is None:
            return f"adds {feature.bias!r} of {named!r}, which is no latest view of items"
        missing = _missing_field(ValueFeature(name="", view="", field=feature.bias), view)
        if missing is not None:
            return f"adds {missing}, which view {view.name!r} does not keep"
    return None


def _among(known: Mapping[str, LatestField], whose: str) -> str:
    found = ", ".join(known) or "none"
    return (
        f"views with embeddings of {whose} are {found}. Declare a latest_view of their events with "
        "an embedded(...) field, and name it among the sources"
    )


def _check_stored(plan: Plan) -> None:
    """Refuse entities that share a key but not its type, and names that cannot stand."""
    entities = {view.entity.join_key: view.entity for view in plan.views}
    for view in plan.views:
        other = entities[view.entity.join_key]
        if view.entity != other:
            raise Refused(
                f"view {view.name!r}: entities {view.entity.name!r} and {other.name!r} share the "
                f"join key {other.join_key!r}, and a row has one entity: declare one for both"
            )
        if isinstance(view, ActivityView):
            totals = [metric_name(total.metric) for total in view.totals]
            _check_once(view, "keeps a total of", totals)
            _check_once(view, "lists", [sequence.name for sequence in view.sequences])
            for action in sorted(view.actions):
                _check_action(view, action)
        if isinstance(view, RelationsView):
            actions = [action for r in view.relations for action in (r.on, r.off)]
            _check_once(view, "gives a meaning to", actions)
            if not actions or view.limit < 1:
                raise Refused(f"view {view.name!r}: a relations view needs relations and a limit")
            for action in actions:
                _check_action(view, action)


def _check_once(view: StoredView, verb: str, names: list[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise Refused(f"view {view.name!r} {verb} {twice[0]!r} twice: declare it once")


def _check_action(view: StoredView, action: str) -> None:
    try:
        action_name(action)
    except ValueError as error:
        raise Refused(f"view {view.name!r}: {error}") from error


def _missing(feature: Feature, source: StoredView) -> str | None:
    """What a feature reads that its view does not keep."""
    if isinstance(source, PlainView):
        return f"state of Headrace's own events ({feature.kind})"
    if isinstance(feature, FieldFeature):
        return _missing_field(feature, source)
    if not isinstance(source, ActivityView):
        return f"counts and lists ({feature.kind})"
    if isinstance(feature, ListFeature):
        return _missing_list(feature, source)
    if isinstance(feature, RecencyFeature):
        kept = source.first_seen if feature.of == "first" else source.last_seen
        return None if kept else f"{feature.of}_seen"
    lost = [_named(m, w) for m, w in _sums(feature) if not _keeps(source, m, w)]
    return lost[0] if lost else None


def _missing_field(feature: FieldFeature, source: StoredView) -> str | None:
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
    key = "item" if isinstance(feature, Compared) else feature.key
    listed = [(feature.sequence, feature.actions)]
    read = lists_read(feature) if isinstance(feature, Compared) else listed
    lost = (_missing_entries(source, name, actions, key) for name, actions in read)
    return next((what for what in lost if what is not None), None)


def _missing_entries(
    source: ActivityView, sequence: str, actions: tuple[str, ...], key: str
) -> str | None:
    """What a feature of some actions of a sequence, by a key, asks for that is not listed."""
    found = next((s for s in source.sequences if s.name == sequence), None)
    if found is None:
        return f"sequence {sequence!r}"
    lost = set(actions) - set(found.actions)
    if lost:
        return f"action {min(lost)!r} in sequence {found.name!r}"
    missing = [column for column in _columns(actions, key, found) if column not in found.columns]
    return f"column {missing[0]!r} in sequence {found.name!r}" if missing else None


def _columns(actions: tuple[str, ...], key: str, sequence: SequenceSpec) -> Iterator[str]:
    """The columns of a sequence that are needed."""
    yield key
    if set(actions) != set(sequence.actions):
        yield "action"


def _sums(
    feature: CountFeature
    | RateFeature
    | DecayedFeature
    | TrendFeature
    | DotProductFeature
    | ContextFeature,
) -> Iterator[tuple[Metric, Window | None]]:
    """The metrics and windows that a feature sums."""
    if isinstance(feature, ContextFeature | DotProductFeature):
        return
    yield feature.metric, feature.window
    if isinstance(feature, RateFeature):
        for metric in (*feature.more_of, feature.per, *feature.more_per):
            yield metric, feature.window
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
