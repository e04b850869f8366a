"""Features the slow way: every read walks the raw events, with no state in between.

It shares no code with the engine: neither its facts, nor its rows, nor its kernels. What it shares
is the definition of a formula (`features.reads`) and of the order of events (time, then 63 bits of
murmur3 of the event id, of "id#place" for a shown item).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mmh3
import numpy as np

from features.events import EngagementEvent, Event, ImpressionEvent, ItemEvent, UserEvent
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
    LatestField,
    LatestView,
    Metric,
    NearRateFeature,
    Plan,
    RateFeature,
    RecencyFeature,
    SequenceSpec,
    SimilarityFeature,
    SinceFeature,
    TrendFeature,
    ValueFeature,
    Window,
)
from features.unpack import Entry
from tests.facts import Fact, newest_entries

NAN = float("nan")
SUM_MAX = 2**53
CATEGORIES = 8


class Happened(NamedTuple):
    """One shown item or one engagement, in words."""

    time: int
    order: int
    action: str
    value: int
    user: str
    item: str
    author: str | None
    category: str | None
    owners: dict[str, tuple[str, ...]]
    """The ids whose rows it changes, by join key."""


class Candidate(NamedTuple):
    """Whom a feature is read for."""

    user: str
    item: str
    author: str | None
    category: str | None
    surface: str | None

    def key(self, join_key: str) -> str | None:
        """The candidate's id of one kind."""
        named = {"user_id": self.user, "item_id": self.item, "author_id": self.author}
        named |= {"category": self.category, "surface": self.surface}
        return named[join_key]


class Slow:
    """What every feature of a plan is at `now`, by the raw events."""

    def __init__(self, plan: Plan, events: Sequence[Event], now: int) -> None:
        self._views = {view.name: view for view in plan.views}
        self._embedding = next(
            (v, f)
            for v in plan.latest
            for f in v.fields
            if v.event == "item" and f.path == "embedding"
        )
        self._events, self._now = events, now
        self._happened = list(_happened(events))

    def feature(self, feature: Feature, of: Candidate) -> float:
        """One feature for one candidate."""
        if isinstance(feature, ContextFeature):
            return self._context(feature, of)
        view = self._views[feature.view]
        row = of.key(view.entity.join_key)
        if isinstance(feature, ValueFeature | CodeFeature | AgeFeature):
            assert isinstance(view, LatestView)
            return self._profile(feature, view, row)
        if isinstance(feature, DotProductFeature):
            assert isinstance(view, LatestView)
            return self._dot_product(feature, view, of)
        assert isinstance(view, ActivityView)
        if isinstance(feature, SimilarityFeature):
            return self._similarity(feature, view, of)
        if isinstance(feature, NearRateFeature):
            return self._near_rate(feature, view, of)
        if isinstance(feature, AffinityFeature | SinceFeature):
            return self._listed(feature, view, of)
        return self._counted(
            feature, [h for h in self._row(view, row) if h.action in view.actions], view
        )

    def _row(self, view: ActivityView, row: str | None) -> list[Happened]:
        """What happened to one row of a view, in the order of events."""
        key = view.entity.join_key
        known = (h for h in self._happened if h.action in view.actions)
        return sorted((h for h in known if row in h.owners[key]), key=lambda h: (h.time, h.order))

    def _counted(self, feature: Feature, row: list[Happened], view: ActivityView) -> float:
        now = self._now
        match feature:
            case RecencyFeature():
                if not row:
                    return NAN
                return (now - (row[0] if feature.of == "first" else row[-1]).time) / 1000.0
            case CountFeature():
                return self._sum(row, view, feature.metric, feature.window)
            case RateFeature():
                of, per = (
                    sum(self._sum(row, view, metric, feature.window) for metric in metrics)
                    for metrics in (
                        (feature.metric, *feature.more_of),
                        (feature.per, *feature.more_per),
                    )
                )
                return (of + feature.prior_of) / (per + feature.prior_per)
            case TrendFeature():
                short, long = feature.window, feature.long
                share = (short.width_ms * short.buckets) / (long.width_ms * long.buckets)
                rise = self._sum(row, view, feature.metric, short) + 1.0
                return rise / (self._sum(row, view, feature.metric, long) * share + 1.0)
            case DecayedFeature():
                width, total = feature.window.width_ms, 0.0
                for bucket, amount in self._buckets(row, view, feature.metric, feature.window):
                    age = now // width - bucket
                    total += amount * 2.0 ** (-age * (width / feature.half_life_ms))
                return total
        raise AssertionError(feature)

    def _sum(
        self, row: list[Happened], view: ActivityView, metric: Metric, window: Window | None
    ) -> float:
        if window is None:
            return float(min(sum(_amounts(row, metric)), SUM_MAX))
        return float(sum(n for _, n in self._buckets(row, view, metric, window)))

    def _buckets(
        self, row: list[Happened], view: ActivityView, metric: Metric, window: Window
    ) -> Iterable[tuple[int, int]]:
        """(bucket, amount) of what the row's ring keeps and the window holds, oldest first."""
        width = window.width_ms
        kept = next(r.buckets for r in view.rings if r.metric == metric and r.width_ms == width)
        current, newest = self._now // width, row[-1].time // width if row else 0
        for bucket in sorted({h.time // width for h in row}):
            if current - window.buckets < bucket <= current and bucket > newest - kept:
                inside = [h for h in row if h.time // width == bucket]
                if amount := min(sum(_amounts(inside, metric)), SUM_MAX):
                    yield bucket, amount

    def _entries(
        self, view: ActivityView, user: str, name: str, actions: tuple[str, ...]
    ) -> list[Entry]:
        """What the user's list holds at `now` of some actions, oldest first."""
        sequence: SequenceSpec = next(s for s in view.sequences if s.name == name)
        facts = [
            Fact(h.time, h.action, h.item, h.author, h.category, h.value)
            for h in self._row(view, user)
        ]
        return [
            entry
            for entry in newest_entries(sequence, facts)
            if (entry.action or sequence.actions[0]) in actions and entry.time <= self._now
        ]

    def _listed(
        self, feature: AffinityFeature | SinceFeature, view: ActivityView, of: Candidate
    ) -> float:
        key = of.key({"item": "item_id", "author": "author_id"}.get(feature.key, feature.key))
        same = [
            h
            for h in self._entries(view, of.user, feature.sequence, feature.actions)
            if key is not None and getattr(h, feature.key) == key
        ]
        if isinstance(feature, SinceFeature):
            return (self._now - same[-1].time) / 1000.0 if same else NAN
        total = 0.0
        for h in same:
            total += 2.0 ** (-(self._now - h.time) / feature.half_life_ms)
        return total

    def _similarity(self, feature: SimilarityFeature, view: ActivityView, of: Candidate) -> float:
        """In single precision, component after component."""
        mine = self._vector(of.item)
        listed = self._entries(view, of.user, feature.sequence, feature.actions)
        chosen = listed[-feature.newest :]
        recent = [v for h in chosen if (v := self._vector(str(h.item))) is not None]
        if mine is None or not recent:
            return NAN
        products = [_product(mine, vector) for vector in recent]
        return max(products) if feature.reduce == "max" else sum(products) / len(products)

    def _near_rate(self, feature: NearRateFeature, view: ActivityView, of: Candidate) -> float:
        per = self._entries(view, of.user, feature.per_sequence, feature.per_actions)
        per = per[-feature.newest :]
        done = self._entries(view, of.user, feature.sequence, feature.actions)
        done = [h for h in done if per and h.time >= per[0].time][-feature.newest :]
        above, below = (
            sum(self._nearness(of.item, str(h.item), feature.power) for h in listed)
            for listed in (done, per)
        )
        return (above + feature.prior_of) / (below + feature.prior_per)

    def _nearness(self, item: str, other: str, power: int) -> float:
        mine, vector = self._vector(item), self._vector(other)
        if mine is None or vector is None or _product(mine, vector) <= 0:
            return 0.0
        lengths = np.sqrt(_product(vector, vector)) * np.sqrt(_product(mine, mine))
        if lengths == 0.0:  # the square of one of them is below single precision
            return 0.0
        near = 1.0
        for _ in range(power):
            near *= _product(mine, vector) / float(lengths)
        return near

    def _dot_product(self, feature: DotProductFeature, view: LatestView, of: Candidate) -> float:
        own, other = _vector(self._newest(view, of.user)), self._vector(of.item)
        if own is None or other is None or len(own) != len(other):
            return NAN
        product = _product(own, other)
        if feature.normalize:
            lengths = float(np.sqrt(_product(own, own)) * np.sqrt(_product(other, other)))
            product = product / lengths if lengths > 0.0 else NAN
        if feature.bias:
            known = self._views[feature.bias_view]
            assert isinstance(known, LatestView)
            added = ValueFeature(name="", view="", field=feature.bias)
            product += self._profile(added, known, of.item)
        return product

    def _vector(self, item: str) -> list[np.float32] | None:
        view, _ = self._embedding
        return _vector(self._newest(view, item))

    def _profile(
        self, feature: ValueFeature | CodeFeature | AgeFeature, view: LatestView, row: str | None
    ) -> float:
        found = None if row is None else self._newest(view, row)
        field = next(f for f in view.fields if f.name == feature.field)
        stored = None if found is None else _at(found, field)
        if isinstance(stored, list):
            stored = stored[0] if stored else None
        if stored is None:
            return NAN
        if isinstance(feature, CodeFeature):
            return float(mmh3.hash(str(stored), signed=False) % feature.buckets)
        assert isinstance(stored, int | float)
        return (self._now - stored) / 1000.0 if isinstance(feature, AgeFeature) else float(stored)

    def _newest(self, view: LatestView, row: str) -> ItemEvent | UserEvent | None:
        """The newest event about a row that says anything the view keeps."""
        items = [e for e in self._events if isinstance(e, ItemEvent) and e.item_id == row]
        users = [e for e in self._events if isinstance(e, UserEvent) and e.user_id == row]
        said: list[ItemEvent | UserEvent] = [*(items if view.event == "item" else users)]
        if view.event == "item" or any(f.path == "embedding" for f in view.fields):
            said = [e for e in said if any(_at(e, f) not in (None, []) for f in view.fields)]
        else:  # what a user event does not say is empty then, but for one of an embedding alone
            said = [e for e in said if not e.embedding or any(_at(e, f) for f in view.fields)]
        return max(said, key=lambda e: (e.event_time, _order(e.event_id)), default=None)

    def _context(self, feature: ContextFeature, of: Candidate) -> float:
        if feature.of == "hour":
            return float(int((self._now / 3_600_000 + feature.utc_offset_hours) // 1) % 24)
        if of.surface is None:
            return NAN
        return float(mmh3.hash(of.surface, signed=False) % feature.buckets)


def _vector(said: ItemEvent | UserEvent | None) -> list[np.float32] | None:
    vector = [np.float32(x) for x in (said and said.embedding) or []]
    return vector if any(vector) else None


def _product(mine: Sequence[np.float32], other: Sequence[np.float32]) -> float:
    product = np.float32(0.0)
    for a, b in zip(mine, other, strict=True):
        product = np.float32(product + a * b)
    return float(product)


def _happened(events: Iterable[Event]) -> Iterable[Happened]:
    for event in events:
        if isinstance(event, EngagementEvent):
            shown, orders, action = [event], [_order(event.event_id)], event.action
            value, surface = event.value or 0, event.surface
        elif isinstance(event, ImpressionEvent):
            orders = [_order(f"{event.event_id}#{place}") for place in range(len(event.items))]
            shown, action, value, surface = event.items, "impression", 0, event.surface  # type: ignore[assignment]
        else:
            continue
        for item, order in zip(shown, orders, strict=True):
            categories: list[str] = []
            for category in item.categories:
                if category not in categories and len(categories) < CATEGORIES:
                    categories.append(category)
            owners = {
                "user_id": (event.user_id,),
                "item_id": (item.item_id,),
                "author_id": () if item.author_id is None else (item.author_id,),
                "category": tuple(categories),
                "surface": () if surface is None else (surface,),
            }
            first = categories[0] if categories else None
            yield Happened(
                event.event_time, order, action, value, event.user_id, item.item_id,
                item.author_id, first, owners,
            )  # fmt: skip


def _amounts(row: Iterable[Happened], metric: Metric) -> list[int]:
    return [h.value if metric.amount == "value" else 1 for h in row if h.action == metric.action]


def _order(event_id: str) -> int:
    return mmh3.hash64(event_id, signed=False)[0] >> 1


def _at(event: ItemEvent | UserEvent, field: LatestField) -> object:
    name, _, attribute = field.path.partition(".")
    return event.attributes.get(attribute) if attribute else getattr(event, name)
