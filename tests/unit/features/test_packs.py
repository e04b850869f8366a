"""Packs: golden bytes, the shortest way for each kind of id, and bytes that are no pack."""

import struct
import uuid
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.activity import ActivityTable
from features.codec import encode_value
from features.errors import BadInput
from features.strings import Strings
from features.unpack import Counted, Entry, newest_time, unpack_counts, unpack_lists
from tests.facts import Fact, fold, recounted, values
from tests.plans import USER_ACTIVITY, changed

ACTIONS = ("click", "hide", "impression", "like")
SEEN = [Fact(1000, "impression", "7", "a", "c"), Fact(1040, "impression", "9", "a", None)]
CLICKED = Fact(1045, "click", "9", "a", None, 300)


def _packs(facts: Sequence[Fact]) -> dict[str, bytes]:
    """The packs of a row, without the head of their Feast values."""
    strings = Strings()
    table = ActivityTable(USER_ACTIVITY, ACTIONS, strings)
    fold(table, ACTIONS, strings, facts)
    found = {}
    for name, value in values(table).items():
        pack = value[2:] if value[1] < 0x80 else value[3:]
        assert encode_value(pack, "Bytes") == value or name not in ("counts", "lists")
        found[name] = pack
    return found


def _load(counts: bytes, lists: bytes, newest: int) -> None:
    """Load a row of two packs."""
    table = ActivityTable(USER_ACTIVITY, ACTIONS, Strings())
    row = {"counts": encode_value(counts, "Bytes"), "lists": encode_value(lists, "Bytes")}
    table.load(np.array([0]), np.array([newest]), [[row.get(name) for name in table.fields]])
    table.encode(np.array([0]))


def test_the_bytes_of_packs_stay_what_they_are() -> None:
    packs = _packs([*SEEN, CLICKED])
    assert packs["counts"].hex() == (
        "0195080228c80103686175ac020103a8020103a802269c770201000101cc35af0101000100"
    )
    assert packs["lists"].hex() == (
        "0102000f1302010461000463000272d6380002e8072803c2f6ee030195080201cc35afac02"
    )


def test_packs_unpack_to_what_was_folded() -> None:
    packs = _packs([*SEEN, CLICKED])
    counts = unpack_counts(packs["counts"], ["impression", "click.value"])
    assert counts == {
        "impression": Counted(2, {10: {104: 1}, 50: {20: 2}}),
        "click.value": Counted(300, {10: {104: 300}, 50: {20: 300}}),
    }
    assert newest_time(packs["counts"]) == 1045
    assert unpack_lists(packs["lists"], ["recent", "shown"], ["click"]) == {
        "recent": [Entry(1045, "9", "a", None, "click", 300)],
        "shown": [Entry(1000, "7", "a", "c", None, 0), Entry(1040, "9", "a", None, None, 0)],
    }
    assert unpack_lists(packs["lists"], ["recent"])["recent"][0].action is None


def test_nothing_unpacks_to_nothing() -> None:
    assert unpack_counts(None, ["click"]) == {}
    assert unpack_lists(b"", ["recent"]) == {}


def test_a_pack_of_a_later_format_says_so() -> None:
    with pytest.raises(BadInput, match="format 104, not 1"):
        unpack_counts(b"hello world", ["click"])


LONG = [str(1_800_000_000_000_000_000 + 977 * i) for i in range(200)]
UUIDS = [
    str(uuid.UUID(int=(i + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for i in range(200)
]


@pytest.mark.parametrize(
    ("ids", "authors", "bytes_per_entry_max"),
    [
        ([str(i) for i in range(200)], ["1"], 2.3),
        ([str(i * 40 % 8000) for i in range(200)], ["1", "2", "3"], 3.2),
        (LONG, ["1"], 4.0),
        (UUIDS, ["1"], 18.3),
        (["x"], ["y"], 1.3),
    ],
)
def test_ids_take_few_bytes(ids: list[str], authors: list[str], bytes_per_entry_max: float) -> None:
    view = changed(USER_ACTIVITY, sequences=(changed(USER_ACTIVITY.sequences[1], length=200),))
    facts = [
        Fact(i, "impression", ids[i % len(ids)], authors[i % len(authors)]) for i in range(200)
    ]
    strings = Strings()
    table = ActivityTable(view, ACTIONS, strings)
    fold(table, ACTIONS, strings, facts)
    pack = values(table)["lists"][3:]
    assert len(pack) / 200 <= bytes_per_entry_max
    assert unpack_lists(pack, ["shown"])["shown"] == recounted(view, facts)["shown"]


ids = st.one_of(
    st.none(),
    st.integers(0, 2**70).map(str),
    st.integers(0, 300).map(str),
    st.uuids().map(str),
    st.sampled_from(
        ["00", "+1", "-1", "1.0", "٣", "²", UUIDS[0].upper(), UUIDS[0].replace("-", "")]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256),
)
facts = st.lists(
    st.builds(
        Fact,
        st.one_of(st.integers(0, 99), st.integers(0, 9_223_372_036_854)),
        st.sampled_from(ACTIONS),
        ids,
        st.one_of(ids, st.just("same")),
        ids,
        st.integers(0, 2**53),
    ),
    min_size=1,
    max_size=12,
)


@given(facts)
def test_every_text_that_can_be_an_id_comes_back_as_it_was(history: list[Fact]) -> None:
    strings = Strings()
    table = ActivityTable(USER_ACTIVITY, ACTIONS, strings)
    fold(table, ACTIONS, strings, history)
    stored = values(table)
    fresh = ActivityTable(USER_ACTIVITY, ACTIONS, Strings())
    fresh.load(np.array([0]), table.newest[:1], [[stored[name] or None for name in table.fields]])
    assert values(fresh) == stored
    expected = recounted(USER_ACTIVITY, history)
    lists = _packs(history)["lists"]
    found = unpack_lists(lists, ["recent", "shown"], ACTIONS)
    assert found == {n: e for n, e in expected.items() if n in ("recent", "shown")}


PACKS = _packs([*SEEN, CLICKED, *(Fact(990 + i, "like", f"x{i % 3}", str(i)) for i in range(9))])
damages = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: b"\x01" + tail),
    st.integers(0, 200).map(lambda cut: ("cut", cut)),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4),
)


def _damaged(pack: bytes, damage: object) -> bytes:
    if isinstance(damage, bytes):
        return damage
    if isinstance(damage, tuple):
        return pack[: damage[1]]
    assert isinstance(damage, list)
    out = bytearray(pack)
    for at, byte in damage:
        out[at % len(out)] = byte
    return bytes(out)


@given(damages, st.integers(0, 2))
def test_damaged_packs_are_read_or_refused_and_nothing_else(damage: object, which: int) -> None:
    counts, lists = PACKS["counts"], PACKS["lists"]
    counts = _damaged(counts, damage) if which != 1 else counts
    lists = _damaged(lists, damage) if which != 0 else lists
    refused = 0
    for read in (
        lambda: _load(counts, lists, 1045),
        lambda: unpack_counts(counts, ["click", "like"]),
        lambda: unpack_lists(lists, ["recent", "shown"], ACTIONS),
    ):
        try:
            read()
        except BadInput:
            refused += 1
    if not counts or not lists:
        assert refused  # a row without counts is none of ours


@pytest.mark.parametrize("name", ["counts", "lists"])
def test_a_pack_cut_anywhere_is_refused(name: str) -> None:
    for cut in range(len(PACKS[name])):
        packs = PACKS | {name: PACKS[name][:cut]}
        with pytest.raises(BadInput):
            _load(packs["counts"], packs["lists"], 1045)


def test_a_row_whose_newest_time_is_not_its_pack_s_is_refused() -> None:
    with pytest.raises(BadInput):
        _load(PACKS["counts"], PACKS["lists"], 1046)


def test_numbers_that_would_overflow_are_refused() -> None:
    most = b"\xff" * 8 + b"\x7f"
    for pack in (b"\x01" + most, b"\x01\x95\x08\x01" + most, struct.pack("<BQ", 1, 2**63)):
        with pytest.raises(BadInput):
            _load(pack, PACKS["lists"], 1045)
