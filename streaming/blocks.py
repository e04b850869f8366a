"""Columnar blocks: thousands of updates in one Kafka record.

    magic, CRC-32 of the rest, header length, header (JSON), sections

Sections are length-prefixed: keys and texts (lengths, then bytes), the columns as little
endian int64, and the payloads of newest-value updates. A format version stands in the header.

Format 2 (format 1 knew one span alone): what several partitions of `events` brought in one turn
goes to a target in one block, because each block has costs of its own in four processes. The
updates of its spans stand one after the other.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from features.errors import BadInput
from features.layout import Ints
from features.strings import NONE
from features.updates import COLUMNS, Columns, Payload

MAGIC: Final = b"HRUB"
FORMAT_VERSION: Final = 2

OF_TEXTS: Final = ("item", "author", "category")
"""The columns that hold places of texts."""

ALL: Final = -1
"""Updates of the one span of a block of format 1, whose header does not count them."""


class Span(NamedTuple):
    """What a block covers of one `events` partition."""

    source: int
    """The partition."""
    first: int
    last: int
    """First and last source offset; a block is cut only between source offsets."""
    sequence: int
    """Counts the blocks one incarnation of `route` sent of one source to one target, from 0; a
    gap is a fault."""
    updates: int
    """How many of the block's updates it brought."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """Where a block came from and what it covers."""

    plan: str
    """Version of the plan whose views and actions the updates name."""
    generation: int
    """Life of the `events` topic."""
    incarnation: str
    spans: tuple[Span, ...]

    def source_name(self, span: Span) -> str:
        """The source partition of a span, within its topic's life."""
        return f"{self.generation}/{span.source}"


@dataclass(frozen=True, slots=True)
class Block:
    """A header and its updates."""

    header: BlockHeader
    updates: Columns


def encode_block(block: Block) -> bytes:
    """The bytes of a block."""
    updates = block.updates
    header = _encode_header(block.header)
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
    if version == 1:
        one = Span(**{name: header[name] for name in Span._fields[:-1]}, updates=ALL)
        return BlockHeader(header["plan"], header["generation"], header["incarnation"], (one,))
    if version != FORMAT_VERSION:
        raise BadInput(
            f"the block has format version {version}, this aggregate reads {FORMAT_VERSION}: "
            "upgrade aggregate before route"
        )
    spans = tuple(Span(*numbers) for numbers in header.pop("spans"))
    return BlockHeader(**header, spans=spans)


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
    if header.spans[0].updates == ALL:
        (one,) = header.spans
        header = replace(header, spans=(one._replace(updates=len(updates)),))
    return Block(header, updates)


def by_target(updates: Columns, target_of_key: Ints) -> dict[int, Ints]:
    """The places of the updates of each target partition, in order."""
    targets = target_of_key[updates.key]
    found = np.flatnonzero(np.bincount(targets)).tolist()
    return {target: np.flatnonzero(targets == target) for target in found}


def part_of(updates: Columns, chosen: Ints) -> Columns:
    """The chosen updates, with only the keys and texts they use."""
    columns = {name: getattr(updates, name)[chosen] for name in COLUMNS}
    keys, places = _used(len(updates.keys), columns["key"])
    columns["key"] = places[columns["key"]]
    texts, places = _used(len(updates.texts), *(columns[name] for name in OF_TEXTS))
    columns |= {name: places[columns[name]] for name in OF_TEXTS}
    at = {int(old): new for new, old in enumerate(chosen)} if updates.payloads else {}
    return Columns(
        keys=[updates.keys[k] for k in keys],
        texts=[updates.texts[t] for t in texts],
        payloads={at[p]: v for p, v in updates.payloads.items() if p in at},
        **columns,
    )


def _used(count: int, *columns: Ints) -> tuple[list[int], Ints]:
    """Which of so many things columns of their places name, and [place]: where it stands among
    those; the last, NONE, stays what it is."""
    used = np.zeros(count + 1, np.bool_)
    for column in columns:
        used[column] = True
    used[-1] = False
    places = np.cumsum(used) - 1
    places[-1] = NONE
    return np.flatnonzero(used).tolist(), places


def _encode_header(header: BlockHeader) -> bytes:
    known: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "plan": header.plan,
        "generation": header.generation,
        "incarnation": header.incarnation,
        "spans": header.spans,
    }
    return json.dumps(known, separators=(",", ":")).encode()


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
