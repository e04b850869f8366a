"""Where an archive's files are: a seam for disks and object stores."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from features.errors import Unavailable

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
    """A `Folder` on a local path or on what pyarrow reaches by URI (`s3://bucket/path`)."""

    def __init__(self, root: str) -> None:
        try:
            self._fs, self._root = fs.FileSystem.from_uri(root)
        except pa.ArrowInvalid:
            self._fs, self._root = fs.LocalFileSystem(), root
        self._local = isinstance(self._fs, fs.LocalFileSystem)

    def put(self, path: str, content: bytes) -> None:
        """Write a file of bytes, replacing it."""
        with _reached(path):
            place = self._begin(path)
            with self._fs.open_output_stream(place) as file:
                file.write(content)
            self._finish(place, path)

    def put_table(
        self, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], about: dict[str, str]
    ) -> None:
        """Write a Parquet file, replacing it."""
        with _reached(path):
            place = self._begin(path)
            described = schema.with_metadata(about)
            with pq.ParquetWriter(
                place, described, filesystem=self._fs, compression="zstd"
            ) as writer:
                for batch in batches:
                    writer.write_batch(batch.replace_schema_metadata(about))
            self._finish(place, path)

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
        """Where to write: aside, on a disk; an object store shows nothing before it is whole."""
        if not self._local:
            return self._at(path)
        place = self._at(f"{_STAGING}/{path.replace('/', '~')}")
        self._fs.create_dir(place.rpartition("/")[0])
        return place

    def _finish(self, place: str, path: str) -> None:
        if self._local:
            final = self._at(path)
            self._fs.create_dir(final.rpartition("/")[0])
            _sync(place)
            self._fs.move(place, final)
            _sync(final.rpartition("/")[0])


@contextmanager
def _reached(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the archive cannot be used at {path}: {error}") from error


def _sync(path: str) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
