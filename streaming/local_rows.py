"""Rows in one SQLite file: the archiver's own copy of state, which its archive can rebuild.

Everything written since the last seal is one transaction: it stands whole or not at all.
"""

import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from features.codec import MARKER_FIELD, entity_prefix
from features.entities import Hash, RowWrite
from features.errors import Unavailable
from features.marker import Marker
from features.offline import Stored
from features.row_store import Checkpoint, Seal, change, refused

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS touched
    (view TEXT, key BLOB, first INTEGER, PRIMARY KEY (view, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts
    (name TEXT, field TEXT, value TEXT, PRIMARY KEY (name, field)) WITHOUT ROWID;
"""
_STAMP: Final = b"_ts:"
_CHECKPOINTS: Final = "checkpoints"


class LocalRows:
    """A `RowStore` in a file; one process at a time, `Unavailable` while another has it open.

    Beside the rows it notes which of them were written, view by view, until they are taken.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(file, isolation_level=None, timeout=0)
        try:
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode = WAL")
            # A power cut may take the newest commits: then the rows catch up with the archive.
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.executescript(_TABLES)
            self._file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            self._file.close()
            raise Unavailable(
                f"{file} cannot be used ({error}): another archive worker may have it open; give "
                "each its own HEADRACE_ARCHIVE_STATE"
            ) from error

    def close(self) -> None:
        """Drop what was not sealed."""
        self._file.close()

    def clear(self) -> None:
        """Forget everything."""
        for table in ("rows", "touched", "facts"):
            self._file.execute(f"DELETE FROM {table}")

    def read(self, keys: Sequence[bytes]) -> list[Hash]:
        """The whole hash of each key."""
        return [self._hash(key) for key in keys]

    def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        """Set each row where its stored marker is older."""
        return [self._write(write) for write in writes]

    def restore(self, key: bytes, view: str, fields: Hash) -> None:
        """Add one view of a row, unless it was restored before; the newest marker stands."""
        again = self._file.execute(
            "INSERT OR IGNORE INTO touched VALUES (?, ?, 0)", (view, key)
        ).rowcount
        if not again:
            return
        row = self._hash(key)
        markers = [Marker.decode(h.get(MARKER_FIELD)) for h in (row, fields)]
        row |= fields
        row[MARKER_FIELD] = max(m for m in markers if m is not None).encode()
        self._put(key, row)

    def touched(self, view: str, most: int) -> Iterator[list[Stored]]:
        """The rows of a view written since they were last taken, by key, `most` at a time."""
        found = self._file.execute(
            "SELECT key, hash, first FROM touched JOIN rows USING (key) WHERE view = ? ORDER BY 1",
            (view,),
        )
        while some := found.fetchmany(most):
            yield [Stored(key, _unpacked(packed), bool(first)) for key, packed, first in some]

    def count_touched(self, view: str) -> int:
        """How many rows of a view were written since they were last taken."""
        query = "SELECT count(*) FROM touched WHERE view = ?"
        return int(self._file.execute(query, (view,)).fetchone()[0])

    def take(self) -> None:
        """Rows written so far count as taken."""
        self._file.execute("DELETE FROM touched")

    def seal(self) -> Seal:
        """Make everything written so far durable."""
        self._file.execute("COMMIT")
        self._file.execute("BEGIN IMMEDIATE")
        return _Sealed()

    def keys(self, join_key: str) -> list[bytes]:
        """The keys of all rows of an entity."""
        prefix = entity_prefix(join_key)
        query = "SELECT key FROM rows WHERE substr(key, 1, ?) = ?"
        return [key for (key,) in self._file.execute(query, (len(prefix), prefix))]

    def every(self, join_key: str, most: int) -> Iterator[list[bytes]]:
        """The keys of all rows of an entity, `most` at a time, by key."""
        prefix, after = entity_prefix(join_key), b""
        query = "SELECT key FROM rows WHERE key > ? AND substr(key, 1, ?) = ? ORDER BY key LIMIT ?"
        while found := self._file.execute(query, (after, len(prefix), prefix, most)).fetchall():
            yield [key for (key,) in found]
            after = found[-1][0]

    def checkpoint(self, partition: int) -> Checkpoint | None:
        """The saved checkpoint of an `updates` partition."""
        saved = self.remembered(_CHECKPOINTS).get(str(partition))
        return Checkpoint.model_validate_json(saved) if saved else None

    def save_checkpoint(self, partition: int, checkpoint: Checkpoint) -> None:
        """Save a checkpoint unless a later one stands there."""
        if checkpoint.after(self.checkpoint(partition)):
            self.replace(_CHECKPOINTS, str(partition), checkpoint.model_dump_json())

    def remember(self, name: str, field: str, value: str) -> str:
        """Fix a fact once."""
        self._file.execute("INSERT OR IGNORE INTO facts VALUES (?, ?, ?)", (name, field, value))
        return self.remembered(name)[field]

    def replace(self, name: str, field: str, value: str) -> None:
        """Let another value stand for a fact."""
        self._file.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (name, field, value))

    def raise_to(self, name: str, numbers: Mapping[str, int]) -> dict[str, int]:
        """Raise numbers that only grow; returns those that stand."""
        known = self.remembered(name)
        stand = {field: max(int(known.get(field, -1)), n) for field, n in numbers.items()}
        for field, number in stand.items():
            self.replace(name, field, str(number))
        return stand

    def remembered(self, name: str) -> dict[str, str]:
        """All facts under a name."""
        return dict(self._file.execute("SELECT field, value FROM facts WHERE name = ?", (name,)))

    def generation(self, topic: str, topic_id: str) -> int:
        """The number of a topic's life."""
        name = f"generations:{topic}"
        return int(self.remember(name, topic_id, str(len(self.remembered(name)) + 1)))

    def _hash(self, key: bytes) -> Hash:
        found = self._file.execute("SELECT hash FROM rows WHERE key = ?", (key,)).fetchone()
        return _unpacked(found[0]) if found else {}

    def _put(self, key: bytes, row: Hash) -> None:
        self._file.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (key, _packed(row)))

    def _write(self, write: RowWrite) -> bool:
        row = self._hash(write.key)
        answer = refused(row, write)
        if answer is not None:
            return answer
        self._file.executemany(
            "INSERT OR IGNORE INTO touched VALUES (?, ?, ?)",
            [
                (field.removeprefix(_STAMP).decode(), write.key, field not in row)
                for field in write.fields[::2]
                if field.startswith(_STAMP)
            ],
        )
        change(row, write)
        self._put(write.key, row)
        return True


class _Sealed:
    def safe(self) -> bool | None:
        return True

    def settled(self) -> bool:
        return True


def _packed(row: Hash) -> bytes:
    parts = [part for pair in row.items() for part in pair]
    return struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)) + b"".join(parts)


def _unpacked(packed: bytes) -> Hash:
    (count,) = struct.unpack_from("<I", packed)
    at, parts = 4 + 4 * count, []
    for size in struct.unpack_from(f"<{count}I", packed, 4):
        parts.append(packed[at : at + size])
        at += size
    return dict(zip(parts[::2], parts[1::2], strict=True))
