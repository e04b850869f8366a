"""The protocol under every fault of the simulator: fresh seeds, and what each rule is for."""

import pytest

from tests.chaos.simulator import fresh_seed, how_to_repeat, run_seeds, simulate
from tests.chaos.without import RULES

PARTS = 4
SEEDS = 500
"""Of each part: 2,000 in all."""
MUTANT_SEEDS = 500
"""At most; the first one that is wrong is enough."""


@pytest.fixture(scope="module")
def first() -> int:
    """The first seed of this run."""
    return fresh_seed()


@pytest.mark.parametrize("part", range(PARTS))
def test_rows_equal_their_recount_whatever_went_wrong(first: int, part: int) -> None:
    print(f"HEADRACE_CHAOS_SEED={first}")
    outcomes = run_seeds(first + part * SEEDS, SEEDS)
    wrong = [how_to_repeat(outcome) for outcome in outcomes if outcome.fault]
    assert not wrong, "\n".join(wrong[:10])
    made = sum(sum(outcome.made.values()) for outcome in outcomes)
    assert made > SEEDS, "the simulator has become too kind to show anything"


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_the_simulator_finds_wrong_runs(first: int, rule: str) -> None:
    tried = 0
    for tried in range(1, MUTANT_SEEDS + 1):
        (outcome,) = run_seeds(first + tried, 1, rules=RULES[rule])
        if outcome.fault:
            break
    else:
        pytest.fail(f"without {rule} {tried} runs from seed {first} were right")
    print(f"without {rule}: {outcome.fault}, after {tried} runs from seed {first}")


def test_a_seed_is_a_whole_run() -> None:
    """The same seed makes the same run, fault by fault, or a wrong one could not be looked at."""
    runs = [run_seeds(7, 20) for _ in range(2)]
    assert runs[0] == runs[1]
    assert simulate(7) == runs[0][0]
