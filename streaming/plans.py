"""Which plan is in force where: plans stored whole, in one order, each active from an offset on.

Plans are stored in Redis under their version before any block names them. The project's
*definitions* number them in the order in which they came into force; per partition of `events` each
number has one first offset, fixed once. A restart reads the same offsets and so folds every event
under the plan it was folded under before.

**The offset rule.** A definition starts after every offset that may have been routed under an
earlier one. Kafka's committed offset is too low for that (blocks past it may be out), its log end
is higher than need be, and too low on some brokers. So `route` says in Redis how far it is about
to route *before* it sends a block, and looks for new definitions *after* saying so. Whoever fixes
the offset of a new definition does the reverse: the definition is written first, then the offset
is read. Of two steps in each of two workers, one order at least is seen by the other: either the
claim is counted, and the definition starts after it; or the definition is seen, and the batch is
cut at its offset. That holds for a fenced worker that still runs, and on every broker.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from features.errors import Refused
from features.plan_change import PlanChange, check_change, parts
from features.reader import Reader, reader_of
from features.row_store import RowStore
from features.spec import Plan
from streaming.store_link import secure

PLANS = "plans"
DEFINITIONS = "definitions"
REPLAYED = "replayed"
"""Facts of a project that replay filled: topic id and partition → the next offset of `events`."""


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


def all_plans(store: RowStore) -> list[Plan]:
    """All plans ever stored, in the order of their versions: what rows may hold."""
    known = store.remembered(PLANS)
    return [Plan.model_validate_json(known[version]) for version in sorted(known)]


class Definition(NamedTuple):
    """A plan that came into force, and when by the clock of who brought it."""

    plan: Plan
    since_ms: int


class Definitions:
    """The plans of a project in the order in which they came into force; the last one is."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self._listed: list[Definition] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, number: int) -> Definition:
        return self._listed[number]

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        return self._listed[-1].plan if self._listed else None

    def refresh(self) -> None:
        """Take in what others defined."""
        known = self._store.remembered(DEFINITIONS)
        while (entry := known.get(str(len(self._listed)))) is not None:
            self._append(entry)

    def check(self, plan: Plan) -> PlanChange | None:
        """What a plan changes, None if it is in force; `Refused` when rows would be corrupted."""
        if self.plan is None or self.plan.version == plan.version:
            return None
        return check_change(self.plan, plan, [definition.plan for definition in self._listed])

    def define(self, plan: Plan, now_ms: int) -> None:
        """Bring a plan into force unless it is; `Refused` when rows would be corrupted."""
        self.refresh()
        while self.plan is None or self.plan.version != plan.version:
            self.check(plan)
            store_plan(self._store, plan)
            secure(self._store, "a new plan")  # or a definition could outlive the plan it names
            entry = f"{now_ms} {plan.version}"
            # Another worker may have been first with this number; then ours is compared with its.
            self._append(self._store.remember(DEFINITIONS, str(len(self._listed)), entry))

    def _append(self, entry: str) -> None:
        since_ms, version = entry.split()
        self._listed.append(Definition(load_plan(self._store, version), int(since_ms)))


class Activations:
    """The definitions by the offsets of one `events` partition from which they apply.

    Each keeps its number, so that one may follow another at the same offset: before any event
    came, say.
    """

    def __init__(
        self, store: RowStore, definitions: Definitions, generation: int, partition: int
    ) -> None:
        self._store, self._definitions = store, definitions
        self._name = _starts(generation, partition)
        self._routed, self._partition = _routed(generation), str(partition)
        self._offsets: list[int] = []
        self._readers: list[Reader[Any]] = []

    def catch_up(self, resume_at: int = 0) -> int:
        """Give every definition its offset, at `resume_at` at least; returns how many are new."""
        had = len(self._offsets)
        for number in range(had, len(self._definitions)):
            routed = self._store.raise_to(self._routed, {self._partition: -1})[self._partition]
            start = max([routed + 1, resume_at, *self._offsets[-1:]])
            stands = self._store.remember(self._name, str(number), str(start))
            self._offsets.append(int(stands))
            self._readers.append(reader_of(self._definitions[number].plan))
        return len(self._offsets) - had

    @property
    def since(self) -> int:
        """The offset from which the last definition applies."""
        return self._offsets[-1]

    def at(self, offset: int) -> tuple[Reader[Any], int | None]:
        """The projection in force at an offset, and the offset where the next one takes over."""
        place = bisect_right(self._offsets, offset) - 1
        following = place + 1
        until = self._offsets[following] if following < len(self._offsets) else None
        return self._readers[max(place, 0)], until


def claim(store: RowStore, generation: int, last: Mapping[int, int]) -> None:
    """Say up to which offsets of `events` partitions is about to be routed."""
    store.raise_to(_routed(generation), {str(partition): at for partition, at in last.items()})


def _routed(generation: int) -> str:
    return f"routed:{generation}"


def _starts(generation: int, partition: int) -> str:
    return f"starts:{generation}/{partition}"


def starts_of(store: RowStore, generation: int, partition: int) -> dict[int, int]:
    """The first offset of each definition, by its number, in a partition of `events`."""
    known = store.remembered(_starts(generation, partition))
    return {int(number): int(offset) for number, offset in known.items()}


class Since(NamedTuple):
    """From where on a part of a view counts."""

    view: str
    parts: tuple[str, ...]
    """Fields, `list: action` and so on; empty for the view with all that came with it."""
    since_ms: int
    offsets: dict[int, int]
    """The first offset of each `events` partition that it counts; 0 for all there is."""


def since_when(store: RowStore, generation: int, partitions: int) -> Iterator[Since]:
    """Since when each part of the plan in force counts, by view, oldest first."""
    definitions = Definitions(store)
    held = [parts(definitions[number].plan) for number in range(len(definitions))]
    starts: dict[tuple[str, int], list[str]] = {}
    for view, part in held[-1] if held else ():
        number = len(held) - 1
        while number and (view, part) in held[number - 1]:
            number -= 1
        starts.setdefault((view, number), []).append(part)
    activations = {
        partition: store.remembered(_starts(generation, partition))
        for partition in range(partitions)
    }
    for (view, number), names in sorted(starts.items()):
        yield Since(
            view,
            () if "" in names else tuple(sorted(names)),
            definitions[number].since_ms,
            {
                p: int(known[str(number)])
                for p, known in activations.items()
                if str(number) in known
            },
        )
