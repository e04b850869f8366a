"""HTTP: `POST /v1/rank` and `/v1/rank-batch` over the front desk, and what an operator asks."""

import logging
import math
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import ClientDisconnect

from features.guard import OPEN, REALM, Guard
from features.traces import HEADER
from ranker.front_desk import (
    BODY_BYTES_MAX,
    UNKNOWN,
    Declined,
    FrontDesk,
    Read,
    nobody_waits,
    refused,
    too_large,
    unknown,
)
from ranker.metrics import Observer
from ranker.request import (
    BatchRequest,
    BatchResponse,
    BatchResult,
    Problem,
    ProblemResponse,
    RankRequest,
    RankResponse,
)

log = logging.getLogger("headrace.ranker")

STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}
WRONG = {
    401: "No token that may do this.",
    413: "The body is too large.",
    422: "A field is wrong; named.",
    429: "More is asked than can be answered in time.",
    504: "The deadline passed before the request's turn came.",
}


class Service(Protocol):
    """The ranker behind its faces."""

    observer: Observer
    desk: FrontDesk

    def unready(self) -> str | None:
        """Why requests should not be sent here now; None when they should."""
        ...

    def stopping(self) -> bool:
        """Whether connections should be made elsewhere from now on."""
        ...

    def observe(self) -> None:
        """Bring the gauges up to date."""
        ...


def make_app(service: Service, guard: Guard = OPEN) -> FastAPI:
    """The HTTP application of a ranker."""
    app = FastAPI(
        title="Headrace ranker",
        version="1",
        description="Ranks a home feed from features that a stream keeps fresh.",
        openapi_url=None if guard.guards("admin") else "/openapi.json",  # its pages go with it
    )
    desk = service.desk
    app.add_exception_handler(Exception, _broke)
    for status in STATUS_CODES:
        app.add_exception_handler(status, _stranger)

    def headers(**more: str) -> dict[str, str]:
        return {**more, "connection": "close"} if service.stopping() else more

    def answered(body: BaseModel) -> Response:
        return Response(body.model_dump_json(), 200, headers(), "application/json")

    def declined(why: Declined) -> Response:
        body, more = _problems(why), {}
        if why.kind is UNKNOWN:
            more["www-authenticate"] = REALM
        if why.retry_after_ms is not None:
            more["retry-after"] = str(math.ceil(why.retry_after_ms / 1000))
        return Response(body.model_dump_json(), why.kind.http, headers(**more), "application/json")

    def admit(request: Request) -> None:
        if not guard.admits("rank", request.headers.get("authorization")):
            raise desk.turn_away()

    # The body is read and written by pydantic alone: FastAPI would go over each item in Python.
    @app.post("/v1/rank", **_documented(RankRequest, RankResponse), summary="Rank items for a user")
    async def rank(request: Request) -> Response:
        try:
            admit(request)
            desk.knock()
            body = await _body(request)
            trace = request.headers.get(HEADER)
            return answered(
                await desk.rank(_parser(body), gone=lambda: _gone(request), trace=trace)
            )
        except Declined as why:
            return declined(why)

    @app.post(
        "/v1/rank-batch",
        **_documented(BatchRequest, BatchResponse),
        summary="Rank items for several users; each succeeds or fails on its own",
    )
    async def rank_batch(request: Request) -> Response:
        try:
            admit(request)
            results = await desk.batch(_readers(await _body(request)))
        except Declined as why:
            return declined(why)
        return answered(BatchResponse(results=[_result(one) for one in results]))

    _watched(app, service, guard)
    return app


def _watched(app: FastAPI, service: Service, guard: Guard) -> None:
    """What an orchestrator and a monitor ask."""

    @app.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Requests may be sent here")
    async def readyz(response: Response) -> dict[str, str]:
        reason = service.unready()
        if reason is None:
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not ready", "reason": reason}

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        if not guard.admits("admin", request.headers.get("authorization")):
            return _unknown()
        service.observe()
        return Response(service.observer.text(), media_type="text/plain; version=0.0.4")


def _unknown() -> Response:
    body = _problems(unknown())
    return JSONResponse(body.model_dump(), 401, {"www-authenticate": REALM})


def _documented(body: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a call whose body we read ourselves."""
    content = {"application/json": {"schema": body.model_json_schema()}}
    wrong = {
        status: {"model": ProblemResponse, "description": says} for status, says in WRONG.items()
    }
    return {
        "response_model": None,
        "responses": {200: {"model": answer}, **wrong},
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


async def _body(request: Request) -> bytes:
    """The body, up to the largest that can be right."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > BODY_BYTES_MAX:
                raise too_large()
            parts.append(part)
    except ClientDisconnect:
        raise nobody_waits() from None
    return b"".join(parts)


async def _gone(request: Request) -> None:
    """Returns when the caller has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parser(body: bytes) -> Read:
    return lambda: RankRequest.model_validate_json(body)


def _readers(body: bytes) -> list[Read]:
    """What makes the requests of a batch. Raises `Declined` for a body that is none."""
    try:
        batch = BatchRequest.model_validate_json(body)
    except ValidationError as error:
        raise refused(error) from None
    return [_checker(one) for one in batch.requests]


def _checker(content: JsonValue) -> Read:
    return lambda: RankRequest.model_validate(content)


def _result(one: RankResponse | Declined) -> BatchResult:
    if isinstance(one, Declined):
        return BatchResult(problems=_problems(one))
    return BatchResult(response=one)


def _problems(why: Declined) -> ProblemResponse:
    return ProblemResponse(problems=why.problems, retry_after_ms=why.retry_after_ms)


async def _stranger(request: Request, error: Exception) -> Response:
    """A path or a method that is not served."""
    status = getattr(error, "status_code", 404)
    message = {
        404: f"nothing is served at {request.url.path}: see /docs",
        405: f"{request.method} is not served at {request.url.path}: see /docs",
    }[status]
    problem = Problem(code=STATUS_CODES[status], message=message)
    return JSONResponse(ProblemResponse(problems=[problem]).model_dump(), status)


async def _broke(_: Request, error: Exception) -> Response:
    """500 that gives nothing away; the log has the rest."""
    log.error("an answer could not be made", exc_info=error)
    problem = Problem(code="internal", message="the ranker failed; its log says where")
    return JSONResponse(ProblemResponse(problems=[problem]).model_dump(), 500)
