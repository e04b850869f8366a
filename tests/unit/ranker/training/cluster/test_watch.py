"""The watch over a cluster: what waits for ever elsewhere ends here, in words."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest
from lightgbm.basic import LightGBMError

from features.errors import Unavailable
from ranker.training.cluster.watch import Session

SILENCE_S = 60.0


class Scheduler:
    def __init__(self) -> None:
        self.workers = {"tcp://a": 1, "tcp://b": 1}
        self.frozen = False

    def ncores(self) -> dict[str, int]:
        if self.frozen:
            raise TimeoutError
        return dict(self.workers)


class Client:
    """What a session asks of a client of Dask."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.status = "running"
        self.order: tuple[str, ...] = ()

    def sync(self, ask: Callable[[], Any], callback_timeout: float) -> Any:
        return ask()

    @contextmanager
    def as_current(self) -> Iterator[None]:
        yield


class Clock:
    """Seconds that go by whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 5.0
        return self.now


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def session(client: Client) -> Session:
    workers = tuple(client.scheduler.workers)
    return Session(client, workers, "topic", SILENCE_S, Clock(), 0.01)  # type: ignore[arg-type]


def for_ever() -> None:
    threading.Event().wait()


def raising(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_what_a_call_returns_is_returned(session: Session) -> None:
    assert session.watched("it was asked", lambda: 7) == 7


def test_a_lost_worker_ends_a_call_that_would_wait_for_ever(
    session: Session, client: Client
) -> None:
    del client.scheduler.workers["tcp://b"]
    with pytest.raises(Unavailable, match=r"1 of the Dask workers died while it waited: tcp://b\."):
        session.watched("it waited", for_ever)


def test_a_worker_that_another_took_the_place_of_is_lost(session: Session, client: Client) -> None:
    client.scheduler.workers = {"tcp://a": 1, "tcp://c": 1}
    with pytest.raises(Unavailable, match="died while it waited: tcp://b"):
        session.watched("it waited", for_ever)


def test_silence_ends_a_call_even_when_the_scheduler_hangs_too(
    session: Session, client: Client
) -> None:
    client.scheduler.frozen = True
    with pytest.raises(Unavailable, match=r"no sign for 60 s while it waited.*--dask-timeout"):
        session.watched("it waited", for_ever)


def test_every_tree_told_is_a_sign_of_life(session: Session) -> None:
    enough = threading.Event()
    told: list[dict[str, int]] = []

    def slow() -> str:
        for tree in range(40):  # eight times as long as it may be silent
            session.hear((0.0, {"tree": tree}))
            if enough.wait(0.002):
                break
        return "done"

    assert session.watched("trees grew", slow, told.append) == "done"
    assert told == [{"tree": tree} for tree in range(40)]


def test_a_closed_connection_ends_a_call(session: Session, client: Client) -> None:
    client.status = "closed"
    with pytest.raises(Unavailable, match=r"lost while it waited .*closed the connection"):
        session.watched("it waited", for_ever)


@pytest.mark.parametrize(
    "error", [CancelledError(), OSError("reset"), LightGBMError("Socket recv error, code: 104")]
)
def test_an_error_of_the_network_is_told_as_the_cluster_that_was_lost(
    session: Session, error: Exception
) -> None:
    with pytest.raises(Unavailable, match=f"was lost while it trained .{type(error).__name__}"):
        session.watched("it trained", raising(error))


def test_an_error_of_the_network_names_the_worker_that_died_of_it(
    session: Session, client: Client
) -> None:
    def call() -> None:
        del client.scheduler.workers["tcp://a"]
        raise LightGBMError("Socket recv error, Connection reset by peer (code: 104)")

    with pytest.raises(Unavailable, match="died while it trained: tcp://a"):
        session.watched("it trained", call)


@pytest.mark.parametrize("error", [LightGBMError("Unknown metric type x"), ValueError("no")])
def test_any_other_error_is_told_as_it_is(session: Session, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        session.watched("it trained", raising(error))
