"""Sums of numbers that do not depend on their order, against the exact fractions."""

import math
import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from features.exact import add, canonical, pack_number, pack_sum, quotient, scaled, unpack_number

NUMBERS = st.integers() | st.floats()
KNOWN = NUMBERS.map(canonical).filter(lambda number: number is not None)


def _summed(numbers: list[float]) -> tuple[int, int]:
    total, scale = 0, 0
    for number in numbers:
        total, scale = add(total, scale, *scaled(number))
    return total, scale


@given(st.lists(KNOWN, max_size=30), st.randoms())
def test_a_sum_is_the_exact_one_in_any_order(numbers: list[float], rng: random.Random) -> None:
    total, scale = _summed(numbers)
    assert Fraction(total, 2**scale) == sum(map(Fraction, numbers))
    shuffled = rng.sample(numbers, len(numbers))
    assert pack_sum(*_summed(shuffled)) == pack_sum(total, scale)
    assert pack_sum(total << 3, scale + 3) == pack_sum(total, scale)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_a_read_sum_and_mean_are_rounded_once(numbers: list[float]) -> None:
    known = [n for n in map(canonical, numbers) if n is not None]
    total, scale = _summed(known)
    read, mean = quotient(total, scale), quotient(total, scale, len(known))
    assert read is not None
    assert mean is not None
    assert float(read) == math.fsum(numbers)
    assert float(mean) == float(sum(map(Fraction, known)) / len(known))


@given(KNOWN)
def test_a_number_comes_back_from_its_bytes_as_what_it_was(number: float) -> None:
    back = unpack_number(b"x" + pack_number(number), 1)
    assert back == number
    assert type(back) is type(number)


@given(NUMBERS)
def test_equal_numbers_have_one_form(number: float) -> None:
    found = canonical(number)
    if found is None:
        assert not abs(number) < 2**1023
        return
    assert float(found) == float(number)
    assert abs(found) > 2**53 or repr(found) == repr(canonical(float(number)))


def test_what_is_no_number_has_no_form() -> None:
    assert [canonical(value) for value in (True, "3", None, [1], 10**400)] == [None] * 5
    assert canonical(2.0**63) == 2.0**63
    assert type(canonical(-(2.0**63))) is int


def test_a_sum_beyond_every_double_is_null() -> None:
    assert quotient(*_summed([1.7e308, 1.7e308, 0.5])) is None
