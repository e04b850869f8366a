"""Codes of the strings that spell numbers, found for many numbers at once."""

import numpy as np

from features.compiled import kernel
from features.layout import Ints

FREE = -1


class NumberCodes:
    """A map from numbers (0 or more) to codes: open addressing, at most half of the places taken.

    A row of a user names some hundreds. A dict would follow three pointers for each, into memory
    that was used long ago.
    """

    def __init__(self) -> None:
        self._numbers = np.full(64, FREE, np.int64)
        self._codes = np.zeros(64, np.int64)
        self._count = 0

    def find(self, numbers: Ints) -> Ints:
        """The code of each number, −1 for those that are not known."""
        return find_codes(self._numbers, self._codes, numbers)

    def add(self, numbers: Ints, codes: Ints) -> None:
        """Enter numbers that are not known, each once."""
        self._count += len(numbers)
        if 2 * self._count > len(self._numbers):
            room = 1 << (4 * self._count - 1).bit_length()
            known = self._numbers != FREE
            before = self._numbers[known], self._codes[known]
            self._numbers, self._codes = np.full(room, FREE, np.int64), np.zeros(room, np.int64)
            put_codes(self._numbers, self._codes, *before)
        put_codes(self._numbers, self._codes, numbers, codes)


@kernel
def _place(number: int, places: int) -> int:
    """Where the search for a number begins; neighbours begin far apart."""
    mixed = number * -7046029254386353131
    return (mixed ^ (mixed >> 32)) & (places - 1)


@kernel
def find_codes(known: Ints, codes: Ints, numbers: Ints) -> Ints:
    """[number]: its code, −1 for none."""
    found = np.full(len(numbers), -1, np.int64)
    for i in range(len(numbers)):
        at = _place(numbers[i], len(known))
        while known[at] != FREE:
            if known[at] == numbers[i]:
                found[i] = codes[at]
                break
            at = (at + 1) & (len(known) - 1)
    return found


@kernel
def put_codes(known: Ints, codes: Ints, numbers: Ints, fresh: Ints) -> None:
    """Enter numbers that are not there."""
    for i in range(len(numbers)):
        at = _place(numbers[i], len(known))
        while known[at] != FREE:
            at = (at + 1) & (len(known) - 1)
        known[at], codes[at] = numbers[i], fresh[i]
