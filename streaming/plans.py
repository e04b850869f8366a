"""Which plan is in force where: plans stored whole, each active from an offset on.

A plan is stored in Redis under its version before any block names it. Per partition of `events`
the first offset it applies to is fixed once; a restart reads the same offsets and so folds every
event under the plan it was folded under before.
"""

from bisect import bisect_right

from features.errors import Refused
from features.project import Projection
from features.row_store import RowStore
from features.spec import Plan

PLANS = "plans"


def store_plan(store: RowStore, plan: Plan) -> None:
    """Make a plan known to every reader of blocks."""
    store.remember(PLANS, plan.version, plan.model_dump_json())


def load_plan(store: RowStore, version: str) -> Plan:
    """A stored plan."""
    found = store.remembered(PLANS).get(version)
    if found is None:
        raise Refused(
            f"no plan {version} is stored in Redis although a block names it: the Redis given to "
            "aggregate is not the one route uses, or it lost its data"
        )
    return Plan.model_validate_json(found)


class Activations:
    """The plans of one `events` partition by the offset from which each applies."""

    def __init__(self, store: RowStore, generation: int, partition: int) -> None:
        self._store = store
        self._name = f"activations:{generation}/{partition}"
        self._offsets: list[int] = []
        self._projections: list[Projection] = []
        known: dict[str, Projection] = {}
        for offset, version in sorted((int(o), v) for o, v in store.remembered(self._name).items()):
            if version not in known:
                known[version] = Projection(load_plan(store, version))
            self._append(offset, known[version])

    def activate(self, plan: Plan, offset: int) -> None:
        """Use a plan from an offset on, unless it is in force there already."""
        if self._projections and self._projections[-1].plan.version == plan.version:
            return
        if self._offsets and offset <= self._offsets[-1]:
            return
        store_plan(self._store, plan)
        version = self._store.remember(self._name, str(offset), plan.version)
        if version != plan.version:  # another owner fixed it first
            plan = load_plan(self._store, version)
        self._append(offset, Projection(plan))

    def at(self, offset: int) -> tuple[Projection, int | None]:
        """The projection in force at an offset, and the offset where the next one takes over."""
        place = bisect_right(self._offsets, offset) - 1
        following = place + 1
        until = self._offsets[following] if following < len(self._offsets) else None
        return self._projections[max(place, 0)], until

    def _append(self, offset: int, projection: Projection) -> None:
        self._offsets.append(offset)
        self._projections.append(projection)
