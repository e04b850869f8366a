"""Features of a few items from rows as they stand in a store, by the code that serves."""

from collections.abc import Sequence

import numpy as np

from deploy.stream_tests.script import Values
from features.candidates import USER_KEY
from features.row_store import RowStore
from ranker.recount import Recounter


def vectors(
    recounter: Recounter, store: RowStore, user: str, items: Sequence[str], surface: str, now: int
) -> list[Values]:
    """By item, every feature of the service from all rows there are."""
    others = [e.join_key for e in recounter.plan.entities if e.join_key != USER_KEY]
    keys = [recounter.key_of(USER_KEY, user), *(k for name in others for k in store.keys(name))]
    rows = dict(zip(keys, store.read(keys), strict=True))
    found = recounter.vectors(user, items, surface, now, rows)
    return [
        {
            name: None if np.isnan(value) else value
            for name, value in zip(recounter.columns, row, strict=True)
        }
        for row in found.tolist()
    ]
