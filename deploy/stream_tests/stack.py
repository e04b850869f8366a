"""The local stack as a script's twin: a real broker, Valkey, and all three processes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from deploy import local
from deploy.demo.stream import Stream
from deploy.local import Asked
from deploy.ports import HOST, free_port
from deploy.stack_file import Stack
from deploy.stream_tests.script import Values
from deploy.stream_tests.vectors import vectors
from features.errors import Unavailable
from features.events import Event
from features.redis_rows import RedisRows
from features.spec import Plan
from ranker.recount import Recounter
from ranker.request import DEADLINE_MS_MAX, RankRequest, RankResponse
from streaming.kafka import open_sink

FRESH_S: Final = 30.0
"""How long the ranker may take to see what stands in Redis."""
TIMEOUT_S: Final = 60.0
INDEXED: Final = ("item_id", "author_id", "category", "surface")
"""Join keys whose rows are listed."""


@contextmanager
def running_stack(folder: Path, repo: Path, model: Path | None) -> Iterator[Stack]:
    """A stack of its own, on free ports, that is gone when the `with` ends."""
    kafka, redis, http, grpc = (free_port() for _ in range(4))
    try:
        yield local.up(Asked(folder, repo, model, kafka, redis, http, grpc), _silent)
    finally:
        local.down(folder, _silent)


@contextmanager
def stack_twin(stack: Stack, plan: Plan, service: str) -> Iterator["StackTwin"]:
    """A twin on a running stack."""
    environment = local.settings(stack)
    sink = open_sink(environment["HEADRACE_KAFKA"])
    store = RedisRows(environment["HEADRACE_REDIS"], plan.project, INDEXED)
    try:
        url = f"http://{HOST}:{stack.children['ranker'].port}"
        recounter = Recounter(plan, service, lambda _: None)
        yield StackTwin(Stream(stack, sink, plan.topic), store, recounter, url)
    finally:
        store.close()
        sink.close()


class StackTwin:
    """A `Twin` on real servers. Rows stay from test to test: give each names of its own."""

    def __init__(self, stream: Stream, store: RedisRows, recounter: Recounter, url: str) -> None:
        self._stream, self._store, self._recounter, self._url = stream, store, recounter, url

    def send(self, events: Sequence[Event], now: int) -> None:
        """Send them to the topic; the log's append time is the broker's own clock."""
        self._stream.send(events)
        self._stream.wait()

    def features(self, user: str, items: Sequence[str], surface: str, now: int) -> list[Values]:
        """Computed from the rows in Redis."""
        return vectors(self._recounter, self._store, user, items, surface, now)

    def rank(self, request: RankRequest) -> RankResponse:
        """Ask the running ranker, again until it has heard of all that stands in Redis.

        It has when what it computes is what the rows in Redis make.
        """
        unhurried = request.deadline_ms or DEADLINE_MS_MAX
        asked = request.model_copy(update={"features": True, "deadline_ms": unhurried})
        deadline = time.monotonic() + FRESH_S
        while True:
            answer = self._ask(asked)
            names = [one.item_id for one in answer.items]
            assert request.now is not None
            made = self.features(request.user_id, names, request.surface, request.now)
            if made == [one.features for one in answer.items]:
                return answer
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"after {FRESH_S:.0f} s the ranker still computes other features than the rows "
                    f"in Redis make; it says of itself: {answer.degraded or 'nothing'}"
                )
            time.sleep(0.02)

    def _ask(self, request: RankRequest) -> RankResponse:
        body = request.model_dump(mode="json", exclude_none=True)
        answer = httpx.post(f"{self._url}/v1/rank", json=body, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return RankResponse.model_validate_json(answer.content)


def _silent(message: str) -> None:
    """A test prints nothing while it passes."""
