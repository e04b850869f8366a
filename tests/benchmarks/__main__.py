"""`python -m tests.benchmarks NAME`: run one benchmark. FULL=1 for the long form."""

import importlib
import os
import signal
import sys
import warnings

from tests.benchmarks.report import print_result

BENCHMARKS = (
    "chaos_sim",
    "diversity",
    "forest",
    "freshness",
    "growth_ingest",
    "growth_rank",
    "ingest",
    "item_table",
    "matrix",
    "memory",
    "quality_delay",
    "quality_kuairand",
    "quality_ranklens",
    "rank",
    "rank_overload",
    "rank_rpc",
    "rank_under_writes",
    "replay",
)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in BENCHMARKS:
        print(f"usage: python -m tests.benchmarks NAME, one of: {', '.join(BENCHMARKS)}")
        return 2
    benchmark = importlib.import_module(f"tests.benchmarks.{arguments[0]}")
    # Feast and kafka-python warn of themselves; figures are all that is wanted here.
    warnings.filterwarnings("ignore", "Stream feature views are experimental", RuntimeWarning)
    warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
    print_result(benchmark.run(full=os.environ.get("FULL", "0") == "1"))
    return 0


if __name__ == "__main__":
    # A benchmark that is told to stop leaves its `with`s, and so stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
