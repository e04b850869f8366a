"""The fold: facts into activity state. Merging is commutative, so order cannot show.

Every change is an exact integer addition into a bucket that depends on the fact's own time, or an
insertion into a set ordered by (time, hash of the rest); what falls off the old end of a ring or a
sequence would fall off whatever the order. `tests/unit/features/test_fold.py` holds the laws.
"""

from features.compiled import kernel
from features.layout import ACTION, AUTHOR, CATEGORY, HASH, ITEM, TIME, VALUE, Arrays, Ints, Layout

FIRST_ROOM = 4
"""Arena entries a sequence starts with; its room doubles up to its length."""

SUM_MAX = 2**53
"""Where sums stop, in any order of adding: past it a float64 column could not hold them."""


@kernel
def fold_facts(
    layout: Layout,
    arrays: Arrays,
    rows: Ints,
    times: Ints,
    actions: Ints,
    items: Ints,
    authors: Ints,
    categories: Ints,
    values: Ints,
    hashes: Ints,
    start: int,
    stop: int,
) -> int:
    """Fold facts `start` to `stop`; returns where it stopped for want of space in the arrays.

    `hashes` are those of the strings that items, authors and categories are codes of.
    """
    for i in range(start, stop):
        row, time, action = rows[i], times[i], actions[i]
        if arrays.used[0] + layout.metrics_of.shape[1] > len(arrays.total):
            return i
        needed = arrays.used[1]
        for s in range(len(layout.sequence_length)):
            if layout.sequence_of[action, s]:
                needed += layout.sequence_length[s]
        if needed > len(arrays.arena):
            return i
        if time > arrays.newest[row]:
            advance(layout, arrays, row, time)
        if layout.adds_first and (arrays.first[row] < 0 or time < arrays.first[row]):
            arrays.first[row] = time
        for k in range(layout.metrics_of.shape[1]):
            metric = layout.metrics_of[action, k]
            if metric < 0:
                break
            amount = values[i] if layout.adds_value[metric] else 1
            add(layout, arrays, row, metric, time, amount)
        for s in range(len(layout.sequence_length)):
            if layout.sequence_of[action, s]:
                list_entry(
                    layout,
                    arrays,
                    hashes,
                    row,
                    s,
                    time,
                    action,
                    items[i],
                    authors[i],
                    categories[i],
                    values[i],
                )
    return stop


@kernel
def advance(layout: Layout, arrays: Arrays, row: int, time: int) -> None:
    """Move a row's newest time forward and empty the slots whose buckets fell off its rings."""
    was = arrays.newest[row]
    arrays.newest[row] = time
    if was < 0:
        return
    for r in range(len(layout.ring_width)):
        width, buckets = layout.ring_width[r], layout.ring_buckets[r]
        steps = min(time // width - was // width, buckets)
        if steps == 0:
            continue
        for m in range(arrays.block.shape[1]):
            block = arrays.block[row, m]
            if block < 0:
                continue
            for back in range(steps):
                slot = (time // width - back) % buckets
                arrays.slots[block, layout.ring_start[r] + slot] = 0


@kernel
def add(layout: Layout, arrays: Arrays, row: int, metric: int, time: int, amount: int) -> None:
    """Count an amount at a time into all rings of a metric whose oldest bucket is not past it."""
    block = arrays.block[row, metric]
    if block < 0:
        block = arrays.used[0]
        arrays.used[0] += 1
        arrays.block[row, metric] = block
    if layout.adds_total[metric]:
        arrays.total[block] = min(arrays.total[block] + amount, SUM_MAX)
    for r in range(len(layout.ring_width)):
        if not layout.adds_ring[metric, r]:
            continue
        width, buckets = layout.ring_width[r], layout.ring_buckets[r]
        bucket = time // width
        if bucket > arrays.newest[row] // width - buckets:
            slot = layout.ring_start[r] + bucket % buckets
            arrays.slots[block, slot] = min(arrays.slots[block, slot] + amount, SUM_MAX)


@kernel
def list_entry(
    layout: Layout,
    arrays: Arrays,
    hashes: Ints,
    row: int,
    s: int,
    time: int,
    action: int,
    item: int,
    author: int,
    category: int,
    value: int,
) -> None:
    """List an entry in a sequence, with the columns the sequence keeps, unless it is there."""
    keeps = layout.keeps[s]
    item = item if keeps[ITEM] else -1
    author = author if keeps[AUTHOR] else -1
    category = category if keeps[CATEGORY] else -1
    action = action if keeps[ACTION] else layout.only_action[s]
    value = value if keeps[VALUE] else 0
    said = layout.action_hash[action] if keeps[ACTION] else 0
    rest = hash_of(hashes, said, item, author, category, value)
    at = insert(layout, arrays, row, s, time, rest)
    if at >= 0:
        put_entry(arrays.arena[at], item, author, category, action, value)


@kernel
def put_entry(entry: Ints, item: int, author: int, category: int, action: int, value: int) -> None:
    """Fill what `insert` leaves open of an entry."""
    entry[ITEM], entry[AUTHOR], entry[CATEGORY] = item, author, category
    entry[ACTION], entry[VALUE] = action, value


@kernel
def hash_of(
    hashes: Ints, action_hash: int, item: int, author: int, category: int, value: int
) -> int:
    """What orders entries of one time: 64 bits of all that they say, the same in every process."""
    state = mix(action_hash, value)
    state = mix(state, hashes[item] if item >= 0 else 0)
    state = mix(state, hashes[author] if author >= 0 else 0)
    return mix(state, hashes[category] if category >= 0 else 0)


@kernel
def mix(state: int, number: int) -> int:
    """One step of a 64-bit hash over numbers (the finisher of MurmurHash3 on their sum)."""
    state = state * 31 + number
    state = (state ^ (state >> 33 & 0x7FFF_FFFF)) * -49064778989728563
    state = (state ^ (state >> 33 & 0x7FFF_FFFF)) * -4265267296055464877
    return state ^ (state >> 33 & 0x7FFF_FFFF)


@kernel
def insert(layout: Layout, arrays: Arrays, row: int, s: int, time: int, rest: int) -> int:
    """Make place for an entry by (time, rest); −1 when it is there already or older than all."""
    start, length, full = arrays.start[row, s], arrays.length[row, s], layout.sequence_length[s]
    at = length
    while at > 0:
        entry = start + at - 1
        if arrays.arena[entry, TIME] < time:
            break
        if arrays.arena[entry, TIME] == time:
            if arrays.arena[entry, HASH] == rest:
                return -1
            if arrays.arena[entry, HASH] < rest:
                break
        at -= 1
    if length == full:
        if at == 0:
            return -1
        for i in range(start, start + at - 1):
            arrays.arena[i] = arrays.arena[i + 1]
        put = start + at - 1
    else:
        if length == arrays.room[row, s]:
            start = enlarge(layout, arrays, row, s, length + 1)
        for i in range(start + length, start + at, -1):
            arrays.arena[i] = arrays.arena[i - 1]
        arrays.length[row, s] = length + 1
        put = start + at
    arrays.arena[put, TIME] = time
    arrays.arena[put, HASH] = rest
    return int(put)


@kernel
def enlarge(layout: Layout, arrays: Arrays, row: int, s: int, least: int) -> int:
    """Move a sequence to a run of the arena with at least twice the room (its old run is left
    behind, so a row that is loaded again and again must not move for each entry more)."""
    start, length = arrays.start[row, s], arrays.length[row, s]
    room = min(max(2 * arrays.room[row, s], least, FIRST_ROOM), layout.sequence_length[s])
    fresh = arrays.used[1]
    for i in range(length):
        arrays.arena[fresh + i] = arrays.arena[start + i]
    arrays.used[1] += room
    arrays.start[row, s] = fresh
    arrays.room[row, s] = room
    return int(fresh)
