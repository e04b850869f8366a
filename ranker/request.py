"""What a feed service sends and gets: the contract of `POST /v1/rank`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Id = Annotated[str, Field(min_length=1, max_length=256)]
TIME_MS_MAX = 9_223_372_036_854

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
    features: bool = Field(False, description="Return every feature of every item, by name.")
    explain: bool = Field(False, description="Say why each item stands where it stands.")
    explain_time: bool = Field(False, description="Say how long each stage took.")


class Reason(BaseModel):
    """What one group of features contributes to an item's raw score."""

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
    """The body of every 4xx answer."""

    problems: list[Problem]
