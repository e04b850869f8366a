"""What LightGBM does on one machine alone, or a cluster decides itself."""

from collections.abc import Mapping
from typing import Any

from features.errors import BadInput

THREADS = "its workers' threads are what Dask gave them (`dask worker --nthreads`)"
NETWORK = "the workers, their ports and their number are those of the cluster"
ONE_MACHINE = "LightGBM does that on one machine alone"
DECIDED = {
    **dict.fromkeys(("num_threads", "num_thread", "nthread", "nthreads", "n_jobs"), THREADS),
    **dict.fromkeys(("machines", "workers", "nodes"), NETWORK),
    **dict.fromkeys(("num_machines", "num_machine"), NETWORK),
    **dict.fromkeys(("local_listen_port", "local_port", "port"), NETWORK),
    **dict.fromkeys(("machine_list_filename", "machine_list_file"), NETWORK),
    **dict.fromkeys(("machine_list", "mlist", "pre_partition", "is_pre_partition"), NETWORK),
    "time_out": "--dask-timeout says how long it may be silent",
    **dict.fromkeys(("forcedsplits_filename", "fs", "forced_splits_filename"), ONE_MACHINE),
    **dict.fromkeys(("forced_splits_file", "forced_splits", "forcedbins_filename"), ONE_MACHINE),
}
LEARNERS = ("data", "voting", "data_parallel", "voting_parallel")
ONLY = {
    **dict.fromkeys(("tree_learner", "tree", "tree_type", "tree_learner_type"), LEARNERS),
    "monotone_constraints_method": ("basic",),
    "monotone_constraining_method": ("basic",),
    "mc_method": ("basic",),
}
"""Parameters of which a cluster knows some values."""


def refuse(parameters: Mapping[str, Any]) -> None:
    """Raises BadInput with the first parameter that does not go with a cluster."""
    for name, value in parameters.items():
        if name in DECIDED:
            raise BadInput(
                f"--set {name}={value} with a Dask cluster: {DECIDED[name]}; leave it out"
            )
        if name in ONLY and value not in ONLY[name]:
            raise BadInput(
                f"--set {name}={value} with a Dask cluster: on several machines LightGBM knows "
                f"{', '.join(ONLY[name])}; name one of these, or train without the cluster"
            )
