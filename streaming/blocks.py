"""Columnar blocks: thousands of updates in one Kafka record.

    magic, CRC-32 of the rest, header length, header (JSON), sections

Sections are length-prefixed: keys and texts (lengths, then bytes), the columns as little
endian int64, and the payloads of newest-value updates. A format version stands in the header.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import BadInput
from features.updates import COLUMNS, Columns, Payload

MAGIC: Final = b"HRUB"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """Where a block came from and what it covers."""

    plan: str
    """Version of the plan whose views and actions the updates name."""
    generation: int
    """Life of the `events` topic."""
    source: int
    """Its `events` partition."""
    first: int
    last: int
    """First and last source offset it covers; it is cut only between source offsets."""
    incarnation: str
    sequence: int
    """Counts the blocks one incarnation of `route` sent of one source to one target, from 0; a
    gap is a fault."""

    @property
    def source_name(self) -> str:
        """The source partition, within its topic's life."""
        return f"{self.generation}/{self.source}"


HEADER: Final = tuple(field.name for field in fields(BlockHeader))


@dataclass(frozen=True, slots=True)
class Block:
    """A header and its updates."""

    header: BlockHeader
    updates: Columns


def encode_block(block: Block) -> bytes:
    """The bytes of a block."""
    updates = block.updates
    known = {name: getattr(block.header, name) for name in HEADER}
    header = json.dumps({"version": FORMAT_VERSION, **known}, separators=(",", ":")).encode()
    columns = np.stack([getattr(updates, name) for name in COLUMNS]).astype("<i8")
    sections = [
        *_strings(updates.keys),
        *_strings([t.encode() for t in updates.texts]),
        columns.tobytes(),
        *_payloads(updates.payloads),
    ]
    body = b"".join(
        [
            struct.pack("<I", len(header)),
            header,
            *(part for s in sections for part in (struct.pack("<I", len(s)), s)),
        ]
    )
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def read_header(content: bytes) -> BlockHeader:
    """The header of the block in a record; BadInput when it is not one, or of a later version."""
    if content[:4] != MAGIC or len(content) < 12:
        raise BadInput("the record is not a block of updates")
    if zlib.crc32(memoryview(content)[8:]) != struct.unpack_from("<I", content, 4)[0]:
        raise BadInput("the block of updates is damaged: its checksum does not match")
    (size,) = struct.unpack_from("<I", content, 8)
    header = json.loads(content[12 : 12 + size])
    version = header.pop("version")
    if version != FORMAT_VERSION:
        raise BadInput(
            f"the block has format version {version}, this aggregate reads {FORMAT_VERSION}: "
            "upgrade aggregate before route"
        )
    return BlockHeader(**header)


def decode_block(content: bytes) -> Block:
    """The block in a record; BadInput when it is not one, or of a later version."""
    header = read_header(content)
    (size,) = struct.unpack_from("<I", content, 8)
    parts, at = [], 12 + size
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        parts.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    keys, texts = _split(parts[0], parts[1]), _split(parts[2], parts[3])
    columns = np.frombuffer(parts[4], "<i8").reshape(len(COLUMNS), -1).astype(np.int64)
    updates = Columns(
        keys=keys,
        texts=[t.decode() for t in texts],
        payloads=_read_payloads(parts[5], parts[6], parts[7]),
        **dict(zip(COLUMNS, columns, strict=True)),
    )
    return Block(header, updates)


def split_by_target(updates: Columns, target_of_key: NDArray[np.int64]) -> dict[int, Columns]:
    """The updates of each target partition, with only the keys and texts they use."""
    if not len(updates):
        return {}
    targets = target_of_key[updates.key]
    return {
        int(target): part_of(updates, np.flatnonzero(targets == target))
        for target in np.unique(targets)
    }


def part_of(updates: Columns, chosen: NDArray[np.int64]) -> Columns:
    """The chosen updates, with only the keys and texts they use."""
    keys, key = np.unique(updates.key[chosen], return_inverse=True)
    names = ("item", "author", "category")
    codes = np.concatenate([getattr(updates, name)[chosen] for name in names])
    used, place = np.unique(codes, return_inverse=True)
    missing = int(len(used) > 0 and used[0] == -1)
    texts = dict(zip(names, np.split(place - missing, len(names)), strict=True))
    columns = {
        name: getattr(updates, name)[chosen]
        for name in COLUMNS
        if name != "key" and name not in texts
    }
    places = {int(old): new for new, old in enumerate(chosen)} if updates.payloads else {}
    return Columns(
        keys=[updates.keys[k] for k in keys],
        texts=[updates.texts[t] for t in used[missing:]],
        payloads={places[p]: v for p, v in updates.payloads.items() if p in places},
        key=key.astype(np.int64),
        **texts,
        **columns,
    )


def _strings(texts: Sequence[bytes]) -> tuple[bytes, bytes]:
    return np.array([len(t) for t in texts], "<u4").tobytes(), b"".join(texts)


def _split(lengths: bytes, content: bytes) -> list[bytes]:
    ends = np.cumsum(np.frombuffer(lengths, "<u4")).tolist()
    return [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _payloads(payloads: dict[int, Payload]) -> tuple[bytes, bytes, bytes]:
    places = np.array([(p, len(v)) for p, v in payloads.items()], "<i8").reshape(-1, 2)
    lengths, content = _strings([value for payload in payloads.values() for value in payload])
    return places.tobytes(), lengths, content


def _read_payloads(places: bytes, lengths: bytes, content: bytes) -> dict[int, Payload]:
    values = iter(_split(lengths, content))
    found = np.frombuffer(places, "<i8").reshape(-1, 2).tolist()
    return {place: tuple(next(values) for _ in range(count)) for place, count in found}
