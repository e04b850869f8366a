"""The threads of requests: who is asked first, and what becomes of work at the end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps

import pytest

from ranker.workers import Workers


def on_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@asynccontextmanager
async def threads(most: int) -> AsyncIterator[Workers]:
    workers = Workers(most, "test")
    try:
        yield workers
    finally:
        workers.shutdown()


@on_a_loop
async def test_one_thing_after_the_other_is_done_by_one_thread() -> None:
    async with threads(2) as two:
        assert len({await two.submit(threading.get_ident) for _ in range(200)}) == 1


@on_a_loop
async def test_the_thread_that_was_busy_last_is_asked_first() -> None:
    first, second = threading.Event(), threading.Event()
    async with threads(2) as two:
        runs = [two.submit(_named, event) for event in (first, second)]
        second.set()
        await runs[1]
        first.set()
        last = await runs[0]
        assert [await two.submit(threading.get_ident) for _ in range(3)] == [last] * 3


@on_a_loop
async def test_no_more_run_at_a_time_than_there_are_threads() -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def wait() -> int:
        begun.release()
        go.wait()
        return threading.get_ident()

    async with threads(2) as two:
        runs = [two.submit(wait) for _ in range(3)]
        begun.acquire()
        begun.acquire()
        assert not begun.acquire(blocking=False)
        go.set()
        assert len(set(await asyncio.gather(*runs))) == 2


@on_a_loop
async def test_what_is_raised_is_told_and_the_thread_goes_on() -> None:
    async with threads(2) as two:
        with pytest.raises(ZeroDivisionError):
            await two.submit(divmod, 1, 0)
        assert await two.submit(divmod, 7, 4) == (1, 3)


@on_a_loop
async def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    go, done = threading.Event(), list[int]()
    async with threads(1) as one:
        busy = one.submit(go.wait)
        dropped, kept = one.submit(done.append, 1), one.submit(done.append, 2)
        assert dropped.cancel()
        go.set()
        await kept
        assert await busy
        assert done == [2]


@on_a_loop
async def test_what_came_too_late_for_who_waited_is_nobodys() -> None:
    go = threading.Event()
    async with threads(1) as one:
        late = one.submit(go.wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await late
        go.set()
        assert await one.submit(divmod, 7, 4) == (1, 3)
        assert late.cancelled()


def test_the_end_of_a_loop_ends_no_thread() -> None:
    go, one = threading.Event(), Workers(1, "test")

    async def leave() -> None:
        one.submit(go.wait)

    async def ask() -> int:
        return await one.submit(threading.get_ident)

    asyncio.run(leave())
    go.set()
    assert asyncio.run(ask()) == asyncio.run(ask())
    one.shutdown()


@on_a_loop
async def test_at_the_end_what_is_done_is_told_and_what_waits_is_cancelled() -> None:
    go, one = threading.Event(), Workers(1, "test")
    busy, waiting = one.submit(go.wait), one.submit(int)
    one.shutdown()
    go.set()
    assert await busy
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        one.submit(int)


def _named(event: threading.Event) -> int:
    event.wait()
    return threading.get_ident()
