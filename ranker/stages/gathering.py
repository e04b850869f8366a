"""What sources brought, made into the candidates of one request."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from features.as_of_kernels import Floats
from features.candidates import ITEM_KEY
from features.layout import Ints
from ranker.reading import Reading
from ranker.stages.roles import GIVEN, Candidates, Query, Sourced, User


def joined(query: Query, reading: Reading, user: User, found: Mapping[str, Sourced]) -> Candidates:
    """What sources brought, each item once and joined to its rows."""
    names, brought = tuple(found), list(found.values())
    items = list(dict.fromkeys(chain.from_iterable(sourced.items for sourced in brought)))
    rows = reading.tables[ITEM_KEY].rows_of_ids(items)
    moment = reading.join.moment(query.now, user.row, items, rows, query.request.surface)
    if names == (GIVEN,):
        return Candidates(items, rows, moment, reading)
    source, propensity = _origins(items, brought)
    return Candidates(items, rows, moment, reading, names, source, propensity)


def _origins(items: Sequence[str], brought: Sequence[Sourced]) -> tuple[Ints, Floats | None]:
    """The first source of each item, and the chance that any source brought it."""
    first_of: dict[str, int] = {}
    for place, sourced in reversed(list(enumerate(brought))):
        first_of.update(dict.fromkeys(sourced.items, place))
    source = np.fromiter(map(first_of.__getitem__, items), np.int64, len(items))
    if all(sourced.propensity is None for sourced in brought):
        return source, None
    missed = dict.fromkeys(items, 1.0)
    for sourced in brought:
        chances = sourced.propensity
        each = np.ones(len(sourced.items)) if chances is None else chances
        for item, chance in zip(sourced.items, each.tolist(), strict=True):
            missed[item] *= 1.0 - chance
    return source, 1.0 - np.fromiter(missed.values(), np.float64, len(items))
