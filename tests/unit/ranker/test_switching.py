"""Going over to a project that was filled beside the one that serves, and back."""

from features.errors import Unavailable
from features.redis_rows import RedisRows
from features.row_store import MemoryRows
from features.spec import Plan
from ranker.switching import FollowedPlans, take_over, taken_over
from tests.plans import changed
from tests.serving import SERVED_PLAN

OTHER: Plan = changed(SERVED_PLAN, project="other")
THIRD: Plan = changed(SERVED_PLAN, project="third")


def test_the_last_one_to_take_over_counts_and_an_empty_entry_leads_back() -> None:
    store = MemoryRows()
    assert taken_over(store) is None
    for number, plan in enumerate((OTHER, THIRD, None, OTHER, OTHER, None)):
        take_over(store, plan)
        assert taken_over(store) == plan, number
    for _ in range(9):
        take_over(store, OTHER)
        take_over(store, None)
    take_over(store, THIRD)
    assert taken_over(store) == THIRD  # entry 10 comes after entry 9


class Declared:
    """A registry."""

    def read(self) -> Plan:
        return SERVED_PLAN


class Facts(RedisRows):
    """Facts in memory, that can be away."""

    def __init__(self, facts: MemoryRows) -> None:
        super().__init__("redis://127.0.0.1:1/0", "proj")
        self.facts, self.away, self.closed = facts, False, 0

    def remembered(self, name: str) -> dict[str, str]:
        if self.away:
            raise Unavailable("away")
        return self.facts.remembered(name)

    def close(self) -> None:
        self.closed += 1
        super().close()


def test_a_reader_follows_and_keeps_to_what_it_knew_while_the_store_is_away() -> None:
    opened: list[Facts] = []
    facts = MemoryRows()

    def open_store(project: str) -> Facts:
        assert project == SERVED_PLAN.project
        opened.append(Facts(facts))
        return opened[-1]

    plans = FollowedPlans(Declared(), open_store)
    assert plans.read() == SERVED_PLAN
    take_over(facts, OTHER)
    assert plans.read() == OTHER
    opened[0].away = True
    take_over(facts, None)
    assert plans.read() == OTHER
    assert opened[0].closed == 1
    assert plans.read() == SERVED_PLAN  # over a new connection
    assert len(opened) == 2
    plans.close()
    assert opened[1].closed == 1
