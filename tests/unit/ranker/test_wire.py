"""Messages and models say the same: what goes there comes back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ranker.request import (
    TIME_MS_MAX,
    Freshness,
    Problem,
    RankedItem,
    RankRequest,
    RankResponse,
    Reason,
)
from ranker.v1 import ranker_pb2 as pb
from ranker.wire import (
    read_problems,
    read_request,
    read_response,
    write_problems,
    write_request,
    write_response,
)

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
times = st.integers(0, TIME_MS_MAX)
finite = st.floats(allow_nan=False, allow_infinity=False)

requests = st.builds(
    RankRequest,
    user_id=texts,
    surface=texts,
    limit=st.integers(1, 500),
    candidates=st.none() | st.lists(texts, max_size=5),
    request_id=st.none() | texts,
    now=st.none() | times,
    deadline_ms=st.none() | st.integers(1, 10_000),
    features=st.booleans(),
    explain=st.booleans(),
    explain_time=st.booleans(),
)


@st.composite
def responses(draw: st.DrawFn) -> RankResponse:
    heads = draw(st.lists(texts, max_size=3, unique=True))
    features = draw(st.none() | st.lists(texts, min_size=1, max_size=3, unique=True))
    reasons = st.builds(Reason, group=texts, says=texts, contribution=finite)
    items = [
        RankedItem(
            item_id=item_id,
            position=position,
            score=draw(finite),
            heads={head: draw(finite) for head in heads},
            author_id=draw(st.none() | texts),
            categories=draw(st.lists(texts, max_size=2)),
            known=draw(st.booleans()),
            reasons=draw(st.none() | st.lists(reasons, max_size=2)),
            features=None if features is None else {n: draw(st.none() | finite) for n in features},
        )
        for position, item_id in enumerate(draw(st.lists(texts, max_size=4)))
    ]
    return RankResponse(
        request_id=draw(texts),
        now=draw(times),
        items=items,
        model=draw(texts),
        freshness=Freshness(
            user_updated_at=draw(st.none() | times),
            user_age_ms=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
            item_staleness_ms=draw(finite),
        ),
        next_cursor=draw(st.none() | texts),
        degraded=draw(st.lists(texts, max_size=2)),
        took_ms=draw(finite),
        timings_ms=draw(st.none() | st.dictionaries(texts, finite, max_size=3)),
    )


@given(requests)
def test_a_request_comes_back_as_it_went(request: RankRequest) -> None:
    sent = write_request(request).SerializeToString()
    assert read_request(pb.RankRequest.FromString(sent)) == request


@given(responses())
def test_an_answer_comes_back_as_it_went(response: RankResponse) -> None:
    sent = write_response(response).SerializeToString()
    back = read_response(pb.RankResponse.FromString(sent))
    assert back == response
    assert back.model_dump_json() == response.model_dump_json()  # −0.0 is not 0.0 there


def test_absent_is_not_empty() -> None:
    assert read_request(pb.RankRequest(user_id="u")) == RankRequest(user_id="u")
    empty = pb.RankRequest(user_id="u", candidates=pb.Candidates())
    assert read_request(empty).candidates == []
    with pytest.raises(ValidationError, match="Field required"):
        read_request(pb.RankRequest())
    with pytest.raises(ValidationError, match="at least 1 character"):
        read_request(pb.RankRequest(user_id=""))


def test_what_is_not_known_is_not_a_number_on_the_wire() -> None:
    item = RankedItem(
        item_id="i",
        position=0,
        score=0.0,
        heads={},
        author_id=None,
        categories=[],
        known=False,
        features={"age": None},
    )
    freshness = Freshness(user_updated_at=None, user_age_ms=None, item_staleness_ms=0.0)
    response = RankResponse(
        request_id="r",
        now=0,
        items=[item],
        model="m",
        freshness=freshness,
        next_cursor=None,
        degraded=[],
        took_ms=0.0,
    )
    assert math.isnan(write_response(response).items[0].features[0])


@given(
    st.lists(
        st.builds(Problem, code=texts, field=st.none() | texts, message=texts),
        min_size=1,
        max_size=3,
    ),
    st.none() | st.integers(1, 10_000),
)
def test_problems_come_back_as_they_went(
    problems: list[Problem], retry_after_ms: int | None
) -> None:
    back = read_problems(write_problems(problems, retry_after_ms))
    assert (back.problems, back.retry_after_ms) == (problems, retry_after_ms)
