"""Who stands on the next places, so that no author or category stands there too often.

A compiled loop: to try some thirty items for twenty places, each against those before it, takes a
Python one as long as all scores of a forest.
"""

from collections.abc import Sequence

import numpy as np

from features.compiled import kernel
from features.layout import Ints
from ranker.rules import Spread


class Spreading:
    """Who stood on the last places, against the rules."""

    def __init__(self, rules: Sequence[Spread], authors: Ints, categories: Ints) -> None:
        codes = {"author": authors, "category": categories}
        self._codes = np.array([codes[rule.by] for rule in rules], np.int64)
        self._most = np.array([rule.most for rule in rules], np.int64)
        self._places = np.array([rule.places for rule in rules], np.int64)
        self._placed = np.zeros(0, np.int64)

    def place(self, wanted: Sequence[int], size: int) -> list[int]:
        """The next `size` items: at each place the first wanted one that no rule speaks against,
        or simply the first."""
        waiting = np.array(wanted, np.int64)
        block = place_block(self._codes, self._most, self._places, self._placed, waiting, size)
        self._placed = np.concatenate([self._placed, block])
        found: list[int] = block.tolist()
        return found


@kernel
def place_block(
    codes: Ints, most: Ints, places: Ints, placed: Ints, wanted: Ints, size: int
) -> Ints:
    """The items of the next places; `codes` is [rule, item], −1 for none, and of each rule at most
    `most` may stand among so many `places`. `placed` are the items before."""
    before = len(placed)
    found = np.empty(before + size, np.int64)
    found[:before] = placed
    taken = np.zeros(len(wanted), np.bool_)
    for at in range(before, before + size):
        chosen = -1
        for i in range(len(wanted)):
            if not taken[i]:
                if chosen < 0:
                    chosen = i
                if _fits(codes, most, places, found[:at], wanted[i]):
                    chosen = i
                    break
        found[at], taken[chosen] = wanted[chosen], True
    return found[before:]


@kernel
def _fits(codes: Ints, most: Ints, places: Ints, placed: Ints, item: int) -> bool:
    for rule in range(len(most)):
        code, near = codes[rule, item], 0
        if code >= 0:
            for other in placed[max(0, len(placed) - places[rule] + 1) :]:
                near += codes[rule, other] == code
            if near >= most[rule]:
                return False
    return True
