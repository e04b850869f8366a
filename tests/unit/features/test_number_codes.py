"""Codes of numbers, against a dict."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.number_codes import NumberCodes

numbers = st.one_of(st.integers(0, 50), st.integers(0, (1 << 62) - 1))


@given(st.lists(st.lists(numbers, max_size=100), max_size=8))
def test_every_number_is_found_under_the_code_it_was_given(rounds: list[list[int]]) -> None:
    codes, expected = NumberCodes(), dict[int, int]()
    for asked in rounds:
        fresh = [number for number in dict.fromkeys(asked) if number not in expected]
        given = range(len(expected), len(expected) + len(fresh))
        found = codes.find(np.array(asked, np.int64))
        assert found.tolist() == [expected.get(number, -1) for number in asked]
        codes.add(np.array(fresh, np.int64), np.array(given, np.int64))
        expected |= zip(fresh, given, strict=True)
    every = np.array(list(expected), np.int64)
    assert codes.find(every).tolist() == list(expected.values())
