"""The state of one row of a plain view: newest fields, and exact aggregates per bucket of time.

    format version, event time and created time of the newest record (microseconds, −1: none),
    then per tile: 5 bytes that name it, its buckets in order

A bucket is its distance from the one before, the number of values, and what the tile keeps of
them: their exact sum, their smallest and largest. Numbers are varints where nothing else is said.
The bytes depend on which records were folded and on nothing else.
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import mmh3

from features.codec import varint
from features.errors import BadInput
from features.exact import add, pack_number, pack_sum, quotient, scaled, unpack_number
from features.spec import PlainView, TileSpec, WindowField

STATE_FIELD: Final = "_state"
"""The private field of a plain view, of Feast's type Bytes."""
FORMAT_VERSION: Final = 1
_HEAD: Final = struct.Struct("<Bqq")

Value = int | float | None


class Bucket:
    """The values of one column in one span of time: their number, exact sum and extremes."""

    __slots__ = ("count", "high", "low", "packed", "scale", "total")

    def __init__(self) -> None:
        self.count = self.total = self.scale = 0
        self.low: int | float = 0
        self.high: int | float = 0
        self.packed: bytes | None = None

    def take(self, number: float, tile: TileSpec) -> None:
        """Fold one value."""
        if tile.sums:
            self.total, self.scale = add(self.total, self.scale, *scaled(number))
        if tile.extremes:
            if not self.count or number < self.low:
                self.low = number
            if not self.count or number > self.high:
                self.high = number
        self.count += 1
        self.packed = None

    def merge(self, other: "Bucket", tile: TileSpec) -> None:
        """Fold all values of another bucket."""
        if tile.sums:
            self.total, self.scale = add(self.total, self.scale, other.total, other.scale)
        if tile.extremes:
            if not self.count or other.low < self.low:
                self.low = other.low
            if not self.count or other.high > self.high:
                self.high = other.high
        self.count += other.count

    def pack(self, tile: TileSpec) -> bytes:
        """What the state says of this bucket."""
        if self.packed is None:
            self.packed = varint(self.count)
            if tile.sums:
                self.packed += pack_sum(self.total, self.scale)
            if tile.extremes:
                self.packed += pack_number(self.low) + pack_number(self.high)
        return self.packed


class PlainRow:
    """One row of a plain view, opened for folding."""

    __slots__ = ("created_us", "fields", "tiles", "time_us")

    def __init__(self, view: PlainView) -> None:
        self.time_us = self.created_us = -1
        self.fields: tuple[bytes, ...] = (b"",) * len(view.fields)
        self.tiles: list[dict[int, Bucket]] = [{} for _ in view.tiles]

    def fold(
        self,
        view: PlainView,
        time_us: int,
        created_us: int,
        fields: tuple[bytes, ...],
        numbers: dict[str, int | float],
    ) -> None:
        """Fold one record: its values and those of its aggregated columns that are not null."""
        newest = (time_us, created_us, fields)
        if newest > (self.time_us, self.created_us, self.fields):
            moved = time_us > self.time_us
            self.time_us, self.created_us, self.fields = newest
            if moved:
                self.drop_old(view)
        time, last = time_us // 1000, self.time_us // 1000
        for tile, buckets in zip(view.tiles, self.tiles, strict=True):
            number = numbers.get(tile.column) if tile.column else 1
            if number is None:
                continue
            index = time // tile.width_ms if tile.width_ms else 0
            if tile.width_ms and index <= last // tile.width_ms - tile.buckets:
                continue
            bucket = buckets.get(index)
            if bucket is None:
                bucket = buckets[index] = Bucket()
            bucket.take(number, tile)

    def drop_old(self, view: PlainView) -> None:
        """Drop the buckets that are too old for any window as of the newest record."""
        time = self.time_us // 1000
        for tile, buckets in zip(view.tiles, self.tiles, strict=True):
            if tile.width_ms and buckets:
                oldest = time // tile.width_ms - tile.buckets + 1
                for index in [index for index in buckets if index < oldest]:
                    del buckets[index]

    def values(self, view: PlainView, now_ms: int) -> list[Value]:
        """The view's windows as of `now`, in their order."""
        spans: dict[tuple[int, int], Bucket] = {}
        found = []
        for window in view.windows:
            span = (window.tile, window.buckets)
            if span not in spans:
                spans[span] = self._span(view, window, now_ms)
            found.append(_value(window, spans[span]))
        return found

    def _span(self, view: PlainView, window: WindowField, now_ms: int) -> Bucket:
        tile, buckets = view.tiles[window.tile], self.tiles[window.tile]
        newest = now_ms // tile.width_ms if tile.width_ms else 0
        oldest = newest - window.buckets + 1
        inside = [bucket for index, bucket in buckets.items() if oldest <= index <= newest]
        if len(inside) == 1:
            return inside[0]
        merged = Bucket()
        for bucket in inside:
            merged.merge(bucket, tile)
        return merged

    def pack(self, view: PlainView) -> bytes:
        """The state of the row, without its fields."""
        parts = [_HEAD.pack(FORMAT_VERSION, self.time_us, self.created_us)]
        for tile, buckets in zip(view.tiles, self.tiles, strict=True):
            parts += (_mark(tile), varint(len(buckets)))
            before = 0
            for index in sorted(buckets):
                parts += (varint(index - before), buckets[index].pack(tile))
                before = index
        return b"".join(parts)


def unpack(view: PlainView, state: bytes, fields: tuple[bytes, ...]) -> PlainRow:
    """The row of a state and its fields; BadInput when it is not of a known format.

    A tile that the view has no more is dropped, and one that is new begins empty.
    """
    row = PlainRow(view)
    row.fields = fields
    try:
        if state[0] != FORMAT_VERSION:
            raise BadInput(
                f"view {view.name!r}: a row's state has format version {state[0]}, this version "
                f"of Headrace reads {FORMAT_VERSION}: use the one that wrote it, or backfill"
            )
        _, row.time_us, row.created_us = _HEAD.unpack_from(state)
        at = _HEAD.size
        known = {_mark(tile): place for place, tile in enumerate(view.tiles)}
        while at < len(state):
            place = known.get(state[at : at + 5])
            at = _unpack_tile(row, place, state, at + 4)
    except (IndexError, struct.error) as error:
        raise BadInput(f"view {view.name!r}: the state of a row is damaged") from error
    row.drop_old(view)
    return row


def windows_at(view: PlainView, state: bytes, now_ms: int) -> dict[str, Value]:
    """The windows of a row as of `now`, from the bytes of its state field."""
    row = unpack(view, state, ())
    names = [window.name for window in view.windows]
    return dict(zip(names, row.values(view, now_ms), strict=True))


def _unpack_tile(row: PlainRow, place: int | None, state: bytes, at: int) -> int:
    """Read one tile; of one that the view does not have, only where it ends is of use."""
    kinds = state[at]
    at += 1
    sums, extremes = bool(kinds & 1), bool(kinds & 2)
    count, at = _read(state, at)
    index = 0
    for _ in range(count):
        bucket = Bucket()
        step, at = _read(state, at)
        index += step
        start = at
        bucket.count, at = _read(state, at)
        if sums:
            bucket.scale, at = _read(state, at)
            size, at = _read(state, at)
            bucket.total = int.from_bytes(state[at : at + size], "little", signed=True)
            at += size
        if extremes:
            bucket.low, bucket.high = unpack_number(state, at), unpack_number(state, at + 9)
            at += 18
        bucket.packed = state[start:at]
        if place is not None:
            row.tiles[place][index] = bucket
    return at


def _mark(tile: TileSpec) -> bytes:
    """Five bytes that stand for a tile: a hash of what it is of, and what it keeps."""
    return _marked(tile.column, tile.width_ms, tile.sums | tile.extremes << 1)


@lru_cache(4096)
def _marked(column: str, width_ms: int, kinds: int) -> bytes:
    name = mmh3.hash(f"{column}:{width_ms}:{kinds}", signed=False)
    return struct.pack("<IB", name, kinds)


def _value(window: WindowField, span: Bucket) -> Value:
    if window.function == "count":
        return span.count
    if not span.count:
        return None
    if window.function == "sum":
        return quotient(span.total, span.scale)
    if window.function == "mean":
        return quotient(span.total, span.scale, span.count)
    return span.low if window.function == "min" else span.high


def _read(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def numbers_of(columns: Iterable[str], packed: Iterable[bytes]) -> dict[str, int | float]:
    """The aggregated columns of an update that are not null."""
    return {
        column: unpack_number(content)
        for column, content in zip(columns, packed, strict=True)
        if content
    }
