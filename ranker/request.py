"""What a feed service sends and gets: the contract of `POST /v1/rank`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from features.errors import BadInput
from ranker.cursor import CURSOR_CHARS_MAX, Cursor, read_cursor

Id = Annotated[str, Field(min_length=1, max_length=256)]
TIME_MS_MAX = 9_223_372_036_854
DEADLINE_MS_MAX = 10_000

EXAMPLES: list[JsonValue] = [
    {"user_id": "u-17", "surface": "home", "limit": 3, "candidates": ["i-1", "i-2", "i-3"]},
    {"user_id": "u-17"},
]


class RankRequest(BaseModel):
    """Rank items for a user, now."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": EXAMPLES})

    user_id: Id
    surface: Annotated[str, Field(min_length=1, max_length=64)] = "home"
    limit: int = Field(20, ge=1, le=500, description="How many items to return at most.")
    candidates: list[Id] | None = Field(
        None,
        max_length=10_000,
        description=(
            "Items to choose from; duplicates count once. Absent: the ranker's own sources. "
            "Empty: nothing to rank, an empty feed."
        ),
    )
    request_id: Id | None = Field(
        None, description="Carried into the response and the serving log; made up when absent."
    )
    now: int | None = Field(
        None, ge=0, le=TIME_MS_MAX, description="Instant to rank at, ms UTC; absent: the clock."
    )
    deadline_ms: int | None = Field(
        None,
        ge=1,
        le=DEADLINE_MS_MAX,
        description=(
            "Answer within this time of arrival, if need be with less: see `degraded`. "
            "Absent: the ranker's setting."
        ),
    )
    cursor: str | None = Field(
        None,
        min_length=1,
        max_length=CURSOR_CHARS_MAX,
        description=(
            "The `next_cursor` of the page before: the next page of the same session, as of the "
            "same instant unless `now` is given, with nothing that was shown in it. Send the "
            "same user, surface and candidates."
        ),
    )
    features: bool = Field(False, description="Return every feature of every item, by name.")
    explain: bool = Field(False, description="Say why each item stands where it stands.")
    explain_time: bool = Field(False, description="Say how long each stage took.")

    @field_validator("cursor")
    @classmethod
    def _of_this_session(cls, cursor: str | None, found: ValidationInfo) -> str | None:
        whose = found.data
        if cursor is not None and "user_id" in whose and "surface" in whose:
            try:
                read_cursor(cursor, whose["user_id"], whose["surface"])
            except BadInput as error:
                raise PydanticCustomError("bad_cursor", "{why}", {"why": str(error)}) from error
        return cursor

    def session(self) -> Cursor | None:
        """The session that this page continues, if it does."""
        if self.cursor is None:
            return None
        return read_cursor(self.cursor, self.user_id, self.surface)


class Reason(BaseModel):
    """What one group of features contributes to an item's score; an item's groups sum to it."""

    group: str
    says: str
    contribution: float


class RankedItem(BaseModel):
    """One item of the feed."""

    item_id: str
    position: int = Field(description="From 0.")
    score: float = Field(description="What the order is by.")
    heads: dict[str, float] = Field(description="Each head's prediction.")
    author_id: str | None = Field(description="To be sent back with events about the item.")
    categories: list[str] = Field(description="To be sent back with events about the item.")
    known: bool = Field(description="Whether the item table knows the item.")
    reasons: list[Reason] | None = None
    features: dict[str, float | None] | None = None


class Freshness(BaseModel):
    """How old what was read is."""

    user_updated_at: int | None = Field(
        description="Newest event folded into the user's row, ms UTC; null: an unknown user."
    )
    user_age_ms: int | None = Field(description="`now` less `user_updated_at`.")
    item_staleness_ms: float = Field(
        description="Age of the oldest change of an item that the item table has yet to apply."
    )


class RankResponse(BaseModel):
    """A ranked feed."""

    request_id: str
    now: int
    items: list[RankedItem]
    model: str = Field(description="Version of the model, or `popularity`.")
    freshness: Freshness
    next_cursor: str | None = Field(
        None, description="To be sent as `cursor` for the next page; null when there is none."
    )
    degraded: list[str] = Field(description="Stages that were late or failed, and what was done.")
    took_ms: float
    timings_ms: dict[str, float] | None = Field(
        None, description="Stage → milliseconds, where `explain_time` asked for them."
    )


class Problem(BaseModel):
    """Why a request was refused."""

    code: str
    field: str | None = None
    message: str


class ProblemResponse(BaseModel):
    """The body of every answer that is no feed."""

    problems: list[Problem]
    retry_after_ms: int | None = Field(
        None, description="When to try again, if that may help; `Retry-After` rounds it up."
    )


class BatchRequest(BaseModel):
    """The requests of several users, each checked on its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: list[JsonValue] = Field(description="Each a `RankRequest`.")


class BatchResult(BaseModel):
    """What became of one request of a batch: a feed, or why there is none."""

    response: RankResponse | None = None
    problems: ProblemResponse | None = None


class BatchResponse(BaseModel):
    """What became of each request of a batch, in order."""

    results: list[BatchResult]
