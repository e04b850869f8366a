"""What a call to the ranker may raise, by who has to act; drawn in `ranker.client`."""

from collections.abc import Mapping
from typing import Any, Final

import grpc

from features.errors import BadInput, HeadraceError, Refused, Unavailable
from ranker.request import Problem, ProblemResponse, RankResponse
from ranker.v1 import ranker_pb2 as pb
from ranker.wire import read_problems, read_response

PROBLEMS_KEY: Final = "headrace-problems-bin"


class RankError(HeadraceError):
    """A request got no feed."""

    def __init__(self, message: str, why: ProblemResponse) -> None:
        super().__init__(message)
        self.problems: list[Problem] = why.problems
        self.retry_after_s = None if why.retry_after_ms is None else why.retry_after_ms / 1000


class InvalidRequest(RankError, BadInput):
    """A field is wrong; `problems` names it."""


class NotAllowed(RankError, Refused):
    """The caller is not known to the ranker, or may not do this."""


class Overloaded(RankError, Unavailable):
    """The ranker is asked for more than it can answer in time."""


class Late(RankError, Unavailable):
    """No answer came within the deadline."""


class Unreachable(RankError, Unavailable):
    """No ranker answers at the address."""


class Failed(RankError):
    """The ranker broke, or answered what no ranker answers."""


ERRORS: Final[Mapping[grpc.StatusCode, type[RankError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: Late,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    # With this gRPC ends what reaches a server just as it stops.
    grpc.StatusCode.CANCELLED: Unreachable,
}
CODES: Final[Mapping[str, type[RankError]]] = {
    "overloaded": Overloaded,
    "late": Late,
    "internal": Failed,
}
"""Of the problems of one request in a batch; any other is a wrong field."""


def of_batch(why: ProblemResponse) -> RankError:
    """Why one request of a batch got no feed."""
    first = why.problems[0]
    return CODES.get(first.code, InvalidRequest)(first.message, why)


def of_call(error: Any) -> RankError:
    """What a status means, with the problems that came with it."""
    kind = ERRORS.get(error.code(), Failed)
    message = f"{error.code().name}: {error.details()}"
    for key, value in error.trailing_metadata() or ():
        if key == PROBLEMS_KEY:
            return kind(message, read_problems(pb.ProblemList.FromString(value)))
    return kind(message, ProblemResponse(problems=[]))


def results(answer: pb.RankBatchResponse) -> list[RankResponse | RankError]:
    """What became of each request of a batch."""
    return [
        read_response(one.response)
        if one.HasField("response")
        else of_batch(read_problems(one.problems))
        for one in answer.results
    ]
