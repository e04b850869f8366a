"""Files of item embeddings: a column of ids and a column of vectors, in Parquet or in npz."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import BadInput

ROWS_PER_BATCH = 10_000
FLOAT32_MAX = float(np.finfo(np.float32).max)


class Embeddings(NamedTuple):
    """Some rows of a file."""

    ids: list[str]
    vectors: NDArray[np.float32]
    """[row, dimension]"""
    first: int
    """The number of the first row in the file, from 0."""


class EmbeddingFile:
    """A file that was looked at: how many rows it has, and of which dimension.

    Raises BadInput, with what to do, when it holds anything but finite vectors of one dimension
    and an id for each.
    """

    def __init__(self, path: Path, id_column: str, vector_column: str) -> None:
        self.path, self._id, self._vector = path, id_column, vector_column
        if not path.is_file():
            raise BadInput(f"no file {path}")
        self._npz = path.suffix == ".npz"
        if self._npz:
            self._arrays = self._opened_npz()
            self.rows = len(self._arrays[0])
        else:
            self._parquet = self._opened_parquet()
            self.rows = self._parquet.metadata.num_rows
        if self.rows == 0:
            raise BadInput(f"{path} holds no rows")
        self.dimension = next(self.batches()).vectors.shape[1]

    def batches(self, start: int = 0) -> Iterator[Embeddings]:
        """All rows from a number on, some thousand at a time."""
        first = 0
        for ids, vectors in self._raw():
            skipped = min(max(start - first, 0), len(ids))
            if skipped < len(ids):
                checked = self._checked(ids[skipped:], vectors[skipped:], first + skipped)
                yield Embeddings(*checked, first + skipped)
            first += len(ids)

    def _raw(self) -> Iterator[tuple[list[object], NDArray[np.generic]]]:
        if self._npz:
            ids, vectors = self._arrays
            for start in range(0, self.rows, ROWS_PER_BATCH):
                part = slice(start, start + ROWS_PER_BATCH)
                yield ids[part].tolist(), vectors[part]
            return
        first = 0
        for batch in self._parquet.iter_batches(ROWS_PER_BATCH, columns=[self._id, self._vector]):
            yield batch.column(0).to_pylist(), self._matrix(batch.column(1), first)
            first += len(batch)

    def _checked(
        self, ids: list[object], vectors: NDArray[np.generic], first: int
    ) -> tuple[list[str], NDArray[np.float32]]:
        wrong = next((i for i, one in enumerate(ids) if not isinstance(one, str | int)), None)
        if wrong is not None:
            raise BadInput(
                f"{self.path}, row {first + wrong}: {ids[wrong]!r} in {self._id!r} is no id; "
                "ids are texts or whole numbers"
            )
        texts = [str(one) for one in ids]
        wrong = next((i for i, text in enumerate(texts) if not 0 < len(text) <= 256), None)
        if wrong is not None:
            raise BadInput(
                f"{self.path}, row {first + wrong}: an id of {len(texts[wrong])} characters; it "
                "takes 1 to 256"
            )
        if vectors.dtype.kind != "f":
            raise BadInput(
                f"{self.path}: {self._vector!r} holds {vectors.dtype}, and embeddings are float16, "
                "float32 or float64: convert the column"
            )
        wide = vectors.astype(np.float64)
        finite = (np.abs(wide) <= FLOAT32_MAX).all(axis=1)  # NaN is not
        if not finite.all():
            wrong = int(np.flatnonzero(~finite)[0])
            raise BadInput(
                f"{self.path}, row {first + wrong} (id {texts[wrong]!r}): its vector holds NaN, an "
                "infinity or what exceeds float32: leave the row out, or make the vector again"
            )
        return texts, vectors.astype(np.float32)

    def _opened_npz(self) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                names = list(arrays)
                missing = [name for name in (self._id, self._vector) if name not in names]
                if missing:
                    raise self._no_column(missing[0], names)
                ids, vectors = arrays[self._id], arrays[self._vector]
        except (ValueError, OSError, EOFError) as error:
            raise BadInput(
                f"{self.path} cannot be read as npz of plain arrays: {error}; write it with "
                "numpy.savez, ids as text or integers (no object arrays)"
            ) from error
        if vectors.ndim != 2 or ids.ndim != 1 or len(ids) != len(vectors):
            raise BadInput(
                f"{self.path}: {self._id!r} has shape {ids.shape} and {self._vector!r} "
                f"{vectors.shape}; they should be (rows,) and (rows, dimension)"
            )
        return ids, vectors

    def _opened_parquet(self) -> "pq.ParquetFile":
        try:
            found = pq.ParquetFile(self.path)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(
                f"{self.path} is no Parquet file ({error}); an npz must end in .npz"
            ) from error
        names = found.schema_arrow.names
        for name in (self._id, self._vector):
            if name not in names:
                raise self._no_column(name, names)
        kind = found.schema_arrow.field(self._vector).type
        if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise BadInput(
                f"{self.path}: {self._vector!r} is {kind}, and should be a list of floats"
            )
        return found

    def _matrix(self, column: "pa.Array", first: int) -> NDArray[np.generic]:
        """[row, dimension] of a column of lists, all of one length."""
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        dimension = getattr(self, "dimension", int(lengths[0]) if len(lengths) else 0)
        wrong = np.flatnonzero((lengths != dimension) | (lengths == 0))
        if len(wrong):
            raise BadInput(
                f"{self.path}, row {first + int(wrong[0])}: a vector of {lengths[wrong[0]]} "
                f"numbers, and the first has {dimension}: all take the same"
            )
        flat: NDArray[np.generic] = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), dimension)

    def _no_column(self, name: str, names: list[str]) -> BadInput:
        return BadInput(
            f"{self.path} has no column {name!r}, it has {', '.join(names)}: name them with "
            "--id and --vector"
        )
