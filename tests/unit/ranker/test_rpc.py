"""The gRPC face over the pipeline in memory: what callers are told, and that HTTP says the same."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar, cast

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.ports import HOST
from ranker.api import make_app
from ranker.client import (
    NO_RETRIES,
    Client,
    Failed,
    InvalidRequest,
    Late,
    Overloaded,
    RankRequest,
    RankResponse,
)
from ranker.front_desk import BODY_BYTES_MAX
from ranker.request import BatchResponse, ProblemResponse
from ranker.rpc import PROBLEMS_KEY, RpcServer
from ranker.v1 import ranker_pb2 as pb
from ranker.wire import read_problems
from tests.serving import Serving
from tests.waiting import until

T = TypeVar("T")
RANK = "/ranker.v1.RankerService/Rank"
BATCH = "/ranker.v1.RankerService/RankBatch"
STATUS = {
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Faces:
    """Both faces of one ranker, in an event loop of their own."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._http = httpx.ASGITransport(make_app(serving), raise_app_exceptions=False)
        self.rpc = self.do(self._started())
        self.address = f"{HOST}:{self.rpc.port}"
        self.channel = grpc.insecure_channel(self.address)
        self.client = Client(self.address, timeout_s=60, retries=NO_RETRIES)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def post(self, path: str, content: str) -> httpx.Response:
        return self.do(self._post(path, content))

    def call(self, path: str, content: bytes) -> bytes:
        answer: bytes = self.begin(path, content).result()
        return answer

    def begin(self, path: str, content: bytes) -> Any:
        """A call on its way."""
        return cast(Any, self.channel.unary_unary(path)).future(content, timeout=60)

    def close(self) -> None:
        self.client.close()
        self.channel.close()
        self.do(self.rpc.stop(1))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _started(self) -> RpcServer:
        server = RpcServer(self.serving, f"{HOST}:0")
        await server.start()
        return server

    async def _post(self, path: str, content: str) -> httpx.Response:
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(transport=self._http, base_url="http://ranker") as http:
            return await http.post(path, content=content, headers=headers)


@pytest.fixture
def faces(serving: Serving) -> Iterator[Faces]:
    made = Faces(serving)
    yield made
    made.close()


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, ProblemResponse]:
    """The status and the problems that a call ends with."""
    with pytest.raises(grpc.RpcError) as told:
        call()
    error: Any = told.value
    for key, value in error.trailing_metadata():
        if key == PROBLEMS_KEY:
            return error.code(), read_problems(pb.ProblemList.FromString(value))
    raise AssertionError(f"no problems came with {error}")


def alike(one: RankResponse, other: RankResponse) -> bool:
    """The same but for how long it took."""
    return one.model_copy(update={"took_ms": 0.0}) == other.model_copy(update={"took_ms": 0.0})


texts = st.text(st.characters(codec="utf-8"), max_size=8)
ids = st.sampled_from(["i1", "i2", "i3", "ghost", "", "é", "i" * 257]) | texts
fields = st.fixed_dictionaries(
    {"request_id": st.sampled_from(["r", "", "r" * 257])},
    optional={
        "user_id": st.sampled_from(["u1", "u3", "nobody", "", "u" * 257]) | texts,
        "surface": st.sampled_from(["home", "", "s" * 65]) | texts,
        "limit": st.sampled_from([1, 2, 500]) | st.integers(-(2**31), 2**31 - 1),
        "candidates": st.lists(ids, max_size=6),
        "now": st.integers(0, 20_000) | st.integers(-(2**63), 2**63 - 1),
        "deadline_ms": st.just(10_000) | st.integers(-(2**31), 0),
        "cursor": texts,
        "features": st.booleans(),
        "explain": st.booleans(),
    },
)


def message_of(given: dict[str, Any]) -> bytes:
    wanted = dict(given)
    if "candidates" in wanted:
        wanted["candidates"] = pb.Candidates(item_ids=wanted["candidates"])
    return pb.RankRequest(**wanted).SerializeToString()


def body_of(given: dict[str, Any]) -> str:
    return str(httpx.Request("POST", "http://ranker", json=given).content.decode())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(fields)
def test_the_same_request_gets_the_same_answer_on_both(faces: Faces, given: dict[str, Any]) -> None:
    answer = faces.post("/v1/rank", body_of(given))
    if answer.status_code == 200:
        by_http = RankResponse.model_validate_json(answer.content)
        by_grpc = faces.client.rank(RankRequest.model_validate(given))
        assert alike(by_http, by_grpc)
        return
    status, problems = refusal(lambda: faces.call(RANK, message_of(given)))
    assert status == STATUS[answer.status_code]
    assert problems == ProblemResponse.model_validate_json(answer.content)


def test_pages_go_on_over_either(faces: Faces) -> None:
    first = faces.client.rank(RankRequest(user_id="u3", limit=2))
    assert first.next_cursor is not None
    again = RankRequest(user_id="u3", limit=2, cursor=first.next_cursor)
    by_grpc = faces.client.rank(again)
    answer = faces.post("/v1/rank", again.model_copy().model_dump_json())
    by_http = RankResponse.model_validate_json(answer.content)
    shown = [[item.item_id for item in one.items] for one in (by_grpc, by_http)]
    assert shown[0] == shown[1]
    assert not {item.item_id for item in first.items} & set(shown[0])


def test_a_batch_fails_one_by_one_and_alike_on_both(faces: Faces) -> None:
    users = ["u1", "", "u3", "nobody"]
    batch: list[Any] = [{"user_id": user, "request_id": f"r-{user}", "limit": 3} for user in users]
    answer = faces.post("/v1/rank-batch", body_of({"requests": batch}))
    assert answer.status_code == 200, answer.text
    by_http = BatchResponse.model_validate_json(answer.content).results
    sent = pb.RankBatchRequest(requests=[pb.RankRequest(**one) for one in batch])
    by_grpc = pb.RankBatchResponse.FromString(faces.call(BATCH, sent.SerializeToString())).results
    assert [one.WhichOneof("result") for one in by_grpc] == [
        "response",
        "problems",
        "response",
        "response",
    ]
    assert by_http[1].problems == read_problems(by_grpc[1].problems)
    feeds = faces.client.rank_batch([RankRequest(**batch[0]), RankRequest(**batch[2])])
    for feed, other in zip(feeds, (by_http[0], by_http[2]), strict=True):
        assert isinstance(feed, RankResponse)
        assert other.response is not None
        assert alike(feed, other.response)


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_of_a_wrong_size_is_refused_alike(faces: Faces, count: int) -> None:
    answer = faces.post("/v1/rank-batch", body_of({"requests": [{"user_id": "u"}] * count}))
    sent = pb.RankBatchRequest(requests=[pb.RankRequest(user_id="u")] * count)
    status, problems = refusal(lambda: faces.call(BATCH, sent.SerializeToString()))
    assert (answer.status_code, status) == (422, STATUS[422])
    assert problems == ProblemResponse.model_validate_json(answer.content)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=100))
def test_no_bytes_break_the_ranker(faces: Faces, content: bytes) -> None:
    assert faces.begin(RANK, content).code() in (
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
    )


def test_a_body_that_is_too_large_is_refused_on_both(faces: Faces) -> None:
    answer = faces.post("/v1/rank", "x" * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413
    call = faces.begin(RANK, b"x" * (BODY_BYTES_MAX + 1))
    assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


class Stuck:
    """A pipeline that does not answer until it is let; counts who gave up."""

    def __init__(self) -> None:
        self.began = self.cancelled = 0

    async def rank(self, request: RankRequest) -> RankResponse:
        self.began += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError(request.user_id)


def stick(faces: Faces) -> Stuck:
    stuck = Stuck()
    faces.serving.pipeline = stuck  # type: ignore[assignment]
    return stuck


def test_a_caller_that_goes_away_stops_its_request_and_frees_its_turn(faces: Faces) -> None:
    stuck = stick(faces)
    calls = [faces.begin(RANK, message_of({"user_id": "u"})) for _ in range(6)]
    until(lambda: stuck.began == 4 and faces.serving.desk.busy == 6)
    for call in calls:
        call.cancel()
    until(lambda: faces.serving.desk.busy == 0)
    assert stuck.cancelled == stuck.began  # and a turn that came as its caller left was given back


def test_what_has_not_begun_when_the_caller_leaves_never_begins(faces: Faces) -> None:
    stuck = stick(faces)
    running = [faces.begin(RANK, message_of({"user_id": "u"})) for _ in range(4)]
    until(lambda: stuck.began == 4)
    waiting = faces.begin(RANK, message_of({"user_id": "v"}))
    until(lambda: faces.serving.desk.busy == 5)
    waiting.cancel()
    until(lambda: faces.serving.desk.busy == 4)
    assert stuck.began == 4
    for call in running:
        call.cancel()
    until(lambda: faces.serving.desk.busy == 0)


def test_a_deadline_ends_the_call_in_time(faces: Faces) -> None:
    stick(faces)
    with pytest.raises(Late):
        faces.client.rank(RankRequest(user_id="u"), timeout_s=0.05)


def test_who_would_wait_too_long_is_told_when_to_come_back(faces: Faces) -> None:
    """Of four at once, each taken to need 5 ms: behind 16 who wait, that is 20 ms and more."""
    stuck = stick(faces)
    calls = [faces.begin(RANK, message_of({"user_id": "u"})) for _ in range(20)]
    until(lambda: faces.serving.desk.busy == 20)
    assert stuck.began == 4
    with pytest.raises(Overloaded) as told:
        faces.client.rank(RankRequest(user_id="u", deadline_ms=10))
    assert told.value.retry_after_s == 0.021
    answer = faces.post("/v1/rank", '{"user_id": "u", "deadline_ms": 10}')
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["problems"][0]["code"] == "overloaded"
    assert answer.json()["retry_after_ms"] == 21
    for call in calls:
        call.cancel()
    until(lambda: faces.serving.desk.busy == 0)


def test_a_programmers_error_gives_nothing_away(faces: Faces) -> None:
    class Broken:
        async def rank(self, request: RankRequest) -> RankResponse:
            raise ZeroDivisionError(f"secret of {request.user_id}")

    faces.serving.pipeline = Broken()  # type: ignore[assignment]
    with pytest.raises(Failed) as told:
        faces.client.rank(RankRequest(user_id="u"))
    assert "secret" not in str(told.value)
    assert told.value.problems[0].code == "internal"


def test_a_wrong_request_is_told_by_name(faces: Faces) -> None:
    wrong = RankRequest.model_construct(user_id="", candidates=["i1", ""])
    with pytest.raises(InvalidRequest) as told:
        faces.client.rank(wrong)
    assert [problem.field for problem in told.value.problems] == ["user_id", "candidates.1"]


def test_health_follows_readiness_and_flips_before_the_end(faces: Faces) -> None:
    watching = cast(Any, health_pb2_grpc.HealthStub(faces.channel)).Watch(
        health_pb2.HealthCheckRequest(service="ranker.v1.RankerService")
    )
    serving, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    assert next(watching).status == serving
    faces.serving.not_ready = "live rows are not loaded yet"
    assert next(watching).status == not_serving
    assert not faces.client.is_ready()
    faces.serving.not_ready = None
    assert next(watching).status == serving
    assert faces.client.is_ready()
    faces.do(faces.rpc.not_serving())
    assert next(watching).status == not_serving
    assert faces.client.rank(RankRequest(user_id="u3")).items
    watching.cancel()


def test_reflection_names_the_services(faces: Faces) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = cast(Any, reflection_pb2_grpc).ServerReflectionStub(faces.channel)
    (answer,) = stub.ServerReflectionInfo(iter([asked]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"ranker.v1.RankerService", "grpc.health.v1.Health"} <= names
