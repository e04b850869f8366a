"""The client against servers of a few lines: retries and their budget, TLS, tokens, errors."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import trustme

from deploy.ports import HOST, free_port
from features.errors import BadInput, Refused, Unavailable
from ranker.client import (
    NO_RETRIES,
    AsyncClient,
    Client,
    Failed,
    InvalidRequest,
    Late,
    NotAllowed,
    Overloaded,
    RankError,
    RankRequest,
    RankResponse,
    Retries,
    Tls,
    Unreachable,
)
from ranker.client.channel import CHANNEL
from ranker.settings import RankerSettings
from ranker.v1 import ranker_pb2 as pb

Answer = Callable[[bytes, grpc.ServicerContext], bytes]
SERVICE = "ranker.v1.RankerService"
MIA = RankRequest(user_id="mia")


@contextmanager
def serving(answer: Answer, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """The address of a server that answers every call so."""
    threads = ThreadPoolExecutor(4)
    server = grpc.server(threads)
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    calls = {"Rank": handler, "RankBatch": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
    if credentials is None:
        port = server.add_insecure_port(f"{HOST}:0")
    else:
        port = server.add_secure_port(f"{HOST}:0", credentials)
    server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        server.stop(None).wait()
        threads.shutdown()


def feed(content: bytes, context: grpc.ServicerContext) -> bytes:
    """An answer that names its user."""
    asked = pb.RankRequest.FromString(content)
    return pb.RankResponse(request_id=asked.user_id).SerializeToString()


class Failing:
    """Ends the first so many calls with a status, then answers; counts them."""

    def __init__(self, times: int, status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.times, self.status = times, status
        self.calls = 0

    def __call__(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        if self.calls <= self.times:
            context.abort(self.status, "not now")
        return feed(content, context)


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_call_that_found_no_ranker_is_tried_again(status: grpc.StatusCode) -> None:
    failing = Failing(2, status)
    with serving(failing) as address, Client(address, timeout_s=10) as client:
        assert client.rank(MIA).request_id == "mia"
    assert failing.calls == 3


def test_retries_end_after_some_attempts() -> None:
    failing = Failing(10)
    with (
        serving(failing) as address,
        Client(address, timeout_s=10) as client,
        pytest.raises(Unreachable),
    ):
        client.rank(MIA)
    assert failing.calls == 3


@pytest.mark.parametrize(
    "wrong", [{"attempts_max": 0}, {"attempts_max": 6}, {"first_wait_ms": 1}, {"wait_ms_max": 5}]
)
def test_retries_that_grpc_would_not_make_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        Retries(**wrong)


def test_an_outage_is_not_multiplied() -> None:
    """Each failure takes a token; with half of them gone nothing is tried again."""
    failing = Failing(10_000)
    retries = Retries(first_wait_ms=10, wait_ms_max=10, budget=10)
    with serving(failing) as address, Client(address, timeout_s=10, retries=retries) as client:
        for _ in range(50):
            with pytest.raises(Unreachable):
                client.rank(MIA)
    assert 50 < failing.calls <= 50 + 10


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.UNAUTHENTICATED, NotAllowed),
        (grpc.StatusCode.PERMISSION_DENIED, NotAllowed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Late),
        (grpc.StatusCode.INTERNAL, Failed),
        (grpc.StatusCode.UNKNOWN, Failed),
    ],
)
def test_any_other_error_is_told_at_once_and_typed(
    status: grpc.StatusCode, error: type[RankError]
) -> None:
    failing = Failing(1, status)
    with serving(failing) as address, Client(address, timeout_s=10) as client:
        with pytest.raises(error, match=f"{status.name}: not now"):
            client.rank(MIA)
        assert failing.calls == 1
        assert client.rank(MIA).request_id == "mia"


def test_errors_say_who_has_to_act() -> None:
    assert issubclass(InvalidRequest, BadInput)
    assert issubclass(NotAllowed, Refused)
    for error in (Overloaded, Late, Unreachable):
        assert issubclass(error, Unavailable)


def test_without_retries_one_attempt_is_made() -> None:
    failing = Failing(1)
    with (
        serving(failing) as address,
        Client(address, timeout_s=10, retries=NO_RETRIES) as client,
        pytest.raises(Unreachable),
    ):
        client.rank(MIA)
    assert failing.calls == 1


def test_nobody_there_is_told_within_the_deadline() -> None:
    with Client(f"{HOST}:{free_port()}", timeout_s=5) as client:
        with pytest.raises(Unreachable):
            client.rank(MIA)
        assert not client.is_ready()


def test_an_answer_that_is_none_is_a_failure() -> None:
    with (
        serving(lambda content, context: b"\xff") as address,
        Client(address, timeout_s=10) as client,
        pytest.raises(Failed),
    ):
        client.rank(MIA)


def test_tls_and_a_token_reach_the_server() -> None:
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    key = issued.private_key_pem.bytes()
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)

    def guarded(content: bytes, context: grpc.ServicerContext) -> bytes:
        if dict(context.invocation_metadata()).get("authorization") != "Bearer opensesame":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return feed(content, context)

    credentials = grpc.ssl_server_credentials([(key, chain)])
    tls = Tls(ca=authority.cert_pem.bytes())
    with serving(guarded, credentials) as address:
        with Client(address, timeout_s=10, tls=tls, token="opensesame") as client:
            assert client.rank(MIA).request_id == "mia"
        with Client(address, timeout_s=10, tls=tls) as client, pytest.raises(NotAllowed):
            client.rank(MIA)
        other = Tls(ca=trustme.CA().cert_pem.bytes())
        with Client(address, timeout_s=10, tls=other) as client, pytest.raises(Unreachable):
            client.rank(MIA)
        with Client(address, timeout_s=10) as client, pytest.raises(Unreachable):
            client.rank(MIA)


def test_mutual_tls_shows_who_we_are() -> None:
    authority = trustme.CA()
    server, ours = authority.issue_cert(HOST), authority.issue_cert("feed-service")
    pair = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
    root = authority.cert_pem.bytes()
    credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=True)
    known = Tls(root, ours.cert_chain_pems[0].bytes(), ours.private_key_pem.bytes())
    with serving(feed, credentials) as address:
        with Client(address, timeout_s=10, tls=known) as client:
            assert client.rank(MIA).request_id == "mia"
        with Client(address, timeout_s=10, tls=Tls(root)) as client, pytest.raises(Unreachable):
            client.rank(MIA)


def test_a_token_never_travels_in_the_open() -> None:
    with pytest.raises(BadInput, match="TLS"):
        Client("ranker:8081", token="opensesame")
    assert "key" not in repr(Tls(key=b"key"))


def test_the_same_for_asyncio() -> None:
    failing = Failing(2)

    async def scenario(address: str) -> list[RankResponse]:
        async with AsyncClient(address, timeout_s=10) as client:
            feeds = await asyncio.gather(
                *(client.rank(RankRequest(user_id=f"u{number}")) for number in range(20))
            )
            failing.calls, failing.status = 0, grpc.StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(Overloaded):
                await client.rank(MIA)
            with pytest.raises(Failed):
                await client.is_ready()  # this server has no health service
        return feeds

    with serving(failing) as address:
        feeds = asyncio.run(scenario(address))
    assert [feed.request_id for feed in feeds] == [f"u{number}" for number in range(20)]


def test_a_batch_brings_feeds_and_errors_in_order() -> None:
    results = [
        pb.RankBatchResult(response=pb.RankResponse(request_id="a")),
        *(
            pb.RankBatchResult(
                problems=pb.ProblemList(
                    problems=[pb.Problem(code=code, message="why")], retry_after_ms=40
                )
            )
            for code in ("too_short", "overloaded", "late", "internal")
        ),
    ]
    content = pb.RankBatchResponse(results=results).SerializeToString()

    async def for_asyncio(address: str) -> list[RankResponse | RankError]:
        async with AsyncClient(address, timeout_s=10) as client:
            return await client.rank_batch([MIA])

    with serving(lambda *_: content) as address, Client(address, timeout_s=10) as client:
        for found in (client.rank_batch([MIA]), asyncio.run(for_asyncio(address))):
            kinds = [type(one) for one in found]
            assert kinds == [RankResponse, InvalidRequest, Overloaded, Late, Failed]
            assert isinstance(found[2], Overloaded)
            assert found[2].retry_after_s == 0.04


def test_a_ranker_that_came_back_is_found_before_the_next_one_may_go() -> None:
    """In a rolling restart of two: who is told to stop answers until the other is connected."""
    notice = RankerSettings.model_fields["stop_notice_ms"].default
    jitter = 1.2
    assert CHANNEL["grpc.max_reconnect_backoff_ms"] * jitter < notice
