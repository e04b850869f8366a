"""Consecutive events of one partition as columns: what replay works on."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.layout import Ints

COLUMNS: Final = (
    "offset",
    "append_time",
    "type",
    "identity",
    "event_time",
    "user_id",
    "surface",
    "action",
    "amount",
    "items",
    "about",
)
"""What replay reads of an archived event."""
DICTIONARY: Final = ("type", "user_id", "surface", "action")
"""Those that are read as codes of their texts."""


class Texts:
    """The texts of one chunk, each with a code."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._codes: dict[str, int] = {}

    def codes(self, column: pa.Array) -> Ints:
        """[row] of a text column: its code, −1 for null."""
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        known = self._codes
        places = [known.setdefault(t, len(known)) for t in column.dictionary.to_pylist()]
        self.all = list(known) if len(known) > len(self.all) else self.all
        found: Ints = np.array([*places, -1], np.int64)[_ints(column.indices, missing=-1)]
        return found


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events in order of their offsets, and the facts inside them; texts are codes of `texts`."""

    generation: int
    partition: int
    offset: Ints
    append_time: Ints
    texts: list[str]
    good: NDArray[np.bool_]
    """[event]: whether the record is an event at all."""
    identity: Ints
    time: Ints
    user: Ints
    surface: Ints
    action: Ints
    """[event]: its action, −1 for all but engagements."""
    amount: Ints
    about: pa.Array
    """[event]: the bytes of what says something about an item or a user, else null."""
    event_id: pa.Array
    """[event]: its id; empty unless it was asked for."""
    fact_event: Ints
    """[fact]: the event it is of. A fact is one item that was shown, or acted upon."""
    fact_place: Ints
    """[fact]: which of its event's items it is, from 0."""
    item: Ints
    author: Ints
    category_ends: Ints
    """[fact]: where its categories end in `categories`; those of fact 0 start at 0."""
    categories: Ints

    def __len__(self) -> int:
        return len(self.offset)


def chunk_of(generation: int, partition: int, rows: pa.Table | pa.RecordBatch) -> Chunk:
    """The chunk of archived rows of one partition."""
    columns = {name: _whole(rows.column(name)) for name in COLUMNS}
    texts = Texts()
    items = columns["items"]
    counts = np.nan_to_num(items.value_lengths().to_numpy(zero_copy_only=False), nan=0.0)
    fact_event = np.repeat(np.arange(len(rows)), counts.astype(np.int64))
    starts = np.cumsum(counts.astype(np.int64)) - counts.astype(np.int64)
    flat = items.flatten()
    categories = flat.field("categories")
    ends = np.cumsum(
        np.nan_to_num(categories.value_lengths().to_numpy(zero_copy_only=False), nan=0.0)
    ).astype(np.int64)
    return Chunk(
        generation=generation,
        partition=partition,
        offset=_ints(columns["offset"]),
        append_time=_ints(columns["append_time"]),
        good=columns["type"].is_valid().to_numpy(zero_copy_only=False),
        identity=_ints(columns["identity"]),
        time=_ints(columns["event_time"]),
        user=texts.codes(columns["user_id"]),
        surface=texts.codes(columns["surface"]),
        action=texts.codes(columns["action"]),
        amount=_ints(columns["amount"]),
        about=columns["about"],
        event_id=_whole(rows.column("event_id")) if "event_id" in rows.schema.names else [],
        fact_event=fact_event,
        fact_place=np.arange(len(fact_event)) - starts[fact_event],
        item=texts.codes(flat.field("item_id")),
        author=texts.codes(flat.field("author_id")),
        category_ends=ends,
        categories=texts.codes(categories.flatten()),
        texts=texts.all,
    )


def _whole(column: Any) -> pa.Array:
    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    # An empty chunked array, or one of several dictionaries, combines into chunks again.
    return found.unify_dictionaries().combine_chunks() if hasattr(found, "num_chunks") else found


def _ints(column: pa.Array, missing: int = 0) -> Ints:
    if column.null_count:
        column = column.fill_null(missing)  # in its own type: seconds stay what they are
    found: Ints = np.asarray(column.cast(pa.int64()), np.int64)
    return found
