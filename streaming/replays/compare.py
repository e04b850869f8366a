"""Two stores of the same project, row by row and field by field: what `--check-state` says."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from features.codec import MARKER_FIELD, entity_id, field_name, updated_at_field
from features.entities import EntityTable, Hash
from features.marker import Marker
from features.spec import EntitySpec, Plan
from features.strings import Strings

KEYS_PER_READ: Final = 1_000
KEPT: Final = 20
"""Differences that are kept whole; all are counted."""
UPDATED_AT: Final = "updated_at"


class Rows(Protocol):
    """A store that can tell all its rows."""

    def every(self, join_key: str, most: int) -> Iterator[list[bytes]]:
        """The keys of all rows of an entity, about `most` at a time."""

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        """The whole hash of each key, empty where there is none."""


class Difference(NamedTuple):
    """A view of a row that is not the same in both."""

    entity: EntitySpec
    key: bytes
    id: str
    view: str
    fields: tuple[str, ...]
    online: Hash
    replayed: Hash


@dataclass(slots=True)
class Comparison:
    """How far two stores agree."""

    rows: int = 0
    equal: int = 0
    only_online: int = 0
    only_replayed: int = 0
    differing: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    """`view:field` → in how many rows it differs."""
    first: list[Difference] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """Rows that are not the same in both."""
        return self.only_online + self.only_replayed + self.differing


def compare(plan: Plan, online: Rows, replayed: Rows) -> Comparison:
    """Every row of every view of a plan; what the plan does not name does not count."""
    found = Comparison()
    for entity in plan.entities:
        names = names_of(plan, entity)
        seen: set[bytes] = set()
        for keys in replayed.every(entity.join_key, KEYS_PER_READ):
            _compare(plan, entity, names, keys, online.read(keys), replayed.read(keys), found)
        for keys in online.every(entity.join_key, KEYS_PER_READ):
            fresh = [key for key in keys if key not in seen]
            seen.update(fresh)
            absent = [key for key, row in zip(fresh, replayed.read(fresh), strict=True) if not row]
            blank: list[Hash] = [{} for _ in absent]
            _compare(plan, entity, names, absent, online.read(absent), blank, found)
    return found


Names = dict[str, dict[bytes, str]]
"""View → hash field → what it is called."""


def names_of(plan: Plan, entity: EntitySpec) -> Names:
    """The fields that the views of an entity keep in its hashes."""
    table = EntityTable(plan, entity, Strings())
    return {
        name: {updated_at_field(name): UPDATED_AT}
        | {field_name(name, field): field for field in view.fields}
        for name, view in table.tables.items()
    }


def _compare(
    plan: Plan,
    entity: EntitySpec,
    names: Names,
    keys: Sequence[bytes],
    online: Sequence[Hash],
    replayed: Sequence[Hash],
    found: Comparison,
) -> None:
    for key, here, there in zip(keys, online, replayed, strict=True):
        identifier = entity_id(entity.join_key, key, plan.project)
        views = [
            Difference(entity, key, identifier or "", view, different, here, there)
            for view, fields in names.items()
            if (different := tuple(n for f, n in fields.items() if here.get(f) != there.get(f)))
        ]
        known = {field for fields in names.values() for field in fields}
        if not (known & here.keys() or known & there.keys()):
            continue  # a row of somebody else's views, who shares the key
        found.rows += 1
        if not views:
            found.equal += 1
            continue
        found.only_online += not known & there.keys()
        found.only_replayed += not known & here.keys()
        found.differing += bool(known & there.keys() and known & here.keys())
        for one in views:
            found.fields.update(f"{one.view}:{name}" for name in one.fields)
        found.first += views[: max(0, KEPT - len(found.first))]


def marker_of(row: Hash) -> Marker | None:
    """The marker of a row."""
    return Marker.decode(row.get(MARKER_FIELD))
