"""What a user's lists say of candidates: affinities, and nearness to the items in them; and what
their own embedding says.

The cost is that of the entries plus that of the candidates, not of their product, but for the
products of vectors.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import Floats, Vectors
from features.compiled import kernel
from features.layout import ACTION, AUTHOR, CATEGORY, ITEM, TIME, Arrays, Ints

AFFINITY, SINCE = range(2)
TILE: Final = 16
"""Vectors that are turned into columns at a time: a line of memory holds as many numbers."""
KEYS: Final = (ITEM, AUTHOR, CATEGORY)


class ListProgram(NamedTuple):
    """Features of one user's sequences against candidates, one place per feature."""

    op: Ints
    sequence: Ints
    actions: NDArray[np.bool_]
    """[feature, action]"""
    key: Ints
    """Arena column that must equal the candidate's."""
    half_life_ms: Floats


@kernel
def read_lists(
    arrays: Arrays, program: ListProgram, user: int, now: int, keys: Ints, out: Floats
) -> None:
    """out[candidate, feature] of affinities; `keys` are the candidates' arena columns."""
    for f in range(len(program.op)):
        out[:, f] = np.nan if program.op[f] == SINCE else 0.0
    if user < 0:
        return
    slots = 16
    while slots < len(keys):
        slots *= 2
    first, following = np.empty(slots, np.int64), np.empty(len(keys), np.int64)
    for column in KEYS:
        linked = False
        for f in range(len(program.op)):
            if program.key[f] == column:
                if not linked:
                    link_keys(keys, column, first, following)
                    linked = True
                _read_list(arrays, program, f, user, now, keys, first, following, out)


@kernel
def link_keys(keys: Ints, column: int, first: Ints, following: Ints) -> None:
    """Chains of the candidates whose codes in a column share a slot: `first` [slot] is where one
    begins, `following` [candidate] how it goes on, −1 where it ends."""
    first[:] = -1
    for i in range(len(keys)):
        if keys[i, column] >= 0:
            slot = keys[i, column] & (len(first) - 1)
            following[i], first[slot] = first[slot], i


@kernel
def _read_list(
    arrays: Arrays,
    program: ListProgram,
    f: int,
    user: int,
    now: int,
    keys: Ints,
    first: Ints,
    following: Ints,
    out: Floats,
) -> None:
    """One feature; the candidates are met entry by entry, from the oldest on."""
    s, column, since = program.sequence[f], program.key[f], program.op[f] == SINCE
    start = arrays.start[user, s]
    for e in range(start, start + arrays.length[user, s]):
        time, code = arrays.arena[e, TIME], arrays.arena[e, column]
        if time > now or code < 0 or not program.actions[f, arrays.arena[e, ACTION]]:
            continue
        weight = -1.0  # made when a candidate asks for it: a power costs more than the look-up
        i = first[code & (len(first) - 1)]
        while i >= 0:
            if keys[i, column] == code:
                if since:
                    out[i, f] = (now - time) / 1000.0
                else:
                    if weight < 0.0:
                        weight = 2.0 ** (-(now - time) / program.half_life_ms[f])
                    out[i, f] += weight
            i = following[i]


@kernel
def oldest_of_newest(
    arrays: Arrays, user: int, s: int, actions: NDArray[np.bool_], now: int, newest: int
) -> int:
    """The time of the oldest of those entries that `newest_items` takes; `now` + 1 without any."""
    start, found, oldest = arrays.start[user, s], 0, now + 1
    at = start + arrays.length[user, s]
    while at > start and found < newest:
        at -= 1
        if arrays.arena[at, TIME] <= now and actions[arrays.arena[at, ACTION]]:
            found += 1
            oldest = arrays.arena[at, TIME]
    return int(oldest)


@kernel
def newest_items(
    arrays: Arrays,
    user: int,
    s: int,
    actions: NDArray[np.bool_],
    now: int,
    newest: int,
    since: int,
) -> Ints:
    """Codes of the items of a sequence's newest entries of some actions at times from `since` to
    `now`, oldest of them first."""
    start, found = arrays.start[user, s], 0
    at = start + arrays.length[user, s]
    while at > start and found < newest and arrays.arena[at - 1, TIME] >= since:
        at -= 1
        if arrays.arena[at, TIME] <= now and actions[arrays.arena[at, ACTION]]:
            found += 1
    items = np.empty(found, np.int64)
    found = 0
    for e in range(at, start + arrays.length[user, s]):
        if arrays.arena[e, TIME] <= now and actions[arrays.arena[e, ACTION]]:
            items[found] = arrays.arena[e, ITEM]
            found += 1
    return items


@kernel
def gather_vectors(vectors: Vectors, rows: Ints, out: Vectors) -> NDArray[np.bool_]:
    """Columns of `out` [dimension, row]: the vectors of rows, zeros for row −1; [row] whether there
    is one that is not of zeros."""
    found = np.zeros(len(rows), np.bool_)
    tile = np.empty((TILE, vectors.shape[1]), np.float32)
    for first in range(0, len(rows), TILE):
        count = min(TILE, len(rows) - first)
        for i in range(count):
            row, some = rows[first + i], False
            for d in range(vectors.shape[1]):
                tile[i, d] = vectors[row, d] if row >= 0 else np.float32(0.0)
                some |= tile[i, d] != np.float32(0.0)
            found[first + i] = some
        # A line of memory of `out` is filled at once, and not met again at each of its columns.
        for d in range(vectors.shape[1]):
            for i in range(count):
                out[d, first + i] = tile[i, d]
    return found


@kernel
def dot_products(candidates: Vectors, vector: Vectors, product: Vectors) -> None:
    """product[candidate] with one vector, in single precision, component after component."""
    product[:] = np.float32(0.0)
    # Four at a time, one added after the other as if alone: a sum is fetched and put once.
    fours = candidates.shape[0] // 4 * 4
    for d in range(0, fours, 4):
        a, b, c, e = candidates[d], candidates[d + 1], candidates[d + 2], candidates[d + 3]
        of_a, of_b, of_c, of_e = vector[d], vector[d + 1], vector[d + 2], vector[d + 3]
        for i in range(len(product)):
            product[i] = (((product[i] + a[i] * of_a) + b[i] * of_b) + c[i] * of_c) + e[i] * of_e
    for d in range(fours, candidates.shape[0]):
        weight = vector[d]
        for i in range(len(product)):
            product[i] += candidates[d, i] * weight


@kernel
def length_of(vector: Vectors) -> float:
    """The length of a vector; its square is summed in single precision."""
    square = np.float32(0.0)
    for d in range(len(vector)):
        square += vector[d] * vector[d]
    return float(np.sqrt(np.float64(square)))


@kernel
def lengths_of(candidates: Vectors) -> Floats:
    """[candidate]: the same of each column."""
    squares = np.zeros(candidates.shape[1], np.float32)
    for d in range(candidates.shape[0]):
        for i in range(len(squares)):
            squares[i] += candidates[d, i] * candidates[d, i]
    return np.sqrt(squares.astype(np.float64))


@kernel
def read_products(vector: Vectors, candidates: Vectors, normalize: bool, out: Floats) -> None:
    """out[candidate]: its dot product with a vector, as for similarity; normalized, their cosine:
    the product over both lengths in double precision, NaN where one of them is 0."""
    product = np.empty(candidates.shape[1], np.float32)
    dot_products(candidates, vector, product)
    if not normalize:
        out[:] = product
        return
    length, lengths = length_of(vector), lengths_of(candidates)
    for i in range(len(out)):
        both = length * lengths[i]
        out[i] = np.float64(product[i]) / both if both > 0.0 else np.nan


@kernel
def read_similarity(recent: Vectors, candidates: Vectors, out: Floats) -> None:
    """out[0, candidate]: the max of its dot products with recent vectors; out[1, candidate]: their
    mean. No recent vector gives NaN.

    `candidates` is [dimension, candidate], so that the inner loop runs over candidates and each
    product is summed in one fixed order whatever their number.
    """
    count = candidates.shape[1]
    product = np.empty(count, np.float32)
    out[:] = np.nan
    for j in range(len(recent)):
        dot_products(candidates, recent[j], product)
        if j == 0:
            for i in range(count):
                out[0, i] = out[1, i] = product[i]
        else:
            for i in range(count):
                out[1, i] += product[i]
                if product[i] > out[0, i]:
                    out[0, i] = product[i]
    for i in range(count):
        out[1, i] /= len(recent)


@kernel
def read_nearness(recent: Vectors, candidates: Vectors, powers: Ints, out: Floats) -> None:
    """out[p, candidate]: Σ over recent vectors of its cosine with them, none below 0, to powers[p].

    `candidates` is [dimension, candidate] as for similarity; the length of a vector is summed in
    single precision as well, and a cosine is made of the product in double.
    """
    count = candidates.shape[1]
    product = np.empty(count, np.float32)
    lengths = lengths_of(candidates)
    # Without a vector, or with one so short that its square is 0, a candidate is like nothing.
    lengths[lengths == 0.0] = np.inf
    cosines, near = np.empty(count), np.empty(count)
    out[:] = 0.0
    for j in range(len(recent)):
        length = length_of(recent[j])
        if length == 0.0:
            continue
        dot_products(candidates, recent[j], product)
        cosines[:] = np.maximum(product, np.float32(0.0)) / (length * lengths)
        # Loops over candidates without a branch in them, which the compiler makes vectors of.
        for p in range(len(powers)):
            near[:] = cosines
            for _ in range(powers[p] - 1):
                for i in range(count):
                    near[i] *= cosines[i]
            for i in range(count):
                out[p, i] += near[i]
