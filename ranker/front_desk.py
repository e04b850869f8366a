"""What HTTP and gRPC share: a request is let in or not, checked, ranked and counted."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from pydantic import ValidationError

from features.traces import NO_TRACES, Traces
from ranker.admission import Admission, Gone, Left, Overloaded
from ranker.metrics import Observer
from ranker.request import Problem, RankRequest, RankResponse

log = logging.getLogger("headrace.ranker")

PROBLEMS_MAX: Final = 20
FIELD_CHARS_MAX: Final = 200
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""More than the largest request that is right."""
BATCH_MAX: Final = 100
BATCH_AT_ONCE: Final = 4
"""Of one batch, so that others get their turns too."""
ANSWER_MARGIN_MS: Final = 2.0
"""What an answer needs on its way to a caller whose deadline we know."""

Read = Callable[[], RankRequest]
"""Makes the request of what came in; raises pydantic's `ValidationError` or `Declined`."""


class Kind(NamedTuple):
    """Why there is no feed, as each face tells it: the HTTP status, the gRPC status."""

    outcome: str
    http: int
    grpc: str


UNKNOWN: Final = Kind("unknown", 401, "UNAUTHENTICATED")
INVALID: Final = Kind("refused", 422, "INVALID_ARGUMENT")
TOO_LARGE: Final = Kind("refused", 413, "RESOURCE_EXHAUSTED")
OVERLOADED: Final = Kind("overloaded", 429, "RESOURCE_EXHAUSTED")
LATE: Final = Kind("late", 504, "DEADLINE_EXCEEDED")
GONE: Final = Kind("gone", 499, "CANCELLED")
FAILED: Final = Kind("failed", 500, "INTERNAL")


class Declined(Exception):
    """A request gets no feed, and is told why."""

    def __init__(
        self, kind: Kind, problems: Sequence[Problem], retry_after_ms: int | None = None
    ) -> None:
        super().__init__(problems[0].message)
        self.kind = kind
        self.problems = list(problems)
        self.retry_after_ms = retry_after_ms


class FrontDesk:
    """Takes requests from any face, and answers each with a feed or with `Declined`."""

    def __init__(
        self,
        rank: Callable[[RankRequest], Awaitable[RankResponse]],
        observer: Observer,
        admission: Admission,
        deadline_ms: int,
        traces: Traces = NO_TRACES,
    ) -> None:
        """`deadline_ms`: of requests that name none."""
        self._rank = rank
        self._observer = observer
        self._admission = admission
        self._deadline_ms = deadline_ms
        self._traces = traces
        self.busy = 0
        """Requests and batches that came and are not answered yet."""
        self._idle = asyncio.Event()
        self._idle.set()

    def turn_away(self) -> Declined:
        """What a caller gets who may not ask, counted."""
        return self._declined(unknown())

    def knock(self, left_ms: float | None = None) -> None:
        """Raise `Declined` at once when there is no room: before anything is read."""
        try:
            self._admission.check(_wait_s_max(left_ms))
        except Overloaded as error:
            raise self._declined(_overloaded(error)) from None

    async def rank(
        self,
        read: Read,
        left_ms: float | None = None,
        gone: Gone | None = None,
        trace: str | None = None,
    ) -> RankResponse:
        """The feed for one request, whose caller waits for so long and is part of a trace."""
        with self._noted(), self._traces.span("rank", () if trace is None else (trace,)) as span:
            response = await self._ranked(read, left_ms, gone)
            span.note(items=len(response.items), degraded=",".join(response.degraded))
            return response

    async def _ranked(self, read: Read, left_ms: float | None, gone: Gone | None) -> RankResponse:
        came = time.monotonic()
        request: RankRequest | None = None
        try:
            request = read()
            usual_ms = request.deadline_ms or self._deadline_ms
            budget_ms = usual_ms if left_ms is None else min(usual_ms, left_ms - ANSWER_MARGIN_MS)
            if budget_ms < 1:
                raise _late()
            async with self._admission.turn(budget_ms / 1000, gone):
                rest_ms = math.ceil(budget_ms - 1000 * (time.monotonic() - came))
                if rest_ms < 1:
                    raise _late()
                if rest_ms < usual_ms:
                    request = request.model_copy(update={"deadline_ms": rest_ms})
                response = await self._rank(request)
        except Declined as declined:
            raise self._declined(declined) from None
        except ValidationError as error:
            raise self._declined(refused(error)) from None
        except Overloaded as error:
            raise self._declined(_overloaded(error)) from None
        except Left:
            raise self._declined(nobody_waits()) from None
        except Exception as error:
            who = {"user_id": request.user_id} if request is not None else {}
            log.error("a rank request broke the ranker", exc_info=error, extra=who)
            raise self._declined(
                _declined(FAILED, "the ranker failed; its log says where", "internal")
            ) from None
        self._observer.answered(response)
        return response

    async def batch(
        self, reads: Sequence[Read], left_ms: float | None = None
    ) -> list[RankResponse | Declined]:
        """What becomes of each request of a batch; a few run at once."""
        if not 1 <= len(reads) <= BATCH_MAX:
            message = f"a batch has 1 to {BATCH_MAX} requests, this one has {len(reads)}"
            raise self._declined(_declined(INVALID, message, "batch_size", "requests"))
        came = time.monotonic()
        places = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(read: Read) -> RankResponse | Declined:
            async with places:
                waited_ms = 1000 * (time.monotonic() - came)
                try:
                    return await self.rank(read, None if left_ms is None else left_ms - waited_ms)
                except Declined as declined:
                    return declined

        with self._noted():
            return await asyncio.gather(*map(one, reads))

    async def idle(self) -> None:
        """Returns when all that came is answered."""
        await self._idle.wait()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        self.busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.busy -= 1
            if not self.busy:
                self._idle.set()

    def _declined(self, declined: Declined) -> Declined:
        self._observer.declined(declined.kind.outcome)
        return declined


def refused(error: ValidationError) -> Declined:
    """Each wrong field, by name; a name in it may be a stranger's, and as long as the body."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [
        Problem(
            code=one["type"],
            field=".".join(str(part) for part in one["loc"])[:FIELD_CHARS_MAX] or None,
            message=one["msg"],
        )
        for one in found[:PROBLEMS_MAX]
    ]
    return Declined(INVALID, problems)


def unknown() -> Declined:
    """Who calls shows no token that opens this."""
    return _declined(UNKNOWN, "a bearer token that may do this is needed", "not_allowed")


def nobody_waits() -> Declined:
    """Nobody waits for the answer any more."""
    return _declined(GONE, "the caller went away")


def unreadable(message: str) -> Declined:
    """What came in is no request at all."""
    return _declined(INVALID, message, "unreadable")


def too_large() -> Declined:
    """What came in is larger than any request that is right."""
    return _declined(TOO_LARGE, f"a body may have {BODY_BYTES_MAX} bytes", "too_large")


def _late() -> Declined:
    return _declined(LATE, "the deadline passed before the request's turn came")


def _wait_s_max(left_ms: float | None) -> float:
    return math.inf if left_ms is None else left_ms / 1000


def _overloaded(error: Overloaded) -> Declined:
    message = f"more is asked than can be answered in time: {error}"
    return Declined(OVERLOADED, [Problem(code="overloaded", message=message)], error.retry_after_ms)


def _declined(
    kind: Kind, message: str, code: str | None = None, field: str | None = None
) -> Declined:
    return Declined(kind, [Problem(code=code or kind.outcome, field=field, message=message)])
