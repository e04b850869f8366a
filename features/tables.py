"""The seam of stored state: the rows of one view, whatever its kind.

A kind of view is a spec (`features.spec`), what events do to its rows (`features.project`), and a
table. `features.entities` makes the tables and joins those of one entity into Redis hashes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from features.layout import Ints
from features.spec import EntitySpec
from features.strings import Strings
from features.updates import Columns

Folding = Callable[[int, int], None]
"""Folds updates `start` to `stop` of those it was made for."""


class StoredRow(NamedTuple):
    """The Feast values of one row, in the order of its table's fields."""

    values: Sequence[bytes | None]
    """None: the field is not stored."""
    gone: Sequence[int]
    """Places of fields that were stored and hold nothing any more."""
    updated_at: bytes | None = None
    """The Feast time of the row, where it is finer than the milliseconds of `newest`."""


class ReadTable(Protocol):
    """Rows of one view in memory that can be read, by the row numbers their entity gives out."""

    @property
    def newest(self) -> Ints:
        """[row]: the time of the newest fact, ms; NEVER where the row holds nothing."""

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds; `BadInput` when it is nothing of ours."""


class EntityRows(Protocol):
    """The rows of one entity across its views, to be read: hold the lock of who writes them."""

    entity: EntitySpec
    strings: Strings

    @property
    def tables(self) -> Mapping[str, ReadTable]:
        """The tables of its views, by name; they share row numbers."""

    def __len__(self) -> int:
        """How many row numbers were given out."""

    def rows_of_ids(self, ids: Sequence[str]) -> Ints:
        """The row numbers of ids; −1 for those that are not here."""

    def rows_of_codes(self, codes: Ints) -> Ints:
        """The row numbers of ids given as codes of `strings`; −1 for those that are not here."""

    def codes_of_rows(self, rows: Ints, ids: Sequence[str]) -> Ints:
        """The codes of ids that have these rows, −1 where they have none."""

    def ids_of(self, rows: Ints) -> list[str | None]:
        """The ids of rows; None where there is none."""

    def known(self, row: int) -> bool:
        """Whether any view of a row holds anything."""

    def marked(self, rows: Ints) -> Ints:
        """[row]: generation, partition and offset of its marker; −1 where there is none."""


class Table(Protocol):
    """Rows of one view in memory, by the row numbers that their entity gives out.

    Folding is commutative: any order and any split of the same updates makes the same rows.
    """

    fields: tuple[str, ...]

    @property
    def newest(self) -> Ints:
        """[row]: the time of the newest fact, ms; NEVER where the row holds nothing."""

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""

    def folding(self, updates: Columns, chosen: Ints, rows: Ints) -> Folding:
        """Make the chosen updates ready to be folded into rows, one number for each."""

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds; `BadInput` when it is nothing of ours."""

    def encoded(self, rows: Ints) -> Iterator[StoredRow]:
        """What the store should hold of each row."""
