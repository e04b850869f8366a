"""The threads of requests: who is asked first, and what becomes of work at the end."""

import threading
from collections.abc import Iterator

import pytest

from ranker.workers import Workers


@pytest.fixture
def two() -> Iterator[Workers]:
    workers = Workers(2, "test")
    yield workers
    workers.shutdown()


def test_one_thing_after_the_other_is_done_by_one_thread(two: Workers) -> None:
    assert len({two.submit(threading.get_ident).result() for _ in range(200)}) == 1


def test_the_thread_that_was_busy_last_is_asked_first(two: Workers) -> None:
    first, second = threading.Event(), threading.Event()
    runs = [two.submit(_named, event) for event in (first, second)]
    second.set()
    runs[1].result()
    first.set()
    last = runs[0].result()
    assert [two.submit(threading.get_ident).result() for _ in range(3)] == [last] * 3


def test_no_more_run_at_a_time_than_there_are_threads(two: Workers) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def wait() -> int:
        begun.release()
        go.wait()
        return threading.get_ident()

    runs = [two.submit(wait) for _ in range(3)]
    begun.acquire()
    begun.acquire()
    assert not begun.acquire(blocking=False)
    go.set()
    assert len({run.result() for run in runs}) == 2


def test_what_is_raised_is_told_and_the_thread_goes_on(two: Workers) -> None:
    with pytest.raises(ZeroDivisionError):
        two.submit(divmod, 1, 0).result()
    assert two.submit(divmod, 7, 4).result() == (1, 3)


def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    go, done = threading.Event(), list[int]()
    one = Workers(1, "test")
    busy = one.submit(go.wait)
    dropped, kept = one.submit(done.append, 1), one.submit(done.append, 2)
    assert dropped.cancel()
    go.set()
    kept.result()
    assert busy.result()
    assert done == [2]
    one.shutdown()


@pytest.mark.parametrize("cancel", [False, True])
def test_at_the_end_what_waits_is_done_or_cancelled(cancel: bool) -> None:
    go, one = threading.Event(), Workers(1, "test")
    busy, waiting = one.submit(go.wait), one.submit(int)
    one.shutdown(wait=False, cancel_futures=cancel)
    go.set()
    assert busy.result()
    assert waiting.cancelled() if cancel else waiting.result() == 0
    with pytest.raises(RuntimeError):
        one.submit(int)


def _named(event: threading.Event) -> int:
    event.wait()
    return threading.get_ident()
