"""Calls a ranker over gRPC: `Client`, and `AsyncClient` for asyncio.

    with Client("ranker:8081") as ranker:
        feed = ranker.rank(RankRequest(user_id="mia", candidates=["guitar", "piano"]))

RankError
├── InvalidRequest   a field is wrong: mend the request          (a BadInput)
├── NotAllowed       who calls is not known, or may not          (a Refused)
├── Overloaded       too much is asked: wait `retry_after_s`     (an Unavailable)
├── Late             no answer within the deadline               (an Unavailable)
├── Unreachable      no ranker answers, after some tries         (an Unavailable)
└── Failed           the ranker broke; its log says where
"""

from ranker.client.aio import AsyncClient
from ranker.client.blocking import Client
from ranker.client.channel import NO_RETRIES, Retries, Tls
from ranker.client.errors import (
    Failed,
    InvalidRequest,
    Late,
    NotAllowed,
    Overloaded,
    RankError,
    Unreachable,
)
from ranker.request import RankRequest, RankResponse

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "Client",
    "Failed",
    "InvalidRequest",
    "Late",
    "NotAllowed",
    "Overloaded",
    "RankError",
    "RankRequest",
    "RankResponse",
    "Retries",
    "Tls",
    "Unreachable",
]
