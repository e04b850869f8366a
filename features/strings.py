"""Ids as small integers inside one process, so that kernels compare numbers instead of text."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar, cast
from uuid import UUID

import mmh3
import numpy as np
from numpy.typing import NDArray

from features.codec import varint
from features.number_codes import NumberCodes

T = TypeVar("T", bound=np.generic)

NONE = -1
"""The code of an id that is absent."""

NUMBER_END: Final = 1 << 62
"""Texts that are canonical decimal numbers below this are packed as numbers."""


UUID_TOKEN: Final = 2
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Pieces(NamedTuple):
    """Every known string as packs hold it: its token, and what a kernel asks about it."""

    content: NDArray[np.uint8]
    ends: NDArray[np.int64]
    """Tokens end to end, and where each starts and ends: [code] and [code + 1]."""
    numbers: NDArray[np.int64]
    """[code]: the number that the string spells, −1 when it spells none."""
    hashes: NDArray[np.int64]
    """[code]: 64 bits that stand for the string, the same in every process."""


class Strings:
    """Two-way map between strings and codes 0, 1, 2, …; codes mean nothing outside this process.

    It only grows: whoever owns one drops it together with the state that uses it.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._texts: list[str] = []
        self._asked: list[str] | None = None
        self._answer = np.zeros(0, np.int64)
        # What packs named so far: most of it is met again in the next row.
        self._of_number = NumberCodes()
        self._of_token: dict[bytes, int] = {}
        self._known = 0
        """How many strings the arrays below describe."""
        self._content = np.zeros(4096, np.uint8)
        self._ends = np.zeros(1024, np.int64)
        self._numbers = np.zeros(1024, np.int64)
        self._hashes = np.zeros(1024, np.int64)

    def __len__(self) -> int:
        return len(self._texts)

    def code(self, text: str | None) -> int:
        """The code of a string, new if it was not known; None is NONE."""
        if text is None:
            return NONE
        code = self._codes.get(text)
        return self._add(text) if code is None else code

    def find(self, text: str) -> int:
        """The code of a string, NONE when it is not known."""
        return self._codes.get(text, NONE)

    def codes(self, texts: Iterable[str | None]) -> NDArray[np.int64]:
        """The codes of many strings."""
        texts = list(texts)
        known = cast(dict[str | None, int], self._codes)
        codes = list(map(known.get, texts))
        if None in codes:
            for place in [place for place, code in enumerate(codes) if code is None]:
                codes[place] = self.code(texts[place])
        return np.array(codes, np.int64)

    def codes_and_none(self, texts: list[str]) -> NDArray[np.int64]:
        """The codes of a list of texts and, last, NONE: what places in the list stand for.

        The views that one block changes ask for the same list one after the other, so the last
        answer is kept; a list must not change once it was asked for.
        """
        if self._asked is not texts:
            self._asked, self._answer = texts, np.append(self.codes(texts), NONE)
        return self._answer

    def codes_of_numbers(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The codes of the strings that spell numbers."""
        codes = self._of_number.find(numbers)
        unknown = codes < 0
        if unknown.any():
            fresh = np.unique(numbers[unknown])
            self._of_number.add(fresh, self.codes(map(str, fresh.tolist())))
            codes = self._of_number.find(numbers)
        return codes

    def codes_of_tokens(self, tokens: Sequence[bytes]) -> list[int]:
        """The codes of the strings of tokens that are no numbers. Raises UnicodeDecodeError."""
        codes = list(map(self._of_token.get, tokens))
        if None in codes:
            for piece in set(tokens) - self._of_token.keys():
                self._of_token[piece] = self.code(text_of(piece))
            codes = list(map(self._of_token.get, tokens))
        return cast(list[int], codes)

    def text(self, code: int) -> str | None:
        """The string of a code."""
        return None if code == NONE else self._texts[code]

    def pieces(self) -> Pieces:
        """All strings, for the kernels that pack rows."""
        if self._known < len(self._texts):
            self._describe(self._texts[self._known :])
        return Pieces(self._content, self._ends, self._numbers, self._hashes)

    def _add(self, text: str) -> int:
        code = self._codes[text] = len(self._texts)
        self._texts.append(text)
        return code

    def _describe(self, texts: Sequence[str]) -> None:
        """Tell the kernels of strings that are new to them."""
        first, stop = self._known, self._known + len(texts)
        tokens = [token(text) for text in texts]
        ends = self._ends[first] + np.cumsum([len(piece) for piece in tokens])
        self._content = _grown(self._content, int(ends[-1]))
        self._content[self._ends[first] : ends[-1]] = np.frombuffer(b"".join(tokens), np.uint8)
        self._ends = _grown(self._ends, stop + 1)
        self._ends[first + 1 : stop + 1] = ends
        self._numbers, self._hashes = _grown(self._numbers, stop), _grown(self._hashes, stop)
        self._numbers[first:stop] = [number_of(text) for text in texts]
        self._hashes[first:stop] = [mmh3.hash64(text)[0] for text in texts]
        self._known = stop


def _grown(array: NDArray[T], size: int) -> NDArray[T]:
    """An array of at least this size that begins with another."""
    return array if size <= len(array) else np.resize(array, max(size, 2 * len(array)))


def number_of(text: str) -> int:
    """The number that a text spells in canonical decimal, below NUMBER_END; −1 otherwise."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        return -1
    number = int(text)
    return number if number < NUMBER_END and str(number) == text else -1


def token(text: str) -> bytes:
    """A text inside a pack: the varint 2n + 1 for the number n, else 2 and the 16 bytes of a UUID
    in its usual form, else 4 × the bytes of its UTF-8, then those."""
    number = number_of(text)
    if number >= 0:
        return varint(2 * number + 1)
    if _UUID.fullmatch(text):
        return bytes([UUID_TOKEN]) + bytes.fromhex(text.replace("-", ""))
    raw = text.encode()
    return varint(4 * len(raw)) + raw


def text_of(piece: bytes) -> str:
    """The text of a token that is no number. Raises UnicodeDecodeError."""
    if piece[0] == UUID_TOKEN:
        return str(UUID(bytes=piece[1:17]))
    start = next(i for i, byte in enumerate(piece) if byte < 0x80) + 1
    return piece[start:].decode()
