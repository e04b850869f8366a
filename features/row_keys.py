"""Which keys of a Redis are the rows of an entity in a project.

Feast appends the project to the serialized entity key without a separator, so a pattern that ends
in `bench` finds the rows of `other_bench` as well. A pattern is only a first sieve here: the key
is then read value by value, and what is left of it must be the project's name and nothing more.
"""

import re
import struct
from collections.abc import Sequence
from typing import Final

from features.codec import STRING_TYPE

_GLOB: Final = re.compile(rb"([*?\[\]\\])")


def prefix_of(join_keys: Sequence[str]) -> bytes:
    """What the keys of all rows with these join keys begin with, whatever their project."""
    names = [name.encode() for name in sorted(join_keys)]
    sized = (struct.pack("<II", STRING_TYPE, len(name)) + name for name in names)
    return struct.pack("<I", len(names)) + b"".join(sized)


def pattern(join_keys: Sequence[str], project: str) -> bytes:
    """A pattern for SCAN that every row's key matches; keys that are no such rows may match too."""
    start, end = (_GLOB.sub(rb"\\\1", part) for part in (prefix_of(join_keys), project.encode()))
    return start + b"*" + end


def is_row(key: bytes, join_keys: Sequence[str], project: str) -> bool:
    """Whether a key is a row of exactly these join keys in exactly this project."""
    prefix = prefix_of(join_keys)
    if not key.startswith(prefix):
        return False
    at = len(prefix)
    for _ in join_keys:
        if at + 8 > len(key):
            return False
        at += 8 + int.from_bytes(key[at + 4 : at + 8], "little")
    return key[at:] == project.encode()
