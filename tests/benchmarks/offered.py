"""What a ranker makes of requests that come at a rate, whatever became of those before them."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import numpy as np

from ranker.v1 import ranker_pb2 as pb
from ranker.wire import write_request
from tests.benchmarks.serving import Asked

CALL: Final = "/ranker.v1.RankerService/Rank"
CONNECTIONS: Final = 16
"""So many callers: each connection stays with one process of the ranker."""
DEADLINE_S: Final = 0.25


@dataclass
class Outcome:
    """What became of the requests of one run."""

    offered_per_s: float
    seconds: float
    whole_ms: list[float] = field(default_factory=list)
    """How long each whole feed took that came within the deadline."""
    degraded: int = 0
    turned_away: int = 0
    late: int = 0

    @property
    def goodput_per_s(self) -> float:
        """Whole feeds within the deadline, a second."""
        return len(self.whole_ms) / self.seconds

    def percentile_ms(self, part: int) -> float:
        """Of the time that whole feeds took."""
        return float(np.percentile(self.whole_ms, part)) if self.whole_ms else float("nan")


def offer(address: str, asked: Sequence[Asked], rate: float, seconds: float) -> Outcome:
    """Requests at random instants, at a rate, for so long."""
    return asyncio.run(_offer(address, asked, rate, seconds))


def saturation(address: str, asked: Sequence[Asked], seconds: float, callers: int = 12) -> float:
    """Answers a second to callers who ask again as soon as they are answered."""
    return asyncio.run(_saturate(address, asked, seconds, callers))


async def _offer(address: str, asked: Sequence[Asked], rate: float, seconds: float) -> Outcome:
    rng, outcome = random.Random(7), Outcome(rate, seconds)
    channels, calls = _connected(address, CONNECTIONS)
    messages = _messages(asked)
    under_way: set[asyncio.Task[None]] = set()
    due = began = time.perf_counter()
    number = 0
    while due < began + seconds:
        pause_s = due - time.perf_counter()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        call, message = calls[number % len(calls)], messages[number % len(messages)]
        task = asyncio.create_task(_ask(call, message, due, outcome))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        number += 1
        due += rng.expovariate(rate)
    await asyncio.gather(*under_way)
    await asyncio.gather(*(channel.close() for channel in channels))
    return outcome


async def _ask(call: Any, message: bytes, due: float, outcome: Outcome) -> None:
    """One request; its time runs from when it was due, so that a slow caller hides nothing."""
    left_s = due + DEADLINE_S - time.perf_counter()
    try:
        answer = pb.RankResponse.FromString(await call(message, timeout=max(left_s, 0.001)))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            outcome.turned_away += 1
        elif error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            outcome.late += 1
        else:
            raise
        return
    took_s = time.perf_counter() - due
    if took_s > DEADLINE_S:
        outcome.late += 1
    elif answer.degraded:
        outcome.degraded += 1
    else:
        outcome.whole_ms.append(1000 * took_s)


async def _saturate(address: str, asked: Sequence[Asked], seconds: float, callers: int) -> float:
    channels, calls = _connected(address, callers)
    messages, answered = _messages(asked), 0
    until = time.perf_counter() + seconds

    async def again(call: Any, number: int) -> None:
        nonlocal answered
        while time.perf_counter() < until:
            try:
                await call(messages[number % len(messages)], timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.005)
            else:
                answered += 1
            number += 1

    await asyncio.gather(*(again(call, number) for number, call in enumerate(calls)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return answered / seconds


def _connected(address: str, count: int) -> tuple[list[grpc.aio.Channel], list[Any]]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(count)]
    return channels, [channel.unary_unary(CALL) for channel in channels]


def _messages(asked: Sequence[Asked]) -> list[bytes]:
    return [write_request(one.request).SerializeToString() for one in asked]
