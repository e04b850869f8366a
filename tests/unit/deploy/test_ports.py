import socket

import pytest

from deploy import ports
from features.errors import Refused


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_a_port_somebody_listens_on_at_every_address_is_not_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert not ports.is_free(listener.getsockname()[1])


def test_the_usual_port_is_chosen_when_it_is_free_and_another_one_when_not() -> None:
    usual = ports.free_port()
    assert ports.choose(None, usual, "--port") == usual
    with socket.create_server(("127.0.0.1", usual)):
        assert ports.choose(None, usual, "--port") != usual


def test_a_port_asked_for_is_that_one_or_none() -> None:
    asked = ports.free_port()
    assert ports.choose(asked, 1, "--port") == asked
    with (
        socket.create_server(("127.0.0.1", asked)),
        pytest.raises(Refused, match=rf"port {asked} (?s:.*)leave --port out"),
    ):
        ports.choose(asked, 1, "--port")


def test_no_port_is_given_twice_nor_one_that_a_connection_may_take() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == len(given)
    assert max(given) < 32_768
