"""A deterministic simulation of `route` and `aggregate` under every fault we can think of.

    python -m tests.chaos.simulator --seeds 20000 [--from S] [--workers 2]
    python -m tests.chaos.simulator --seed 123 --trace

The real workers run over a simulated broker, Redis and clock. A seed chooses the events (with
repeats and records that are none), who runs when, and what goes wrong: crashes at any call,
processes that sleep while others take their partitions (zombies), rebalances, sends and commits
that fail or arrive late or twice, calls to Redis that fail before or after they did their work or
do it much later, failovers that lose what was not sealed, old primaries that go on answering.
Then the faults stop, the stream comes to rest, and the rows must be those of a recount.
"""

import argparse
import logging
import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Final

from tests.chaos.simulation import DEFAULT, Outcome, Rules, Simulation

PART: Final = 250
"""Seeds that one process takes at a time."""


def simulate(seed: int, rules: Rules = DEFAULT, trace: bool = False) -> Outcome:
    """Run one seed."""
    return Simulation(seed, rules, trace).run()


def simulate_all(seeds: Iterable[int], rules: Rules = DEFAULT) -> list[Outcome]:
    """Run seeds; the workers' log, which is about the faults, is left out."""
    with quiet():
        return [simulate(seed, rules) for seed in seeds]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log of workers, who tell of every fault."""
    logger = logging.getLogger("headrace")
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.setLevel(level)


def how_to_repeat(outcome: Outcome) -> str:
    """The line that runs a seed again."""
    return f"python -m tests.chaos.simulator --seed {outcome.seed} --trace  # {outcome.fault}"


def fresh_seed() -> int:
    """Where to begin: as HEADRACE_CHAOS_SEED says, or drawn from the system."""
    given = os.environ.get("HEADRACE_CHAOS_SEED")
    return int(given) if given else random.SystemRandom().randrange(2**40)


def run_seeds(first: int, count: int, workers: int = 1, rules: Rules = DEFAULT) -> list[Outcome]:
    """Run consecutive seeds; those of the unchanged rules in several processes if wanted."""
    if workers == 1:
        return simulate_all(range(first, first + count), rules)
    parts = [range(at, min(at + PART, first + count)) for at in range(first, first + count, PART)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return [outcome for part in pool.map(simulate_all, parts) for outcome in part]


def main(arguments: Sequence[str]) -> int:
    """The command line; 1 when a seed was wrong."""
    parser = argparse.ArgumentParser("tests.chaos.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--from", dest="first", type=int, help="the first; default: a fresh one")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        if chosen.trace:
            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="      %(message)s")
        outcomes = [simulate(chosen.seed, trace=chosen.trace)]
    else:
        first = fresh_seed() if chosen.first is None else chosen.first
        print(f"{chosen.seeds} seeds from {first} (HEADRACE_CHAOS_SEED={first} repeats them)")
        outcomes = run_seeds(first, chosen.seeds, chosen.workers)
    wrong = [outcome for outcome in outcomes if outcome.fault]
    for outcome in wrong:
        print(how_to_repeat(outcome))
    made = sum((outcome.made for outcome in outcomes), Counter[str]())
    print(f"{len(outcomes)} runs, {len(wrong)} wrong; faults made: {dict(made)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
