"""The words by which a declaration and the plan compiler agree inside the Feast registry."""

import re
from typing import Final

KIND_TAG: Final = "headrace.kind"
"""On a stored view: `activity`, `latest` or `relations`. One without it is of plain records."""
NO_KIND: Final = "none"
"""The kind of a view that Headrace leaves to others."""
EVENT_TAG: Final = "headrace.event"
"""On a latest view: the type of event it keeps."""
PATH_TAG: Final = "headrace.path"
"""On a field of a latest view: where in the event its value is."""
DIMENSION_TAG: Final = "headrace.dimension"
PRECISION_TAG: Final = "headrace.precision"
"""On an embedding of a latest view: its length, and what readers round it to."""
SEQUENCE_TAG: Final = "headrace.sequence"
"""Prefix of the tags that hold the length and columns of a view's sequences."""
RELATIONS_TAG: Final = "headrace.relations"
"""On a relations view: its relations, their target and their limit, as JSON."""
AS_OF_TAG: Final = "headrace.as_of"
"""On an on-demand view: its features, as JSON."""
EVENT_ID_TAG: Final = "headrace.event_id"
"""On a view of plain records: the column whose repeats are dropped."""
TIME_UNIT_TAG: Final = "headrace.time_unit"
"""On a view of plain records: the unit of times that are numbers (s, ms, us or ns)."""

RING: Final = "ring"
TOTAL: Final = "total"
SEQUENCE: Final = "newest"
"""Functions of the `Aggregation`s of an activity view, beside Feast's `min` and `max`."""

ACTION_CHARS_MAX: Final = 64
"""What an event's action may have."""

_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `5m`, `6h` or `7d`."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is not a duration: write a number and ms, s, m, h or d")
    return int(found[1]) * _UNITS[found[2]]


def duration_text(ms: int) -> str:
    """A duration as `duration_ms` reads it, in the largest unit that divides it."""
    unit = next(u for u in reversed(_UNITS) if ms % _UNITS[u] == 0)
    return f"{ms // _UNITS[unit]}{unit}"


def action_name(action: str) -> str:
    """An action that the registry can carry and an event can name; raises ValueError otherwise.

    Actions stand in the columns of `Aggregation`s, joined by commas, and `.value` is said of them.
    """
    if not action or len(action) > ACTION_CHARS_MAX or "," in action or "." in action:
        raise ValueError(
            f"action {action!r} cannot be declared: a name has 1 to {ACTION_CHARS_MAX} characters, "
            "and neither a comma nor a full stop; rename it where events are made"
        )
    return action
