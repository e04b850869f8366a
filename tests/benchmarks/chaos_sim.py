"""Simulated runs under faults that end with wrong rows: ours, and with a rule taken out.

Ours: the real workers over a simulated broker and Redis, fresh seeds. The yardstick: the same runs
without one rule of the protocol, by rule; what they get wrong is what the rule is for.
"""

import time

from tests.benchmarks.report import Result
from tests.chaos.simulator import fresh_seed, how_to_repeat, run_seeds
from tests.chaos.without import RULES

SEEDS, SEEDS_FULL = 2_000, 20_000
YARDSTICK_SEEDS, YARDSTICK_SEEDS_FULL = 100, 1_000


def run(full: bool) -> Result:
    """`seeds` run and how many were `wrong`; the yardstick's are shares of wrong runs."""
    first = fresh_seed()
    print(f"seeds from {first}")
    began = time.perf_counter()
    outcomes = run_seeds(first, SEEDS_FULL if full else SEEDS)
    took_s = time.perf_counter() - began
    wrong = [outcome for outcome in outcomes if outcome.fault]
    for outcome in wrong:
        print(how_to_repeat(outcome))
    count = YARDSTICK_SEEDS_FULL if full else YARDSTICK_SEEDS
    shares = {
        f"wrong_without_{rule.replace(' ', '_')}": sum(
            outcome.fault is not None for outcome in run_seeds(first, count, rules=rules)
        )
        / count
        for rule, rules in RULES.items()
    }
    made = sum(sum(outcome.made.values()) for outcome in outcomes)
    ours = {
        "seeds": float(len(outcomes)),
        "wrong": float(len(wrong)),
        "faults_per_run": made / len(outcomes),
        "runs_per_s": len(outcomes) / took_s,
    }
    return Result("chaos_sim", ours, shares, {})
