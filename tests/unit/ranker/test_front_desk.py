"""The front desk over fakes: deadlines, batches, counts."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ranker.admission import Admission
from ranker.front_desk import BATCH_AT_ONCE, Declined, FrontDesk
from ranker.metrics import Observer
from ranker.request import Freshness, RankRequest, RankResponse

Rank = Callable[[RankRequest], Awaitable[RankResponse]]
USUAL_MS = 250
FRESH = Freshness(user_updated_at=None, user_age_ms=None, item_staleness_ms=0.0)


def feed(request: RankRequest) -> RankResponse:
    """An answer that names its user."""
    return RankResponse(
        request_id=request.user_id,
        now=0,
        items=[],
        model="m",
        freshness=FRESH,
        next_cursor=None,
        degraded=[],
        took_ms=1.0,
    )


class Slow:
    """Ranks when it is let; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[RankRequest] = []
        self.at_once = 0
        self.most = 0
        self.go = asyncio.Event()

    async def rank(self, request: RankRequest) -> RankResponse:
        self.asked.append(request)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        return feed(request)


def desk_of(rank: Rank, running_max: int = 8, wait_ms_max: int = 10_000) -> FrontDesk:
    return FrontDesk(rank, Observer(), Admission(running_max, wait_ms_max), USUAL_MS)


def read(user_id: str, **fields: int) -> Callable[[], RankRequest]:
    return lambda: RankRequest.model_validate({"user_id": user_id, **fields})


async def quick(request: RankRequest) -> RankResponse:
    return feed(request)


def test_the_shorter_deadline_counts_less_what_an_answer_needs() -> None:
    slow = Slow()
    slow.go.set()
    desk = desk_of(slow.rank)
    for fields, left_ms in (
        ({}, None),
        ({}, 1e9),
        ({"deadline_ms": 30}, 100.0),
        ({"deadline_ms": 3000}, 1e9),
        ({}, 100.0),
        ({"deadline_ms": 300}, 100.0),
    ):
        asyncio.run(desk.rank(read("u", **fields), left_ms))
    *whole, cut, cut_too = [request.deadline_ms for request in slow.asked]
    assert whole == [None, None, 30, 3000]
    for deadline_ms in (cut, cut_too):
        assert 80 < (deadline_ms or 0) <= 98


def test_what_a_request_waited_is_taken_off_its_deadline() -> None:
    async def scenario() -> None:
        slow = Slow()
        desk = desk_of(slow.rank, running_max=1)
        first = asyncio.create_task(desk.rank(read("a")))
        second = asyncio.create_task(desk.rank(read("b", deadline_ms=5_000)))
        await asyncio.sleep(0.05)
        slow.go.set()
        await asyncio.gather(first, second)
        assert 4_000 < (slow.asked[1].deadline_ms or 0) <= 4_951

    asyncio.run(scenario())


def test_a_deadline_that_has_passed_is_late_and_nothing_begins() -> None:
    slow = Slow()
    with pytest.raises(Declined) as told:
        asyncio.run(desk_of(slow.rank).rank(read("a"), left_ms=1.0))
    assert told.value.kind.outcome == "late"
    assert slow.asked == []


def test_a_batch_runs_a_few_at_once_and_each_fails_alone() -> None:
    async def scenario() -> None:
        slow = Slow()
        desk = desk_of(slow.rank)
        reads = [read("" if number == 3 else f"u{number}") for number in range(20)]
        batch = asyncio.create_task(desk.batch(reads))
        await asyncio.sleep(0.01)
        assert (slow.at_once, desk.busy > 0) == (BATCH_AT_ONCE, True)
        slow.go.set()
        results = await batch
        assert slow.most == BATCH_AT_ONCE
        assert desk.busy == 0
        for number, result in enumerate(results):
            if isinstance(result, Declined):
                assert number == 3
                assert result.problems[0].field == "user_id"
            else:
                assert result.request_id == f"u{number}"

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_of_a_wrong_size_is_refused_whole(count: int) -> None:
    with pytest.raises(Declined, match="a batch has 1 to 100 requests"):
        asyncio.run(desk_of(quick).batch([read("u")] * count))


def test_idle_comes_when_all_that_came_is_answered() -> None:
    async def scenario() -> None:
        slow = Slow()
        desk = desk_of(slow.rank)
        await desk.idle()
        ranking = asyncio.create_task(desk.rank(read("u")))
        await asyncio.sleep(0)
        idle = asyncio.create_task(desk.idle())
        await asyncio.sleep(0.01)
        assert not idle.done()
        slow.go.set()
        await ranking
        await asyncio.wait_for(idle, 1)

    asyncio.run(scenario())


def test_everything_is_counted_by_its_outcome() -> None:
    async def broken(request: RankRequest) -> RankResponse:
        raise ZeroDivisionError(request.user_id)

    async def scenario() -> bytes:
        observer = Observer()
        room = Admission(1, 1)
        desk = FrontDesk(quick, observer, room, USUAL_MS)
        await desk.rank(read("u"))
        for failing, wanted in ((read(""), desk), (read("u"), None)):
            with pytest.raises(Declined):
                await (wanted or FrontDesk(broken, observer, room, USUAL_MS)).rank(failing)
        async with room.turn():
            with pytest.raises(Declined):
                desk.knock()
        return observer.text()

    text = asyncio.run(scenario()).decode()
    for outcome in ("ok", "refused", "failed", "overloaded"):
        assert f'headrace_rank_requests_total{{outcome="{outcome}"}} 1.0' in text
