"""HTTP: `POST /v1/rank` over the pipeline, and what an operator asks."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ranker.metrics import Observer
from ranker.request import Problem, ProblemResponse, RankRequest, RankResponse

log = logging.getLogger("headrace.ranker")

PROBLEMS_MAX = 20
FIELD_CHARS_MAX = 200
CODES = {400: "unreadable", 404: "not_found", 405: "method_not_allowed"}


class Service(Protocol):
    """The ranker behind the HTTP face."""

    observer: Observer

    async def rank(self, request: RankRequest) -> RankResponse:
        """The feed for a request."""
        ...

    def unready(self) -> str | None:
        """Why requests should not be sent here now; None when they should."""
        ...

    def observe(self) -> None:
        """Bring the gauges up to date."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Start, and stop at the end."""
        ...


def make_app(service: Service) -> FastAPI:
    """The HTTP application of a ranker."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Headrace ranker",
        version="1",
        description="Ranks a home feed from features that a stream keeps fresh.",
        lifespan=lifespan,
    )
    app.add_exception_handler(RequestValidationError, _refuser(service.observer))
    app.add_exception_handler(Exception, _breaker(service.observer))
    for status in CODES:
        app.add_exception_handler(status, _stranger)

    @app.post(
        "/v1/rank",
        response_model=RankResponse,
        responses={422: {"model": ProblemResponse, "description": "A field is wrong; named."}},
        summary="Rank items for a user",
    )
    async def rank(request: RankRequest) -> RankResponse:
        response = await service.rank(request)
        service.observer.answered(response)
        return response

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
    async def metrics() -> Response:
        service.observe()
        return Response(service.observer.text(), media_type="text/plain; version=0.0.4")

    return app


Handler = Callable[[Request, Exception], Response]


def _refuser(observer: Observer) -> Handler:
    def refuse(_: Request, error: Exception) -> Response:
        """422 with each wrong field named."""
        assert isinstance(error, RequestValidationError)
        observer.refused()
        problems = [
            Problem(code=found["type"], field=_field(found), message=found["msg"])
            for found in error.errors()[:PROBLEMS_MAX]
        ]
        return JSONResponse(ProblemResponse(problems=problems).model_dump(), 422)

    return refuse


def _field(found: Mapping[str, Any]) -> str | None:
    """The path of a wrong field; a name in it may be a stranger's, and as long as the body."""
    if found["type"] == "json_invalid":  # which says at what character
        return None
    return ".".join(str(part) for part in found["loc"][1:])[:FIELD_CHARS_MAX] or None


async def _stranger(request: Request, error: Exception) -> Response:
    """A body that cannot be read, a path or a method that is not served."""
    status = getattr(error, "status_code", 400)
    message = {
        400: "the body cannot be read: send JSON in UTF-8",
        404: f"nothing is served at {request.url.path}: see /docs",
        405: f"{request.method} is not served at {request.url.path}: see /docs",
    }[status]
    problem = Problem(code=CODES[status], message=message)
    return JSONResponse(ProblemResponse(problems=[problem]).model_dump(), status)


def _breaker(observer: Observer) -> Handler:
    def broke(_: Request, error: Exception) -> Response:
        """500 that gives nothing away; the log has the rest."""
        observer.failed()
        log.error("a rank request broke the ranker", exc_info=error)
        problem = Problem(code="internal", message="the ranker failed; its log says where")
        return JSONResponse(ProblemResponse(problems=[problem]).model_dump(), 500)

    return broke
