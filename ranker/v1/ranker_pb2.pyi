from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RankRequest(_message.Message):
    __slots__ = ("user_id", "surface", "limit", "candidates", "request_id", "now", "features", "explain", "deadline_ms", "cursor", "explain_time")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    surface: str
    limit: int
    candidates: Candidates
    request_id: str
    now: int
    features: bool
    explain: bool
    deadline_ms: int
    cursor: str
    explain_time: bool
    def __init__(self, user_id: _Optional[str] = ..., surface: _Optional[str] = ..., limit: _Optional[int] = ..., candidates: _Optional[_Union[Candidates, _Mapping]] = ..., request_id: _Optional[str] = ..., now: _Optional[int] = ..., features: _Optional[bool] = ..., explain: _Optional[bool] = ..., deadline_ms: _Optional[int] = ..., cursor: _Optional[str] = ..., explain_time: _Optional[bool] = ...) -> None: ...

class Candidates(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("request_id", "now", "items", "model", "freshness", "degraded", "took_ms", "head_names", "feature_names", "next_cursor", "timings_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    HEAD_NAMES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    now: int
    items: _containers.RepeatedCompositeFieldContainer[RankedItem]
    model: str
    freshness: Freshness
    degraded: _containers.RepeatedScalarFieldContainer[str]
    took_ms: float
    head_names: _containers.RepeatedScalarFieldContainer[str]
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    next_cursor: str
    timings_ms: Timings
    def __init__(self, request_id: _Optional[str] = ..., now: _Optional[int] = ..., items: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., model: _Optional[str] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., degraded: _Optional[_Iterable[str]] = ..., took_ms: _Optional[float] = ..., head_names: _Optional[_Iterable[str]] = ..., feature_names: _Optional[_Iterable[str]] = ..., next_cursor: _Optional[str] = ..., timings_ms: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("stages", "took_ms")
    STAGES_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedScalarFieldContainer[str]
    took_ms: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, stages: _Optional[_Iterable[str]] = ..., took_ms: _Optional[_Iterable[float]] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "score", "heads", "author_id", "categories", "known", "features", "explanation")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_ID_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    heads: _containers.RepeatedScalarFieldContainer[float]
    author_id: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    known: bool
    features: _containers.RepeatedScalarFieldContainer[float]
    explanation: Explanation
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., heads: _Optional[_Iterable[float]] = ..., author_id: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., known: _Optional[bool] = ..., features: _Optional[_Iterable[float]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("reasons",)
    REASONS_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    def __init__(self, reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("group", "says", "contribution")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SAYS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    group: str
    says: str
    contribution: float
    def __init__(self, group: _Optional[str] = ..., says: _Optional[str] = ..., contribution: _Optional[float] = ...) -> None: ...

class Freshness(_message.Message):
    __slots__ = ("user_updated_at", "user_age_ms", "item_staleness_ms")
    USER_UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    USER_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    ITEM_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    user_updated_at: int
    user_age_ms: int
    item_staleness_ms: float
    def __init__(self, user_updated_at: _Optional[int] = ..., user_age_ms: _Optional[int] = ..., item_staleness_ms: _Optional[float] = ...) -> None: ...

class RankBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RankRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RankRequest, _Mapping]]] = ...) -> None: ...

class RankBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RankBatchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RankBatchResult, _Mapping]]] = ...) -> None: ...

class RankBatchResult(_message.Message):
    __slots__ = ("response", "problems")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    response: RankResponse
    problems: ProblemList
    def __init__(self, response: _Optional[_Union[RankResponse, _Mapping]] = ..., problems: _Optional[_Union[ProblemList, _Mapping]] = ...) -> None: ...

class ProblemList(_message.Message):
    __slots__ = ("problems", "retry_after_ms")
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    retry_after_ms: int
    def __init__(self, problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "field", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    field: str
    message: str
    def __init__(self, code: _Optional[str] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
