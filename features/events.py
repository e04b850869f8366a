"""The events that enter Headrace: facts about a feed, one JSON object each, told apart by `type`.

Unknown fields are ignored, ids are opaque strings, times are integer UTC milliseconds. Numbers are
strict (`true` or "5" is no integer), everything has a limit, and no bytes make the parser raise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

SCHEMA_VERSION = 1
RECORD_BYTES_MAX = 1_048_576
TIME_MS_MAX = 9_223_372_036_854  # the last millisecond that fits int64 nanoseconds (Arrow, pandas)
_REASON_CHARS_MAX = 300
_ATTRIBUTES_MAX = 64
_FLOAT32_MAX = 3.4028234663852886e38  # embeddings are stored as float32

Id = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
TimeMs = Annotated[int, Field(ge=0, le=TIME_MS_MAX)]
Amount = Annotated[int, Field(ge=0, le=2**53)]
Categories = Annotated[list[Id], Field(max_length=64, fail_fast=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Component = Annotated[float, Field(allow_inf_nan=False, ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
Embedding = Annotated[list[Component], Field(min_length=1, max_length=4096, fail_fast=True)]
Text = Annotated[str, Field(max_length=8192)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _few(value: object) -> object:
    """Refuses a large object before its fields are looked at: each would cost four errors."""
    if isinstance(value, dict) and len(value) > _ATTRIBUTES_MAX:
        raise PydanticCustomError("too_many", f"at most {_ATTRIBUTES_MAX}, not {len(value)}")
    return value


Attributes = Annotated[
    dict[Id, Text | Integer | Number | bool],
    Field(max_length=_ATTRIBUTES_MAX),
    BeforeValidator(_few),
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Envelope(_Strict):
    """What every event carries: `event_id` is unique per fact, `event_time` is when it happened."""

    event_id: Id
    event_time: TimeMs
    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION


class ShownItem(_Strict):
    """One item of an impression, with the ids that its counters need."""

    item_id: Id
    author_id: Id | None = None
    categories: Categories = []


class ImpressionEvent(_Envelope):
    """Items were shown to a user, in this order."""

    type: Literal["impression"] = "impression"
    request_id: Id
    user_id: Id
    surface: Name
    items: Annotated[list[ShownItem], Field(min_length=1, max_length=1000, fail_fast=True)]


class EngagementEvent(_Envelope):
    """A user acted on an item; `value` is a whole amount such as milliseconds watched."""

    type: Literal["engagement"] = "engagement"
    user_id: Id
    item_id: Id
    action: Name
    request_id: Id | None = None
    surface: Name | None = None
    position: Amount | None = None
    value: Amount | None = None
    author_id: Id | None = None
    categories: Categories = []


class ItemEvent(_Envelope):
    """What an item is, as of `event_time`; `ended` takes it out of every feed.

    A view takes the newest event whole, but an event that carries embeddings and nothing else
    leaves the rest of the item as it was.
    """

    type: Literal["item"] = "item"
    item_id: Id
    author_id: Id | None = None
    categories: Categories = []
    created_at: TimeMs | None = None
    attributes: Attributes = {}
    embedding: Embedding | None = None
    embeddings: Annotated[dict[Name, Embedding], Field(max_length=4)] = {}
    """Embeddings of other versions, by the version's name: a product that goes over from one to
    another keeps both for a while."""
    ended: bool = False


class UserEvent(_Envelope):
    """What a user is, as of `event_time`, and whether they consent to a personal feed.

    Of embeddings alone it is what such an event of an item is.
    """

    type: Literal["user"] = "user"
    user_id: Id
    attributes: Attributes = {}
    consent: bool | None = None
    embedding: Embedding | None = None
    embeddings: Annotated[dict[Name, Embedding], Field(max_length=4)] = {}


class ForgetEvent(_Envelope):
    """A user asks to be erased."""

    type: Literal["forget"] = "forget"
    user_id: Id


Event: TypeAlias = ImpressionEvent | EngagementEvent | ItemEvent | UserEvent | ForgetEvent
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
_TYPES = ("impression", "engagement", "item", "user", "forget")


@dataclass(frozen=True, slots=True)
class BadEvent:
    """A record that is no event, and why: one line of at most 300 characters."""

    reason: str


def parse_events(values: Sequence[bytes | None]) -> list[Event | BadEvent]:
    """One result per record, in order; a bad record neither raises nor touches its neighbours.

    Records are validated one by one: joining them into one JSON array saves 6 % and lets a record
    such as `1,2` or `{"a":[{}` reach into the next.
    """
    validate = _EVENT.validator.validate_json
    results: list[Event | BadEvent] = []
    for value in values:
        if value is None:
            results.append(BadEvent("no value (a tombstone)"))
        elif len(value) > RECORD_BYTES_MAX:
            results.append(
                BadEvent(f"record of {len(value)} bytes is over the limit of {RECORD_BYTES_MAX}")
            )
        else:
            try:
                results.append(validate(value))
            except ValidationError as error:
                results.append(BadEvent(_one_line(_reason(error))))
    return results


def dump_event(event: Event) -> bytes:
    """The event as compact JSON, without nulls and defaults."""
    rest = event.__pydantic_serializer__.to_json(event, exclude_none=True, exclude_defaults=True)
    return b'{"type":"%b",%b' % (event.type.encode(), rest[1:])


def record_key(event: Event) -> bytes:
    """The key of the event's Kafka record: its item for an item event, else its user."""
    owner = event.item_id if isinstance(event, ItemEvent) else event.user_id
    return owner.encode()


def event_json_schema() -> dict[str, Any]:
    """The JSON Schema of one record."""
    schema = _EVENT.json_schema()
    for definition in schema["$defs"].values():
        if "type" in definition["properties"]:
            definition["required"].insert(0, "type")  # has a default in Python, not on the wire
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Headrace event",
        **schema,
    }


def _reason(error: ValidationError) -> str:
    """The first thing wrong, in words that name the field."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return f"not JSON: {context['error']}"
    if kind == "union_tag_invalid":
        return f"unknown type {context['tag'][:80]!r}; known are {', '.join(_TYPES)}"
    if kind == "union_tag_not_found":
        return "no type"
    if not first["loc"]:
        return "not a JSON object"
    path = [str(part)[:80] for part in first["loc"][1:]]  # the first part is the event's type
    if path[0] == "attributes" and len(path) == 3 and path[2] != "[key]":
        return f"attributes.{path[1]}: Input should be a short text, finite number or boolean"
    return f"{'.'.join(path)}: {first['msg']}"


def _one_line(text: str) -> str:
    """The text without what would break a log line: it quotes field names chosen by strangers."""
    return "".join(c if c.isprintable() else "?" for c in text[:_REASON_CHARS_MAX])
