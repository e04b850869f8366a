"""Replies of Redis, however they are cut by the network, give the same places of values."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.redis_wire import _Question, whole_is_quicker

NAMES = [struct.pack("<I", 2_654_435_761 * n % 2**32) for n in range(1, 5)]
HASHES = st.lists(
    st.dictionaries(st.sampled_from([*NAMES, b"_ts:v", b"othr"]), st.binary(max_size=30)),
    min_size=1,
    max_size=5,
)


def _bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def _replies(hashes: list[dict[bytes, bytes]], whole: bool) -> bytes:
    if whole:
        parts = [[x for pair in h.items() for x in pair] for h in hashes]
    else:
        parts = [[h.get(name) for name in NAMES] for h in hashes]  # type: ignore[misc]
    return b"".join(b"*%d\r\n%b" % (len(p), b"".join(map(_bulk, p))) for p in parts)


@given(HASHES, st.booleans(), st.lists(st.integers(1, 60), max_size=20))
def test_a_reply_in_pieces_is_found_as_a_whole_one(
    hashes: list[dict[bytes, bytes]], whole: bool, pieces: list[int]
) -> None:
    question = _Question(NAMES, "whole" if whole else "fields")
    replies = _replies(hashes, whole)
    buffer = np.frombuffer(replies, np.uint8).copy()
    shape = (len(hashes), len(NAMES))
    found = np.zeros(shape, np.int64), np.full(shape, 99, np.int64)
    state, end = np.zeros(2, np.int64), 0
    for piece in [*pieces, len(replies)]:
        end = min(end + piece, len(replies))
        assert question.scan(buffer, end, state, found) == 0
    assert state.tolist() == [len(replies), len(hashes)]
    places, lengths = found
    for row, content in enumerate(hashes):
        for column, name in enumerate(NAMES):
            at, size = places[row, column], lengths[row, column]
            assert (replies[at : at + size] if size >= 0 else None) == content.get(name)


@pytest.mark.parametrize("fetch", ["fields", "whole"])
@pytest.mark.parametrize("reply", [b"-ERR no\r\n", b"+OK\r\n", b":3\r\n", b"$2\r\nab\r\n"])
def test_a_reply_that_is_no_array_is_told(fetch: str, reply: bytes) -> None:
    question = _Question(NAMES, fetch)  # type: ignore[arg-type]
    found = np.zeros((1, 4), np.int64), np.zeros((1, 4), np.int64)
    buffer = np.frombuffer(reply, np.uint8).copy()
    assert question.scan(buffer, len(reply), np.zeros(2, np.int64), found) == 1


def test_few_fields_of_a_compact_hash_are_asked_for_one_by_one() -> None:
    assert not whole_is_quicker(asked=4, fields=10, compact=True)
    assert whole_is_quicker(asked=40, fields=120, compact=True)
    assert not whole_is_quicker(asked=20, fields=500, compact=True)
    assert not whole_is_quicker(asked=40, fields=120, compact=False)
    assert whole_is_quicker(asked=40, fields=45, compact=False)
