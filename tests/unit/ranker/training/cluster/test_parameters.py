"""Parameters of LightGBM that a cluster decides, or cannot follow."""

import pytest

from features.errors import BadInput
from ranker.training.boosting import PARAMETERS
from ranker.training.cluster.growing import of_one_machine
from ranker.training.cluster.parameters import refuse


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_threads", "4", "num_threads=4 with a Dask cluster: .*dask worker --nthreads"),
        ("n_jobs", "4", "--nthreads"),
        ("machines", "a:1,b:2", "those of the cluster; leave it out"),
        ("time_out", "3", "--dask-timeout"),
        ("forcedsplits_filename", "splits.json", "on one machine alone"),
        ("tree_learner", "feature", "knows data, voting.*or train without the cluster"),
        ("tree_learner", "serial", "knows data, voting"),
        ("monotone_constraints_method", "advanced", "knows basic"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        refuse({"num_leaves": "15", name: value})


@pytest.mark.parametrize(("name", "value"), [("tree_learner", "voting"), ("num_leaves", "15")])
def test_other_parameters_pass(name: str, value: str) -> None:
    refuse({name: value})


def test_our_own_parameters_ask_for_nothing_else_than_threads() -> None:
    refuse({name: value for name, value in PARAMETERS.items() if name != "num_threads"})


def test_a_text_forgets_the_machines_and_nothing_else() -> None:
    text = (
        "tree\nparameters:\n[tree_learner: data]\n[num_machines: 2]\n[seed: 7]\n"
        "[machines: 10.0.0.1:41,10.0.0.2:42]\n[local_listen_port: 41]\n[time_out: 5]\n"
    )
    assert of_one_machine(text) == (
        "tree\nparameters:\n[tree_learner: serial]\n[num_machines: 1]\n[seed: 7]\n"
        "[machines: ]\n[local_listen_port: 12400]\n[time_out: 120]\n"
    )
