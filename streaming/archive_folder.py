"""Where an archive's files are: a seam for disks and object stores."""

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from features.errors import Unavailable
from streaming.archive_buckets import mend, opened

_STAGING: Final = ".staging"


class Folder(Protocol):
    """A tree of files, whole or absent. Calls raise `Unavailable` when it cannot be reached."""

    def put(self, path: str, content: bytes) -> None:
        """Write a file of bytes, replacing it."""

    def put_table(
        self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], about: dict[str, str]
    ) -> None:
        """Write a Parquet file, replacing it."""

    def get(self, path: str) -> bytes | None:
        """The bytes of a file; None when it is not there."""

    def table(self, path: str, dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        """A Parquet file, to be read part by part; these columns as codes of their texts."""

    def list(self, path: str) -> list[str]:
        """The files anywhere under a path, sorted; nothing when it is not there."""

    def remove(self, path: str) -> None:
        """Delete a file."""


class ArrowFolder:
    """A `Folder` on a local path or in a bucket (`s3://bucket/path`).

    A file is written aside on a disk, then moved into place or sent in one call: a bucket shows an
    upload that was closed, even one that was closed because of an error halfway through.
    """

    def __init__(self, root: str) -> None:
        """Raises Refused for a URI that cannot be used, Unavailable where nobody answers."""
        self._fs, self._root = opened(root) if "://" in root else (fs.LocalFileSystem(), root)
        self._local = isinstance(self._fs, fs.LocalFileSystem)

    def put(self, path: str, content: bytes) -> None:
        """Write a file of bytes, replacing it."""
        with _reached(path):
            if self._local:
                place = self._begin(path)
                Path(place).write_bytes(content)
                self._finish(place, path)
            else:
                self._send(pa.py_buffer(content), path)

    def put_table(
        self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], about: dict[str, str]
    ) -> None:
        """Write a Parquet file, replacing it."""
        with _reached(path):
            if self._local:
                place = self._begin(path)
                with self._fs.open_output_stream(place) as file:
                    _write_table(file, schema, batches, about)
                self._finish(place, path)
                return
            with tempfile.TemporaryFile() as file:  # without a name: a kill leaves nothing
                _write_table(file, schema, batches, about)
                file.flush()
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._send(pa.py_buffer(whole), path)

    def get(self, path: str) -> bytes | None:
        """The bytes of a file."""
        with _reached(path):
            try:
                with self._fs.open_input_stream(self._at(path)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def table(self, path: str, dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        """A Parquet file."""
        with _reached(path):
            at, columns = self._at(path), list(dictionary)
            return pq.ParquetFile(at, filesystem=self._fs, read_dictionary=columns)

    def list(self, path: str) -> list[str]:
        """The files anywhere under a path."""
        selector = fs.FileSelector(self._at(path), allow_not_found=True, recursive=True)
        with _reached(path):
            found = self._fs.get_file_info(selector)
        return sorted(
            info.path.removeprefix(self._root).lstrip("/")
            for info in found
            if info.type == fs.FileType.File
        )

    def remove(self, path: str) -> None:
        """Delete a file."""
        with _reached(path):
            try:
                self._fs.delete_file(self._at(path))
            except FileNotFoundError:
                return

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _begin(self, path: str) -> str:
        """Where a file is written before it is there, on the archive's own disk."""
        place = self._at(f"{_STAGING}/{path.replace('/', '~')}")
        self._fs.create_dir(place.rpartition("/")[0])
        return place

    def _finish(self, place: str, path: str) -> None:
        final = self._at(path)
        self._fs.create_dir(final.rpartition("/")[0])
        _sync(place)
        self._fs.move(place, final)
        _sync(final.rpartition("/")[0])

    def _send(self, content: pa.Buffer, path: str) -> None:
        with self._fs.open_output_stream(self._at(path)) as file:
            file.write(content)


def _write_table(
    file: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch], about: dict[str, str]
) -> None:
    with pq.ParquetWriter(file, schema.with_metadata(about), compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(about))


@contextmanager
def _reached(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        says = mend(error)
        what = f"the archive cannot be used at {path}: {error}"
        raise Unavailable(f"{what}; {says}" if says else what) from error


def _sync(path: str) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
