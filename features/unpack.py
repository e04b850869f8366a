"""Packs of activity rows as plain Python, for whoever reads them with a stock Feast client.

    features = store.get_online_features(["user_activity:counts", "user_activity:lists"], rows)
    unpack_counts(pack, ["click", "click.value"])["click"].rings[3_600_000]   # bucket → amount
    unpack_lists(pack, ["recent"], ["click", "like"])["recent"][-1].item

The kernels that serve read the same bytes (`counts_pack`, `lists_pack`). Packs hold ids of names
and not the names, so the caller says which ones it wants.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from features.counts_pack import FORMAT as COUNTS_FORMAT
from features.errors import BadInput
from features.layout import UNITS_MS, stable_id
from features.lists_pack import DICTIONARY, HAS_ACTION, HAS_VALUE, NUMBERS, TOKENS
from features.lists_pack import FORMAT as LISTS_FORMAT
from features.strings import UUID_TOKEN


@dataclass(slots=True)
class Counted:
    """One metric of a row: its total (0: none is kept), and amounts by bucket, by bucket width.

    Bucket b of width w ms holds what happened from w·b up to w·(b + 1) ms.
    """

    total: int
    rings: dict[int, dict[int, int]] = field(default_factory=dict)


class Entry(NamedTuple):
    """One fact of a list. `action` is None where the list does not keep it, or by a name that was
    not asked for."""

    time: int
    item: str | None
    author: str | None
    category: str | None
    action: str | None
    value: int


def newest_time(pack: bytes) -> int:
    """The time of the newest fact of a row, ms, from its `counts`. Raises BadInput."""
    return _open(pack, COUNTS_FORMAT).number()


def unpack_counts(pack: bytes | None, metrics: Iterable[str]) -> dict[str, Counted]:
    """The metrics of a `counts` pack that counted anything, by name: an action, or `click.value`
    for the sum of its values. Raises BadInput when the bytes are no such pack."""
    names, found = {stable_id(name): name for name in metrics}, dict[str, Counted]()
    if not pack:
        return found
    read = _open(pack, COUNTS_FORMAT)
    newest = read.number()
    codes = [read.number() for _ in range(read.count())]
    widths = [(code >> 2) * UNITS_MS[code & 3] for code in codes]
    if not all(widths):
        raise _damaged()
    for _ in range(read.count()):
        name, counted = names.get(read.id()), Counted(read.number())
        for width in widths:
            bucket, ring = newest // width, {}
            for _ in range(read.count()):
                code = read.number()
                bucket -= code >> 2
                ring[bucket] = (code & 3) + 1 if code & 3 < 3 else 4 + read.number()
            if ring:
                counted.rings[width] = ring
        if name is not None:
            found[name] = counted
    read.close()
    return found


def unpack_lists(
    pack: bytes | None, sequences: Iterable[str], actions: Iterable[str] = ()
) -> dict[str, list[Entry]]:
    """The sequences of a `lists` pack that list anything, by name, oldest entry first.

    Raises BadInput when the bytes are no such pack.
    """
    names = {stable_id(name): name for name in sequences}
    known, found = {stable_id(action): action for action in actions}, dict[str, list[Entry]]()
    if not pack:
        return found
    read = _open(pack, LISTS_FORMAT)
    count = read.count()
    items, authors, categories = read.texts(count), read.texts(count), read.texts(count)
    things = list(zip(items, authors, categories, strict=True))
    seen = 0
    for _ in range(read.count()):
        name, flags, length = names.get(read.id()), read.byte(), read.count()
        times, places = [0], []
        for _ in range(length):
            times.append(times[-1] + read.number())
        for _ in range(length):
            new = read.bits(1)
            places.append(seen if new else read.bits((count - 1).bit_length()))
            seen += new
        read.align()
        listed: list[str | None] = [None] * length
        if flags & HAS_ACTION:
            kinds = [known.get(read.id()) for _ in range(read.count())]
            listed = [kinds[place] for place in read.places(len(kinds), length)]
        values = [read.number() if flags & HAS_VALUE else 0 for _ in range(length)]
        if max(places, default=0) >= count:
            raise _damaged()
        if name is not None:
            rows = zip(times[1:], places, listed, values, strict=True)
            found[name] = [_entry(t, things[place], action, v) for t, place, action, v in rows]
    read.close()
    return found


def _entry(
    time: int, thing: tuple[str | None, str | None, str | None], action: str | None, value: int
) -> Entry:
    item, author, category = thing
    return Entry(time, item, author, category, action, value)


class _Pack:
    """Reads a pack from its start, and never past its end."""

    def __init__(self, content: bytes) -> None:
        self._content, self._bit = content, 0

    def align(self) -> None:
        self._bit = (self._bit + 7) // 8 * 8

    def bits(self, width: int) -> int:
        end = self._bit + width
        if end > 8 * len(self._content):
            raise _damaged()
        part = int.from_bytes(self._content[self._bit // 8 : (end + 7) // 8], "little")
        number = part >> self._bit % 8 & (1 << width) - 1
        self._bit = end
        return number

    def byte(self) -> int:
        return self.bits(8)

    def id(self) -> int:
        return self.bits(24)

    def number(self) -> int:
        number = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise _damaged()

    def count(self) -> int:
        """A number of things that take at least a byte each."""
        number = self.number()
        if number > len(self._content):
            raise _damaged()
        return number

    def places(self, kinds: int, count: int) -> list[int]:
        found = [self.bits((kinds - 1).bit_length() if kinds else 0) for _ in range(count)]
        self.align()
        if max(found, default=-1) >= kinds:
            raise _damaged()
        return found

    def token(self) -> str | None:
        head = self.number()
        if head & 1:
            return str(head >> 1)
        if head == UUID_TOKEN:
            return str(UUID(bytes=self.raw(16)))
        if head & 3:
            raise _damaged()
        try:
            return self.raw(head >> 2).decode() or None
        except UnicodeDecodeError as error:
            raise _damaged() from error

    def raw(self, size: int) -> bytes:
        return self.bits(8 * size).to_bytes(size, "little")

    def texts(self, count: int) -> list[str | None]:
        mode = self.byte()
        if mode == TOKENS:
            return [self.token() for _ in range(count)]
        if mode == DICTIONARY:
            kinds = [self.token() for _ in range(self.count())]
            return [kinds[place] for place in self.places(len(kinds), count)]
        if mode != NUMBERS:
            raise _damaged()
        least, width = self.number(), self.byte()
        if width > 62:
            raise _damaged()
        found: list[str | None] = [str(least + self.bits(width)) for _ in range(count)]
        self.align()
        return found

    def close(self) -> None:
        if self._bit != 8 * len(self._content):
            raise _damaged()


def _open(content: bytes, expected: int) -> _Pack:
    pack = _Pack(content)
    found = pack.byte()
    if found != expected:
        raise BadInput(f"a pack of format {found}, not {expected}: it is not this version's")
    return pack


def _damaged() -> BadInput:
    return BadInput("a pack is damaged: delete the row, then replay into it")
