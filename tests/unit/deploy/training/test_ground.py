"""Where to train: options that go together, and words for those that do not."""

from collections.abc import Mapping

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.ports import free_port
from deploy.training.ground import ground
from features.errors import BadInput, Unavailable
from ranker.training.cluster.connecting import workers_of
from ranker.training.growing import Here


def test_without_a_cluster_this_process_trains() -> None:
    with ground(None, None, None) as where:
        assert isinstance(where, Here)
        assert where.workers == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"scheduler": "tcp://h:8786", "workers": 2}, "--dask-workers starts some here.* one of"),
        ({"silence": "5m"}, "--dask-timeout 5m without a Dask cluster"),
        ({"scheduler": "h"}, "--dask 'h': write the address of a scheduler, tcp://HOST:PORT"),
        ({"scheduler": "http://h:8786"}, "write the address of a scheduler"),
        ({"workers": 2, "silence": "soon"}, "--dask-timeout 'soon'.*is not a duration"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    asked: Mapping[str, str | int], message: str
) -> None:
    every = {"scheduler": None, "workers": None, "silence": None, **asked}
    with pytest.raises(BadInput, match=message), ground(**every):  # type: ignore[arg-type]
        pass


def test_a_scheduler_that_does_not_answer_is_said_to_be_away() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(Unavailable, match=f"no Dask scheduler answers at {address}.*dask scheduler"),
        workers_of(address, silence_s=60, connect_timeout_s=1),
    ):
        pass


def test_the_command_knows_how_many_workers_may_be() -> None:
    asked = ["train", "events.jsonl", "--output", "m", "--dask-workers", "0"]
    assert CliRunner().invoke(app, asked).exit_code == 2
