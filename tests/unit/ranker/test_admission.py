"""Who gets a turn: few at once, in order of arrival, and nobody waits long."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.admission import Admission, Left, Overloaded


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


class Guests:
    """Requests that stay until they are told to go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.inside: list[int] = []
        self.served: list[int] = []
        self._go: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, number: int, wait_s_max: float = 1e6) -> None:
        self._go[number] = asyncio.Event()
        self.tasks[number] = asyncio.create_task(self._stay(number, wait_s_max))
        await settled()

    async def go(self, number: int) -> None:
        self._go[number].set()
        await settled()

    async def _stay(self, number: int, wait_s_max: float) -> None:
        async with self.admission.turn(wait_s_max):
            self.inside.append(number)
            try:
                await self._go[number].wait()
            finally:
                self.inside.remove(number)
            self.served.append(number)


def test_a_few_run_and_the_others_follow_in_their_order() -> None:
    async def scenario() -> None:
        guests = Guests(Admission(running_max=2, wait_ms_max=10_000))
        for number in range(5):
            await guests.come(number)
        assert guests.inside == [0, 1]
        assert guests.admission.waiting == 3
        await guests.go(1)
        assert guests.inside == [0, 2]
        await guests.go(0)
        assert guests.inside == [2, 3]
        for number in (2, 3, 4):
            await guests.go(number)
        assert guests.served == [1, 0, 2, 3, 4]
        assert (guests.admission.running, guests.admission.waiting) == (0, 0)

    run(scenario())


def test_who_would_wait_too_long_is_turned_away_at_once() -> None:
    async def scenario() -> None:
        guests = Guests(Admission(running_max=1, wait_ms_max=12))
        for number in range(4):  # each is taken to need 5 ms: two may wait, the third may not
            await guests.come(number)
        assert guests.admission.waiting == 2
        with pytest.raises(Overloaded) as told:
            guests.tasks[3].result()
        assert told.value.retry_after_ms == 15
        with pytest.raises(Overloaded):
            guests.admission.check()
        with pytest.raises(Overloaded):
            Admission(1, 1_000).check(wait_s_max=-1.0)
        for number in range(3):
            guests.tasks[number].cancel()
        await settled()
        assert (guests.admission.running, guests.admission.waiting) == (0, 0)

    run(scenario())


def test_who_waits_in_vain_is_told_so_in_time() -> None:
    async def scenario() -> None:
        guests = Guests(Admission(running_max=1, wait_ms_max=10_000))
        await guests.come(0)
        await guests.come(1, wait_s_max=0.02)
        with pytest.raises(Overloaded):
            await guests.tasks[1]
        assert guests.admission.waiting == 0
        await guests.go(0)
        assert guests.served == [0]

    run(scenario())


def test_who_goes_away_leaves_the_queue_and_one_inside_stays() -> None:
    async def scenario() -> None:
        admission = Admission(running_max=1, wait_ms_max=10_000)
        went = asyncio.Event()

        async def gone() -> None:
            await went.wait()

        async with admission.turn(gone=gone):
            waiting = asyncio.create_task(admission.turn(gone=gone).__aenter__())
            await settled()
            assert admission.waiting == 1
            went.set()
            with pytest.raises(Left):
                await waiting
            assert (admission.running, admission.waiting) == (1, 0)
        assert admission.running == 0

    run(scenario())


def test_the_foreseen_wait_follows_how_long_requests_take() -> None:
    async def scenario() -> None:
        now = 0.0
        admission = Admission(running_max=2, wait_ms_max=1_000, clock=lambda: now)
        for _ in range(100):
            async with admission.turn():
                now += 0.040
        async with admission.turn(), admission.turn():
            assert admission.expected_wait_s() == pytest.approx(0.020, rel=0.01)

    run(scenario())


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["come", "go", "cancel"]), st.integers(0, 11)), max_size=60),
)
def test_whatever_happens_no_place_is_lost_and_none_is_given_twice(
    running_max: int, steps: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        guests = Guests(Admission(running_max, wait_ms_max=10_000_000))
        came: list[int] = []
        for step, number in steps:
            if step == "come":
                came.append(len(came))
                await guests.come(came[-1])
            elif number < len(came):
                if step == "go":
                    await guests.go(number)
                else:
                    guests.tasks[number].cancel()
                    await settled()
            assert len(guests.inside) == guests.admission.running <= running_max
            if guests.admission.waiting:
                assert guests.admission.running == running_max
        for task in guests.tasks.values():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert (guests.admission.running, guests.admission.waiting) == (0, 0)

    run(scenario())


def test_a_place_is_not_lost_when_its_holder_is_cancelled_as_its_turn_comes() -> None:
    async def scenario() -> None:
        guests = Guests(Admission(running_max=1, wait_ms_max=10_000))
        for number in range(3):
            await guests.come(number)
        guests._go[0].set()  # noqa: SLF001
        await asyncio.sleep(0)  # the first one leaves and the second one's turn comes …
        await asyncio.sleep(0)
        guests.tasks[1].cancel()  # … just as it goes away
        await settled()
        assert guests.inside in ([1], [2])
        if guests.inside == [2]:
            assert guests.tasks[1].cancelled()
        await guests.go(2)

    run(scenario())
