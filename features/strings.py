"""Ids as small integers inside one process, so that kernels compare numbers instead of text."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.codec import string_piece

NONE = -1
"""The code of an id that is absent."""


class Pieces(NamedTuple):
    """Every known string as a member of an Array(String) value, end to end: bytes and ends."""

    content: NDArray[np.uint8]
    ends: NDArray[np.int64]


class Strings:
    """Two-way map between strings and codes 0, 1, 2, …; codes mean nothing outside this process.

    It only grows: whoever owns one drops it together with the state that uses it.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._texts: list[str] = []
        self._content = np.zeros(4096, np.uint8)
        self._ends = np.zeros(1024, np.int64)

    def __len__(self) -> int:
        return len(self._texts)

    def code(self, text: str | None) -> int:
        """The code of a string, new if it was not known; None is NONE."""
        if text is None:
            return NONE
        code = self._codes.get(text)
        return self._add(text) if code is None else code

    def codes(self, texts: Iterable[str | None]) -> NDArray[np.int64]:
        """The codes of many strings."""
        return np.fromiter(map(self.code, texts), np.int64)

    def text(self, code: int) -> str | None:
        """The string of a code."""
        return None if code == NONE else self._texts[code]

    def pieces(self) -> Pieces:
        """The encoded members of all strings, for the row encoder."""
        return Pieces(self._content, self._ends)

    def _add(self, text: str) -> int:
        code = self._codes[text] = len(self._texts)
        self._texts.append(text)
        piece = np.frombuffer(string_piece(text), np.uint8)
        start = self._ends[code]
        if code + 2 > len(self._ends):
            self._ends = np.resize(self._ends, 2 * len(self._ends))
        end = start + len(piece)
        if end > len(self._content):
            self._content = np.resize(self._content, max(2 * len(self._content), int(end)))
        self._content[start:end] = piece
        self._ends[code + 1] = end
        return code
