"""Side effects run after the answer, in order, and are bounded."""

import threading

import numpy as np

from ranker.cursor import first
from ranker.request import RankRequest
from ranker.stages.effects import WAITING_MAX, Effects
from ranker.stages.roles import Query, Served

SERVED = Served(
    user=None,
    plan="p",
    columns=(),
    matrix=np.zeros((0, 0)),
    items=[],
    heads={},
    score=np.zeros(0),
    model="m",
    sources=[],
    propensity=[],
    by_score=np.zeros(0, np.int64),
)


def query(number: int) -> Query:
    return Query(RankRequest(user_id="u"), str(number), number, first(number))


class Waiting:
    """An effect that waits until it is let go, then notes what was served."""

    name = "waiting"

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.noted: list[str] = []

    def served(self, query: Query, served: Served) -> None:
        del served
        self.let_go.wait(20)
        self.noted.append(query.request_id)

    def trouble(self) -> str | None:
        return None


def test_what_there_is_no_room_for_is_counted_and_named() -> None:
    waiting = Waiting()
    effects = Effects([waiting])
    for number in range(WAITING_MAX + 3):
        effects.put(query(number), SERVED)
    assert effects.dropped == 3
    assert effects.trouble() == ["side_effects: too many wait, 3 have been left out"]
    waiting.let_go.set()
    effects.drain()
    assert waiting.noted == [str(number) for number in range(WAITING_MAX)]
    effects.put(query(-1), SERVED)
    assert effects.trouble() == []
    effects.close()


def test_what_waits_is_told_of_before_the_end_and_nothing_after() -> None:
    waiting = Waiting()
    waiting.let_go.set()
    effects = Effects([waiting])
    for number in range(50):
        effects.put(query(number), SERVED)
    effects.close()
    assert len(waiting.noted) == 50
    effects.put(query(50), SERVED)
    assert (len(waiting.noted), effects.dropped) == (50, 1)


def test_closing_does_not_wait_for_an_effect_that_hangs() -> None:
    waiting = Waiting()
    effects = Effects([waiting])
    effects.put(query(1), SERVED)
    effects.close(deadline_s=0.05)
    assert waiting.noted == []
    waiting.let_go.set()
