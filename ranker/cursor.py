"""Where a session of pages stands: its instant, and what was shown, in one opaque text.

A cursor is checked, not signed: who forges one gains nothing, because all it can do is to leave
items out and to name an instant, and a request may do both anyhow.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import mmh3
import numpy as np
from numpy.typing import NDArray

from features.errors import BadInput

VERSION: Final = 1
SESSION_ITEMS_MAX: Final = 1_000
"""Items of one session; the feed ends there."""
_HEAD: Final = struct.Struct("<BqI")
"""Version, the session's instant in ms, and a hash over all else and whom the session is of."""
_NAME_BYTES: Final = 5
"""Of a shown item its hash in 40 bits: that an item not shown has one of 1,000 such hashes happens
once in a thousand million, and costs one candidate."""
CURSOR_CHARS_MAX: Final = 4 * -(-(_HEAD.size + _NAME_BYTES * SESSION_ITEMS_MAX) // 3)

Names = NDArray[np.uint64]


@dataclass(frozen=True)
class Cursor:
    """One session between two of its pages."""

    now: int
    shown: Names
    """What stands for the items that were shown, in their order."""

    def text(self, user_id: str, surface: str) -> str:
        """The cursor as it travels; of one user on one surface."""
        raw = self.shown.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :_NAME_BYTES].tobytes()
        check = _check(self.now, raw, user_id, surface)
        return urlsafe_b64encode(_HEAD.pack(VERSION, self.now, check) + raw).decode().rstrip("=")

    def after(self, items: Iterable[str]) -> "Cursor | None":
        """The session after one more page; None when it has no room for another item."""
        shown = np.concatenate([self.shown, names(items)])
        return Cursor(self.now, shown) if len(shown) < SESSION_ITEMS_MAX else None

    def rest(self) -> int:
        """How many items the session may still show."""
        return SESSION_ITEMS_MAX - len(self.shown)


def first(now: int) -> Cursor:
    """A session before its first page."""
    return Cursor(now, np.zeros(0, np.uint64))


def read_cursor(text: str, user_id: str, surface: str) -> Cursor:
    """The cursor of a text. Raises BadInput when it is none of this user's on this surface."""
    try:
        content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        version, now, check = _HEAD.unpack_from(content)
    except (ValueError, struct.error):
        version, now, check, content = 0, 0, 0, b""
    raw = content[_HEAD.size :]
    if version != VERSION or len(raw) % _NAME_BYTES or check != _check(now, raw, user_id, surface):
        raise BadInput(
            "this is no `next_cursor` of this user on this surface, or it was cut or changed: send "
            "back exactly what the page before gave with the same user_id and surface, or leave "
            "the cursor out to begin anew"
        )
    shown = np.zeros((len(raw) // _NAME_BYTES, 8), np.uint8)
    shown[:, :_NAME_BYTES] = np.frombuffer(raw, np.uint8).reshape(-1, _NAME_BYTES)
    return Cursor(now, shown.reshape(-1).view("<u8").astype(np.uint64))


def names(items: Iterable[str]) -> Names:
    """What stands for items in a cursor."""
    mask = (1 << 8 * _NAME_BYTES) - 1
    return np.fromiter((mmh3.hash64(item, signed=False)[0] & mask for item in items), np.uint64)


def unseen(shown: Names, items: Sequence[str]) -> NDArray[np.bool_]:
    """[item]: whether the session has not shown it yet."""
    if not len(shown):
        return np.ones(len(items), np.bool_)
    return ~np.isin(names(items), shown)


def _check(now: int, raw: bytes, user_id: str, surface: str) -> int:
    whose = f"{VERSION}\n{now}\n{surface}\n{user_id}\n".encode()
    return mmh3.hash(whose + raw, signed=False)
