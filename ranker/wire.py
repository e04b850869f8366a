"""`ranker.v1` messages to and from the models of `ranker.request`, field for field."""

import math
from collections.abc import Sequence
from typing import Any

from ranker.request import (
    Freshness,
    Problem,
    ProblemResponse,
    RankedItem,
    RankRequest,
    RankResponse,
    Reason,
)
from ranker.v1 import ranker_pb2 as pb

NAN = math.nan


def read_request(message: pb.RankRequest) -> RankRequest:
    """The request of a message. Raises pydantic's `ValidationError`, as JSON does."""
    fields: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    if message.HasField("candidates"):
        fields["candidates"] = list(message.candidates.item_ids)
    return RankRequest.model_validate(fields)


def write_request(request: RankRequest) -> pb.RankRequest:
    """The message of a request."""
    fields: dict[str, Any] = {
        name: value
        for name in RankRequest.model_fields
        if (value := getattr(request, name)) is not None
    }
    if "candidates" in fields:
        fields["candidates"] = pb.Candidates(item_ids=fields["candidates"])
    return pb.RankRequest(**fields)


def write_response(response: RankResponse) -> pb.RankResponse:
    """The message of an answer."""
    first = response.items[0] if response.items else None
    return pb.RankResponse(
        request_id=response.request_id,
        now=response.now,
        items=[_write_item(item) for item in response.items],
        model=response.model,
        freshness=pb.Freshness(
            user_updated_at=response.freshness.user_updated_at,
            user_age_ms=response.freshness.user_age_ms,
            item_staleness_ms=response.freshness.item_staleness_ms,
        ),
        degraded=response.degraded,
        took_ms=response.took_ms,
        head_names=first.heads if first else (),
        feature_names=first.features if first and first.features else (),
        next_cursor=response.next_cursor,
        timings_ms=None
        if response.timings_ms is None
        else pb.Timings(stages=response.timings_ms.keys(), took_ms=response.timings_ms.values()),
    )


def _write_item(item: RankedItem) -> pb.RankedItem:
    message = pb.RankedItem(
        item_id=item.item_id,
        score=item.score,
        heads=item.heads.values(),
        author_id=item.author_id,
        categories=item.categories,
        known=item.known,
    )
    if item.features is not None:
        message.features.extend(NAN if x is None else x for x in item.features.values())
    if item.reasons is not None:
        message.explanation.SetInParent()
        message.explanation.reasons.extend(
            pb.Reason(group=one.group, says=one.says, contribution=one.contribution)
            for one in item.reasons
        )
    return message


def read_response(message: pb.RankResponse) -> RankResponse:
    """The answer of a message."""
    heads, features = list(message.head_names), list(message.feature_names)
    freshness = message.freshness
    return RankResponse(
        request_id=message.request_id,
        now=message.now,
        items=[
            _read_item(item, position, heads, features)
            for position, item in enumerate(message.items)
        ],
        model=message.model,
        freshness=Freshness(
            user_updated_at=_optional(freshness, "user_updated_at"),
            user_age_ms=_optional(freshness, "user_age_ms"),
            item_staleness_ms=freshness.item_staleness_ms,
        ),
        next_cursor=_optional(message, "next_cursor"),
        degraded=list(message.degraded),
        took_ms=message.took_ms,
        timings_ms=dict(zip(message.timings_ms.stages, message.timings_ms.took_ms, strict=True))
        if message.HasField("timings_ms")
        else None,
    )


def _read_item(
    item: pb.RankedItem, position: int, heads: list[str], features: list[str]
) -> RankedItem:
    return RankedItem(
        item_id=item.item_id,
        position=position,
        score=item.score,
        heads=dict(zip(heads, item.heads, strict=True)),
        author_id=_optional(item, "author_id"),
        categories=list(item.categories),
        known=item.known,
        reasons=[
            Reason(group=one.group, says=one.says, contribution=one.contribution)
            for one in item.explanation.reasons
        ]
        if item.HasField("explanation")
        else None,
        features=_features(features, item) if features else None,
    )


def _features(names: list[str], item: pb.RankedItem) -> dict[str, float | None]:
    return {n: None if x != x else x for n, x in zip(names, item.features, strict=True)}


def write_problems(problems: Sequence[Problem], retry_after_ms: int | None) -> pb.ProblemList:
    """The message of why there is no feed."""
    return pb.ProblemList(
        problems=[pb.Problem(code=p.code, field=p.field, message=p.message) for p in problems],
        retry_after_ms=retry_after_ms,
    )


def read_problems(message: pb.ProblemList) -> ProblemResponse:
    """Why there is no feed."""
    return ProblemResponse(
        problems=[
            Problem(code=p.code, field=_optional(p, "field"), message=p.message)
            for p in message.problems
        ],
        retry_after_ms=_optional(message, "retry_after_ms"),
    )


def _optional(message: Any, field: str) -> Any:
    """A field's value, None when it is absent."""
    return getattr(message, field) if message.HasField(field) else None
