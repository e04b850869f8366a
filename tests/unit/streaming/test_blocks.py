"""A block comes back as it was sent, or not at all."""

import dataclasses
import json
import struct
import zlib
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import BadInput
from features.events import Event
from features.layout import Ints
from features.project import Projection
from features.updates import COLUMNS, Columns
from streaming import blocks
from streaming.blocks import (
    MAGIC,
    Block,
    BlockHeader,
    Span,
    by_target,
    decode_block,
    encode_block,
    part_of,
)
from tests.plans import PLAN
from tests.strategies import histories

HEADER = BlockHeader("plan", 1, "incarnation", (Span(2, 30, 40, 5, 7), Span(3, 1, 2, 0, 4)))


def _updates(events: list[Event]) -> Columns:
    return Projection(PLAN).updates(enumerate(events, start=7))


def _plain(updates: Columns) -> list[tuple[object, ...]]:
    """Each update in words, with nothing that depends on where keys and texts stand."""

    def text(code: int) -> str | None:
        return None if code < 0 else updates.texts[code]

    columns = {name: getattr(updates, name).tolist() for name in COLUMNS}
    return [
        (
            columns["view"][i],
            updates.keys[columns["key"][i]],
            *(columns[name][i] for name in ("offset", "time", "event", "action", "value")),
            *(text(columns[name][i]) for name in ("item", "author", "category")),
            updates.payloads.get(i),
        )
        for i in range(len(updates))
    ]


@given(histories())
def test_a_block_comes_back_whole(events: list[Event]) -> None:
    updates = _updates(events)
    block = decode_block(encode_block(Block(HEADER, updates)))
    assert block.header == HEADER
    assert [block.header.source_name(span) for span in HEADER.spans] == ["1/2", "1/3"]
    assert _plain(block.updates) == _plain(updates)
    assert all(getattr(block.updates, name).dtype == np.int64 for name in COLUMNS)


@given(histories(), st.data())
def test_damaged_bytes_are_bad_input(events: list[Event], data: st.DataObject) -> None:
    content = bytearray(encode_block(Block(HEADER, _updates(events))))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadInput):
        decode_block(bytes(content))


@given(histories(), st.data())
def test_a_cut_block_is_bad_input(events: list[Event], data: st.DataObject) -> None:
    content = encode_block(Block(HEADER, _updates(events)))
    with pytest.raises(BadInput):
        decode_block(content[: data.draw(st.integers(0, len(content) - 1))])


@given(histories())
def test_a_block_of_format_1_is_one_span(events: list[Event]) -> None:
    updates = _updates(events)
    one = dataclasses.replace(HEADER, spans=(Span(2, 7, 11, 5, len(updates)),))
    flat = {"source": 2, "first": 7, "last": 11, "sequence": 5}
    old = {"version": 1, "plan": "plan", "generation": 1, "incarnation": "incarnation", **flat}
    with mock.patch.object(blocks, "_encode_header", return_value=json.dumps(old).encode()):
        block = decode_block(encode_block(Block(one, updates)))
    assert block.header == one
    assert _plain(block.updates) == _plain(updates)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"HRUB", b"HRUB\0\0\0\0", b'{"type":"impression"}']
)
def test_what_is_no_block_is_bad_input(content: bytes) -> None:
    with pytest.raises(BadInput):
        decode_block(content)


def test_a_block_of_a_later_version_says_which_process_to_upgrade() -> None:
    header = json.dumps({"version": 3}).encode()
    body = struct.pack("<I", len(header)) + header
    with pytest.raises(BadInput, match=r"version 3.*upgrade aggregate before route"):
        decode_block(MAGIC + struct.pack("<I", zlib.crc32(body)) + body)


def _split(updates: Columns, target_of_key: Ints) -> dict[int, Columns]:
    found = by_target(updates, target_of_key)
    return {target: part_of(updates, chosen) for target, chosen in found.items()}


@given(histories(), st.integers(1, 5))
def test_a_split_keeps_every_update_once_at_its_target_and_in_order(
    events: list[Event], targets: int
) -> None:
    updates = _updates(events)
    target_of_key = np.array([len(key) % targets for key in updates.keys], np.int64)
    parts = _split(updates, target_of_key)
    whole = _plain(updates)
    assert Counter(map(repr, whole)) == Counter(
        repr(update) for part in parts.values() for update in _plain(part)
    )
    for target, part in parts.items():
        assert all(len(key) % targets == target for key in part.keys)
        assert _plain(part) == [u for u in whole if len(u[1]) % targets == target]  # type: ignore[arg-type]
        assert len(part.keys) == len(set(part.key.tolist()))


def test_a_part_carries_only_the_texts_it_uses() -> None:
    columns = {name: np.zeros(2, np.int64) for name in COLUMNS}
    updates = Columns(
        keys=[b"a", b"b"],
        texts=["only a", "only b"],
        payloads={},
        **{**columns, "key": np.array([0, 1]), "item": np.array([0, 1])},
    )
    updates = dataclasses.replace(updates, author=np.array([-1, -1]), category=np.array([0, -1]))
    parts = _split(updates, np.array([0, 1]))
    assert [parts[0].texts, parts[1].texts] == [["only a"], ["only b"]]
    assert _split(_updates([]), np.zeros(0, np.int64)) == {}
