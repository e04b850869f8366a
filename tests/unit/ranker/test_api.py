"""The HTTP face over the pipeline in memory: what callers are told, right or wrong."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from features.errors import Unavailable
from ranker.api import make_app
from ranker.request import ProblemResponse, RankRequest, RankResponse
from tests.serving import Serving

MANY = ",".join(['"i"'] * 10_001)
JSON = {"content-type": "application/json"}


class Client:
    """Calls an application without a socket."""

    def __init__(self, app: FastAPI) -> None:
        # The answer of 500 is what a caller sees of an error; a server would log the rest.
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._call("GET", path))

    def post(self, path: str, **content: Any) -> httpx.Response:
        return asyncio.run(self._call("POST", path, **content))

    async def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://ranker") as http:
            return await http.request(method, path, **content)


@pytest.fixture
def client(serving: Serving) -> Client:
    return Client(make_app(serving))


def rank(client: Client, **body: Any) -> RankResponse:
    answer = client.post("/v1/rank", json=body)
    assert answer.status_code == 200, answer.text
    return RankResponse.model_validate_json(answer.content)


def refusal(client: Client, body: bytes | str) -> ProblemResponse:
    answer = client.post("/v1/rank", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    return ProblemResponse.model_validate_json(answer.content)


def test_a_request_is_answered_with_a_feed(client: Client, serving: Serving) -> None:
    feed = rank(client, user_id="u3", candidates=["i1", "i2", "ghost"], request_id="r-7")
    assert feed.request_id == "r-7"
    assert {item.item_id: item.known for item in feed.items} == {
        "i1": True,
        "i2": True,
        "ghost": False,
    }
    assert feed == serving.ask(
        user_id="u3", candidates=["i1", "i2", "ghost"], request_id="r-7"
    ).model_copy(update={"took_ms": feed.took_ms})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "user_id"),
        ('{"user_id": ""}', "user_id"),
        ('{"user_id": 7}', "user_id"),
        ('{"user_id": "' + "u" * 257 + '"}', "user_id"),
        (r'{"user_id": "\ud800"}', None),
        ('{"user_id": "u", "limit": 0}', "limit"),
        ('{"user_id": "u", "limit": 501}', "limit"),
        ('{"user_id": "u", "limit": 1.5}', "limit"),
        ('{"user_id": "u", "limit": null}', "limit"),
        ('{"user_id": "u", "now": -1}', "now"),
        ('{"user_id": "u", "now": NaN}', "now"),
        ('{"user_id": "u", "now": Infinity}', "now"),
        ('{"user_id": "u", "now": 1e300}', "now"),
        ('{"user_id": "u", "now": 1669852800000000}', "now"),
        ('{"user_id": "u", "surface": ""}', "surface"),
        ('{"user_id": "u", "candidates": "i1"}', "candidates"),
        ('{"user_id": "u", "candidates": ["i1", ""]}', "candidates.1"),
        ('{"user_id": "u", "candidates": ["i1", null, 3]}', "candidates.1"),
        ('{"user_id": "u", "candidates": [' + MANY + "]}", "candidates"),
        ('{"user_id": "u", "request_id": ""}', "request_id"),
        ('{"user_id": "u", "features": "maybe"}', "features"),
        ('{"user_id": "u", "usr": "u"}', "usr"),
        (r'{"user_id": "u", "\ud800": 1}', None),
        ('{"user_id": "u", "' + "x" * 100_000 + '": 1}', "x" * 200),
        ("[]", None),
        ("null", None),
        ("", None),
        ('{"user_id": "u"', None),
        ("user_id=u", None),
    ],
)
def test_a_wrong_request_is_told_the_field(client: Client, body: str, field: str | None) -> None:
    problems = refusal(client, body).problems
    assert problems[0].field == field
    assert problems[0].message
    assert problems[0].code


def test_many_wrong_fields_make_a_short_answer(client: Client) -> None:
    body = {"user_id": 1, "candidates": [1] * 9_000}
    problems = refusal(client, json.dumps(body)).problems
    assert [problem.field for problem in problems[:2]] == ["user_id", "candidates.0"]
    assert len(problems) == 20


@pytest.mark.parametrize(
    "body", [b'{"user_id": "\xff"}', b"[" * 100_000, b'{"user_id": "u", "now": ' + b"9" * 5_000]
)
def test_a_body_that_is_no_json_is_a_problem_too(client: Client, body: bytes) -> None:
    answer = client.post("/v1/rank", content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    assert ProblemResponse.model_validate_json(answer.content).problems[0].message


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_no_bytes_break_the_ranker(client: Client, body: bytes) -> None:
    assert client.post("/v1/rank", content=body, headers=JSON).status_code in (400, 422)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.fixed_dictionaries({}, optional=dict.fromkeys(RankRequest.model_fields, values)))
def test_any_values_are_answered_or_refused_by_name(client: Client, body: dict[str, Any]) -> None:
    answer = client.post("/v1/rank", content=json.dumps(body), headers=JSON)
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 422:
        for problem in ProblemResponse.model_validate_json(answer.content).problems:
            assert (problem.field or "").partition(".")[0] in RankRequest.model_fields


def test_limits_are_inclusive(client: Client) -> None:
    many = [f"ghost{number}" for number in range(10_000)]
    assert len(rank(client, user_id="u" * 256, candidates=many, limit=500).items) == 500
    assert len(rank(client, user_id="u", candidates=many, limit=1).items) == 1
    assert len(rank(client, user_id="u", candidates=many).items) == 20
    assert rank(client, user_id="u", now=0).now == 0


def test_what_cannot_be_known_is_null_in_json(client: Client) -> None:
    body = {"user_id": "nobody", "candidates": ["ghost"], "features": True}
    feed = client.post("/v1/rank", json=body).json()
    assert feed["freshness"]["user_age_ms"] is None
    assert feed["items"][0]["features"]["item_facts__age_s"] is None


def test_another_path_or_method_is_a_problem_as_well(client: Client) -> None:
    for answer, code in ((client.get("/v2/rank"), 404), (client.get("/v1/rank"), 405)):
        assert answer.status_code == code
        assert "/docs" in ProblemResponse.model_validate_json(answer.content).problems[0].message


def test_a_programmers_error_is_a_500_that_gives_nothing_away(
    client: Client, serving: Serving
) -> None:
    class Broken:
        async def rank(self, request: RankRequest) -> RankResponse:
            raise ZeroDivisionError(f"secret of {request.user_id}")

    serving.pipeline = Broken()  # type: ignore[assignment]
    answer = client.post("/v1/rank", json={"user_id": "u3"})
    assert answer.status_code == 500
    assert ProblemResponse.model_validate_json(answer.content).problems[0].code == "internal"
    assert "secret" not in answer.text
    assert samples(client)["headrace_rank_requests_total", "failed"] == 1


def test_health_is_not_readiness(client: Client, serving: Serving) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    serving.not_ready = "live rows are not loaded yet"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "live rows are not loaded yet"
    assert client.get("/healthz").status_code == 200


def samples(client: Client) -> dict[tuple[str, str], float]:
    """What /metrics says, by name and (only) label value."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_answers_refusals_and_degraded_stages(
    client: Client, serving: Serving
) -> None:
    rank(client, user_id="u3")
    serving.users.fault = Unavailable("redis://someone:secret@host is away")
    rank(client, user_id="u3")
    refusal(client, "{}")
    serving.live.behind_ms = 70.0
    found = samples(client)
    assert found["headrace_rank_requests_total", "ok"] == 2
    assert found["headrace_rank_requests_total", "refused"] == 1
    assert found["headrace_rank_degraded_total", "user_row"] == 1
    assert found["headrace_rank_seconds_count", ""] == 2
    assert found["headrace_ranker_state", "item_staleness_ms"] == 70.0


def test_openapi_has_the_examples_and_the_problem(client: Client) -> None:
    schema = client.get("/openapi.json").json()
    rank = schema["paths"]["/v1/rank"]["post"]
    assert rank["responses"]["422"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ProblemResponse"
    }
    for example in rank["requestBody"]["content"]["application/json"]["schema"]["examples"]:
        assert client.post("/v1/rank", json=example).status_code == 200
    assert client.get("/docs").status_code == 200
