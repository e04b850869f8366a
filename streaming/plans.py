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
    """The plans of one `events` partition by the offset from which each applies.

    They are numbered as they come, and each number is fixed once, so that a plan may follow
    another at the same offset: before any event came, say.
    """

    def __init__(self, store: RowStore, generation: int, partition: int) -> None:
        self._store = store
        self._name = f"activations:{generation}/{partition}"
        self._offsets: list[int] = []
        self._projections: list[Projection] = []
        known = sorted((int(number), v) for number, v in store.remembered(self._name).items())
        for _, activation in known:
            self._append(activation)

    def activate(self, plan: Plan, offset: int, store: RowStore | None = None) -> None:
        """Use a plan from an offset on, unless it is in force there already.

        `store` replaces a connection that was lost since.
        """
        self._store = store or self._store
        store_plan(self._store, plan)
        while not self._projections or self._projections[-1].plan.version != plan.version:
            start = max([offset, *self._offsets[-1:]])
            number = str(len(self._offsets))
            # Another owner may have fixed this number first; then ours comes after it.
            self._append(self._store.remember(self._name, number, f"{start} {plan.version}"))

    def at(self, offset: int) -> tuple[Projection, int | None]:
        """The projection in force at an offset, and the offset where the next one takes over."""
        place = bisect_right(self._offsets, offset) - 1
        following = place + 1
        until = self._offsets[following] if following < len(self._offsets) else None
        return self._projections[max(place, 0)], until

    def _append(self, activation: str) -> None:
        offset, version = activation.split()
        known = {p.plan.version: p for p in self._projections}
        self._offsets.append(int(offset))
        self._projections.append(known.get(version) or Projection(load_plan(self._store, version)))
