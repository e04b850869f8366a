"""What one plan's rows become under the next: what is added, what ends, what must not happen.

A change of definitions is safe when every event is folded under the plan in force at its offset,
and rows need no rewriting. So a part of a view (a counter, a field, an action of a list) may be
added, and counts from there; it may end, and rows keep what they hold of it. What is refused would
make a row's old content mean something it is not:

- a name that stays and means something else: another width or number of buckets, another type,
  path, key, kind of view, length or columns of a list, ended by another action;
- a name that comes back: rows that were not touched since it ended hold what it counted before
  that, rows that were touched do not know which part of it is missing;
- an action taken from a list that does not say which action an entry was;
- another project or topic: other rows, other offsets.

The way out is always one of two: another name, or a new project that is backfilled, then switched
to. Kinds of views that this file does not know may come and go, but not change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from features.errors import Refused
from features.layout import metric_name
from features.spec import ActivityView, LatestView, Metric, Plan, RelationsView, StoredView
from features.tags import duration_text

WAY_OUT = (
    "declare it under another name (an action: in a view of another name), or backfill a new "
    "project and switch to it"
)

Part = tuple[str, str]
"""What rows keep: the view's name and, inside it, a field, `list: action`, or "" for all of it."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A plan compared with the one before it."""

    added: tuple[Part, ...]
    ended: tuple[Part, ...]
    refused: tuple[str, ...]
    """Why rows could not be trusted afterwards; empty when the change is safe."""

    def __str__(self) -> str:
        words = [f"adds {_listed(self.added)}"] if self.added else []
        words += [f"ends {_listed(self.ended)}"] if self.ended else []
        return "; ".join(words) or "keeps what it keeps"


def compare(old: Plan, new: Plan, past: Sequence[Plan] = ()) -> PlanChange:
    """What changes from one plan to the next; `past` are the plans that were in force before."""
    before, after = parts(old), parts(new)
    refused = [
        f"{what} was {was!r} and would be {now!r}: a plan's rows and offsets belong to both; "
        "use a new project"
        for what, was, now in (
            ("the project", old.project, new.project),
            ("the topic", old.topic, new.topic),
        )
        if was != now
    ]
    refused += [
        f"{_named(part)} was {before[part]} and would be {after[part]}, while rows hold the "
        f"former: {WAY_OUT}"
        for part in sorted(before.keys() & after.keys())
        if before[part] != after[part]
    ]
    added = tuple(sorted(after.keys() - before.keys()))
    known = set(chain.from_iterable(parts(plan) for plan in past))
    refused += [
        f"{_named(part)} ended in an earlier plan and would come back over rows that miss what "
        f"happened since: {WAY_OUT}"
        for part in _outermost(p for p in added if p in known)
    ]
    refused += _unmarked(old, new)
    ended = tuple(sorted(before.keys() - after.keys()))
    return PlanChange(tuple(_outermost(added)), tuple(_outermost(ended)), tuple(refused))


def check_change(old: Plan, new: Plan, past: Sequence[Plan] = ()) -> PlanChange:
    """The change, or `Refused` with everything that speaks against it."""
    change = compare(old, new, past)
    if change.refused:
        raise Refused("the new definitions would corrupt rows. " + "; ".join(change.refused))
    return change


def parts(plan: Plan) -> dict[Part, str]:
    """Everything that a plan's rows keep, and what it means there."""
    found: dict[Part, str] = {}
    for view in plan.views:
        meaning, inside = _view_parts(view)
        key = view.entity
        found[view.name, ""] = f"{meaning} by {key.join_key} (type {key.value_type})"
        found |= {(view.name, name): meaning for name, meaning in inside.items()}
    return found


def _view_parts(view: StoredView) -> tuple[str, Mapping[str, str]]:
    """What a view is, and the parts of it that may come and go by themselves."""
    if isinstance(view, ActivityView):
        return "an activity view", _activity_parts(view)
    if isinstance(view, LatestView):
        fields = {field.name: f"{field.dtype} at {field.path}" for field in view.fields}
        return f"the newest {view.event} event, told apart by {view.event_field}", fields
    if isinstance(view, RelationsView):
        relations = {r.on: f"a relation ended by {r.off}" for r in view.relations}
        return f"the newest {view.limit} relations, each with one {view.target}", relations
    return view.model_dump_json(), {}


def _activity_parts(view: ActivityView) -> dict[str, str]:
    found = {
        f"{metric_name(ring.metric)}_{duration_text(ring.width_ms)}": (
            f"{_metric(ring.metric)} in {ring.buckets} × {duration_text(ring.width_ms)}"
        )
        for ring in view.rings
    }
    found |= {f"{metric_name(t.metric)}_total": f"all {_metric(t.metric)}" for t in view.totals}
    found |= {view.first_seen: "the first event's time"} if view.first_seen else {}
    found |= {view.last_seen: "the last event's time"} if view.last_seen else {}
    for sequence in view.sequences:
        columns = ", ".join(sorted(sequence.columns))
        found[sequence.name] = f"a list of the newest {sequence.length} with {columns}"
        found |= {f"{sequence.name}: {action}": "listed" for action in sequence.actions}
    return found


def _unmarked(old: Plan, new: Plan) -> list[str]:
    """Actions that would leave a list whose entries do not say which action they were."""
    lists = {(v.name, s.name): set(s.actions) for v in new.activity for s in v.sequences}
    return [
        f"{action!r} would leave list {sequence.name!r} of view {view.name!r}, whose entries do "
        f"not say which action they were: {WAY_OUT}"
        for view in old.activity
        for sequence in view.sequences
        if "action" not in sequence.columns
        for action in sequence.actions
        if action not in lists.get((view.name, sequence.name), {action})
    ]


def _outermost(found: Iterable[Part]) -> list[Part]:
    """Parts without those that stand inside another one found: in a whole view, a whole list."""
    listed = sorted(found)
    known = set(listed)
    return [
        (view, part)
        for view, part in listed
        if not part or not any((view, outer) in known for outer in _around(part))
    ]


def _around(part: str) -> tuple[str, ...]:
    """What a part stands in: its view and, if it is an action of a list, the list."""
    outer, inside, _ = part.partition(": ")
    return ("", outer) if inside else ("",)


def _metric(metric: Metric) -> str:
    return f"{metric.action} events" if metric.amount == "count" else f"values of {metric.action}"


def _named(part: Part) -> str:
    view, inside = part
    return f"{inside!r} of view {view!r}" if inside else f"view {view!r}"


def _listed(found: Sequence[Part]) -> str:
    names = [f"{view}.{part}" if part else view for view, part in found]
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
