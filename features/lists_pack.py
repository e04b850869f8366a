"""Kernels of the pack of a row's sequences: all of them in one value, column by column.

    format, number of things, their items, their authors, their categories, number of sequences,
    then for each: its id, flags, number of entries, the oldest entry's time, the gaps between
    times, a run of bits with each entry's thing, actions (flag 1), values (flag 2)

A thing is what entries are about: an item with the author and the category named beside it. Things
stand once, in the order of their first entry, because people act on what they were just shown. The
bit of an entry is 1 for the first thing that no entry before it had, else 0 and the thing's place.

Texts (items, authors, categories) come in the shortest of three modes: 0, tokens one by one
(`strings.token`; the empty text is none); 1, decimal numbers as a least one, a width, and a run of
bits; 2, a dictionary: how many tokens, these, and a run of places. Actions are a dictionary of
stable ids, values are varints.
"""

import numpy as np

from features.compiled import kernel
from features.fold import enlarge, hash_of, insert, put_entry
from features.layout import ACTION, AUTHOR, CATEGORY, HASH, ITEM, TIME, VALUE, Arrays, Ints, Layout
from features.strings import UUID_TOKEN, Pieces
from features.varints import (
    Bytes,
    bits_for,
    get_bits,
    get_id,
    get_varint,
    open_run,
    put_bits,
    put_id,
    put_varint,
    run_end,
    varint_size,
)

FORMAT = 1
TOKENS, NUMBERS, DICTIONARY = 0, 1, 2
HAS_ACTION, HAS_VALUE = 1, 2


@kernel
def lists_room(layout: Layout, arrays: Arrays, pieces: Pieces, row: int) -> int:
    """Bytes that no pack of a row's sequences exceeds."""
    room = 64 + 32 * len(layout.sequence_length)
    for s in range(len(layout.sequence_length)):
        start = arrays.start[row, s]
        for e in range(start, start + arrays.length[row, s]):
            room += 40
            for column in (ITEM, AUTHOR, CATEGORY):
                code = arrays.arena[e, column]
                room += 2 if code < 0 else pieces.ends[code + 1] - pieces.ends[code]
    return int(room)


@kernel
def put_lists(layout: Layout, arrays: Arrays, pieces: Pieces, row: int, out: Bytes, at: int) -> int:
    """Write a row's sequences; returns the place after them, `at` when they are all empty."""
    entries = 0
    for length in arrays.length[row]:
        entries += length
    if entries == 0:
        return at
    things = np.empty((3, entries), np.int64)
    thing_of = np.empty(entries, np.int64)
    table = np.empty(4 << bits_for(entries), np.int64)
    count = _find_things(layout, arrays, row, things, thing_of, table)
    out[at] = FORMAT
    at = put_varint(out, at + 1, count)
    for column in range(3):
        at = _put_texts(pieces, things[column, :count], table, out, at)
    present = 0
    for length in arrays.length[row]:
        present += length > 0
    at = put_varint(out, at, present)
    done, seen = 0, 0
    for s in range(len(layout.sequence_length)):
        length = arrays.length[row, s]
        if length > 0:
            refs = thing_of[done : done + length]
            at, seen = _put_sequence(layout, arrays, row, s, refs, seen, count, out, at)
            done += length
    return at


@kernel
def _find_things(
    layout: Layout, arrays: Arrays, row: int, things: Ints, thing_of: Ints, table: Ints
) -> int:
    """The distinct things of a row's entries, and the thing of each entry; returns how many."""
    table[:] = -1
    mask, count, done = len(table) - 1, 0, 0
    for s in range(len(layout.sequence_length)):
        start = arrays.start[row, s]
        for e in range(start, start + arrays.length[row, s]):
            item, author = arrays.arena[e, ITEM], arrays.arena[e, AUTHOR]
            category = arrays.arena[e, CATEGORY]
            place = (item * 31 + author * 17 + category) * 0x9E3779B1 >> 12 & mask
            while True:
                thing = table[place]
                if thing < 0:
                    thing = table[place] = count
                    things[0, thing], things[1, thing], things[2, thing] = item, author, category
                    count += 1
                    break
                if (
                    things[0, thing] == item
                    and things[1, thing] == author
                    and things[2, thing] == category
                ):
                    break
                place = place + 1 & mask
            thing_of[done] = thing
            done += 1
    return count


@kernel
def _distinct(codes: Ints, table: Ints, kinds: Ints, kind_of: Ints) -> int:
    """The distinct codes in order of appearance, and the place of each code; returns how many."""
    table[:] = -1
    mask, count = len(table) - 1, 0
    for i in range(len(codes)):
        place = codes[i] * 0x9E3779B1 >> 12 & mask
        while table[place] >= 0 and kinds[table[place]] != codes[i]:
            place = place + 1 & mask
        if table[place] < 0:
            table[place] = count
            kinds[count] = codes[i]
            count += 1
        kind_of[i] = table[place]
    return count


@kernel
def _token_size(pieces: Pieces, code: int) -> int:
    return 1 if code < 0 else int(pieces.ends[code + 1] - pieces.ends[code])


@kernel
def _put_token(pieces: Pieces, code: int, out: Bytes, at: int) -> int:
    if code < 0:
        out[at] = 0
        return at + 1
    for k in range(pieces.ends[code], pieces.ends[code + 1]):
        out[at] = pieces.content[k]
        at += 1
    return at


@kernel
def _put_texts(pieces: Pieces, codes: Ints, table: Ints, out: Bytes, at: int) -> int:
    """Write one column of texts in its shortest mode, the lower of equal ones."""
    kinds, kind_of = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
    count = _distinct(codes, table, kinds, kind_of)
    token_bytes, kind_bytes = 0, 0
    for code in codes:
        token_bytes += _token_size(pieces, code)
    least, most = pieces.numbers[codes[0]] if codes[0] >= 0 else -1, 0
    for code in kinds[:count]:
        kind_bytes += _token_size(pieces, code)
        number = pieces.numbers[code] if code >= 0 else -1
        least, most = min(least, number), max(most, number)
    width, place_bits = bits_for(most - least), bits_for(count - 1)
    number_bytes = varint_size(max(least, 0)) + 1 + (len(codes) * width + 7) // 8
    dictionary_bytes = varint_size(count) + kind_bytes + (len(codes) * place_bits + 7) // 8
    if least >= 0 and number_bytes < token_bytes and number_bytes <= dictionary_bytes:
        out[at] = NUMBERS
        at = put_varint(out, at + 1, least)
        out[at] = width
        bit = 8 * (at + 1)
        at = open_run(out, at + 1, len(codes) * width)
        for code in codes:
            bit = put_bits(out, bit, pieces.numbers[code] - least, width)
    elif dictionary_bytes < token_bytes:
        out[at] = DICTIONARY
        at = put_varint(out, at + 1, count)
        for code in kinds[:count]:
            at = _put_token(pieces, code, out, at)
        at = _put_places(kind_of, count, out, at)
    else:
        out[at] = TOKENS
        at += 1
        for code in codes:
            at = _put_token(pieces, code, out, at)
    return at


@kernel
def _put_places(places: Ints, count: int, out: Bytes, at: int) -> int:
    """Write places among `count` as a run of bits."""
    width, bit = bits_for(count - 1), 8 * at
    at = open_run(out, at, len(places) * width)
    for place in places:
        bit = put_bits(out, bit, place, width)
    return at


@kernel
def _put_sequence(
    layout: Layout,
    arrays: Arrays,
    row: int,
    s: int,
    refs: Ints,
    seen: int,
    things: int,
    out: Bytes,
    at: int,
) -> tuple[int, int]:
    """Write one sequence; returns the place after it and how many things were seen by then."""
    start, length = arrays.start[row, s], arrays.length[row, s]
    entries = arrays.arena[start : start + length]
    at = put_id(out, at, layout.sequence_id[s])
    keeps = layout.keeps[s]
    out[at] = (HAS_ACTION if keeps[ACTION] else 0) | (HAS_VALUE if keeps[VALUE] else 0)
    at = put_varint(out, at + 1, length)
    previous = 0
    for e in range(length):
        at = put_varint(out, at, entries[e, TIME] - previous)
        previous = entries[e, TIME]
    at, seen = _put_refs(refs, seen, things, out, at)
    if keeps[ACTION]:
        kinds, kind_of = np.empty(length, np.int64), np.empty(length, np.int64)
        table = np.empty(4 << bits_for(length), np.int64)
        count = _distinct(entries[:, ACTION], table, kinds, kind_of)
        at = put_varint(out, at, count)
        for action in kinds[:count]:
            at = put_id(out, at, layout.action_id[action])
        at = _put_places(kind_of, count, out, at)
    if keeps[VALUE]:
        for e in range(length):
            at = put_varint(out, at, entries[e, VALUE])
    return at, seen


@kernel
def _put_refs(refs: Ints, seen: int, things: int, out: Bytes, at: int) -> tuple[int, int]:
    """Write the things of entries; returns the place after them and how many were seen by then."""
    width = bits_for(things - 1)
    bits, fresh = 0, seen
    for ref in refs:
        bits += 1 if ref == fresh else 1 + width
        fresh += ref == fresh
    bit = 8 * at
    at = open_run(out, at, bits)
    for ref in refs:
        if ref == seen:
            bit, seen = put_bits(out, bit, 1, 1), seen + 1
        else:
            bit = put_bits(out, put_bits(out, bit, 0, 1), ref, width)
    return at, seen


@kernel
def scan_things(
    content: Bytes, at: int, end: int, numbers: Ints, starts: Ints, stops: Ints
) -> tuple[int, int]:
    """Read the things of a pack: how many, and the place after them (−1: damaged).

    [3 × thing + column]: the number that a text spells, or −1 and where its token is; no text is a
    token of no bytes. The arrays must have room for three of each byte of the pack.
    """
    if at >= end or content[at] != FORMAT:
        return 0, -1
    count, at = get_varint(content, at + 1, end)
    if at < 0 or count > end - at:  # every thing has an entry, and every entry a byte
        return 0, -1
    for column in range(3):
        at = _get_texts(content, at, end, count, column, numbers, starts, stops)
    return count, at


@kernel
def _get_token(content: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """A token: its number (−1: none), where it starts (where it ends, if it is no text), where it
    ends (−1: damaged)."""
    start = at
    head, at = get_varint(content, at, end)
    if at < 0 or head & 1:
        return head >> 1, start, at
    size = 16 if head == UUID_TOKEN else head >> 2
    if (head & 3 and head != UUID_TOKEN) or size > end - at:
        return -1, start, -1
    return -1, start if head else at, at + size


@kernel
def _get_texts(
    content: Bytes,
    at: int,
    end: int,
    count: int,
    column: int,
    numbers: Ints,
    starts: Ints,
    stops: Ints,
) -> int:
    """Read one column of the things; returns the place after it, −1 when it is damaged."""
    if at < 0 or at >= end:
        return -1
    mode, at = content[at], at + 1
    if mode == NUMBERS:
        return _get_numbers(content, at, end, count, column, numbers)
    if mode == DICTIONARY:
        return _get_dictionary(content, at, end, count, column, numbers, starts, stops)
    if mode != TOKENS:
        return -1
    for p in range(column, 3 * count, 3):
        numbers[p], starts[p], at = _get_token(content, at, end)
        if at < 0:
            return -1
        stops[p] = at
    return at


@kernel
def _get_numbers(content: Bytes, at: int, end: int, count: int, column: int, numbers: Ints) -> int:
    least, at = get_varint(content, at, end)
    if at < 0 or at >= end or content[at] > 62:
        return -1
    width, at = int(content[at]), at + 1
    stop = run_end(at, end, count, width)
    if stop < 0:
        return -1
    for i in range(count):
        number = least + get_bits(content, 8 * at + i * width, width)
        if number < 0:
            return -1
        numbers[3 * i + column] = number
    return stop


@kernel
def _get_dictionary(
    content: Bytes,
    at: int,
    end: int,
    count: int,
    column: int,
    numbers: Ints,
    starts: Ints,
    stops: Ints,
) -> int:
    kinds, at = get_varint(content, at, end)
    if at < 0 or kinds > end - at:
        return -1
    known = np.empty((kinds, 3), np.int64)
    for k in range(kinds):
        known[k, 0], known[k, 1], at = _get_token(content, at, end)
        known[k, 2] = at
    place_of = np.empty(count, np.int64)
    at = _get_places(content, at, end, kinds, place_of)
    if at >= 0:
        for i in range(count):
            p, kind = 3 * i + column, place_of[i]
            numbers[p], starts[p], stops[p] = known[kind, 0], known[kind, 1], known[kind, 2]
    return at


@kernel
def _get_places(content: Bytes, at: int, end: int, count: int, places: Ints) -> int:
    """Read a run of places among `count`; returns the place after it, −1 when it is damaged."""
    width = bits_for(count - 1)
    stop = run_end(at, end, len(places), width)
    if stop < 0:
        return -1
    for i in range(len(places)):
        places[i] = get_bits(content, 8 * at + i * width, width)
        if places[i] >= count:
            return -1
    return stop


@kernel
def load_lists(
    layout: Layout,
    arrays: Arrays,
    hashes: Ints,
    row: int,
    things: Ints,
    content: Bytes,
    at: int,
    end: int,
) -> bool:
    """Read a row's sequences after their things, whose texts are given as codes. False: damaged.

    The caller has made room in the arena for all sequences at their longest.
    """
    sequences, at = get_varint(content, at, end)
    seen = 0
    for _ in range(sequences):
        sequence_id, at = get_id(content, at, end)
        if at < 0 or at >= end:
            return False
        flags, at = int(content[at]), at + 1
        count, at = get_varint(content, at, end)
        if at < 0 or count > end - at:
            return False
        columns = np.zeros((4, count), np.int64)
        at, seen = get_entries(content, at, end, flags, len(things) // 3, seen, columns)
        if at < 0 or (count > 0 and columns[0, count - 1] > arrays.newest[row]):
            return False
        for s in range(len(layout.sequence_length)):
            if layout.sequence_id[s] == sequence_id:
                _list_entries(layout, arrays, hashes, row, s, flags, things, columns)
    return bool(at == end)


@kernel
def get_entries(
    content: Bytes, at: int, end: int, flags: int, things: int, seen: int, columns: Ints
) -> tuple[int, int]:
    """Read the entries of a sequence into columns: times, things, ids of actions, values.

    Returns the place after them (−1: damaged) and how many things were seen by then.
    """
    count, time = columns.shape[1], 0
    for e in range(count):
        gap, at = get_varint(content, at, end)
        time += gap
        if at < 0 or time < 0:
            return -1, seen
        columns[0, e] = time
    at, seen = _get_refs(content, at, end, things, seen, columns[1])
    if at < 0:
        return -1, seen
    if flags & HAS_ACTION:
        kinds, at = get_varint(content, at, end)
        if at < 0 or kinds > end - at:
            return -1, seen
        known = np.empty(kinds, np.int64)
        for k in range(kinds):
            known[k], at = get_id(content, at, end)
        at = _get_places(content, at, end, kinds, columns[2])
        if at < 0:
            return -1, seen
        for e in range(count):
            columns[2, e] = known[columns[2, e]]
    if flags & HAS_VALUE:
        for e in range(count):
            columns[3, e], at = get_varint(content, at, end)
    return at, seen


@kernel
def _get_refs(
    content: Bytes, at: int, end: int, things: int, seen: int, refs: Ints
) -> tuple[int, int]:
    """Read the things of entries; returns the place after them and how many were seen by then."""
    width, bit = bits_for(things - 1), 8 * at
    for e in range(len(refs)):
        if bit >= 8 * end:
            return -1, seen
        if get_bits(content, bit, 1):
            bit, refs[e], seen = bit + 1, seen, seen + 1
        elif bit + 1 + width > 8 * end:
            return -1, seen
        else:
            refs[e] = get_bits(content, bit + 1, width)
            bit += 1 + width
        if refs[e] >= things:
            return -1, seen
    return bit + 7 >> 3, seen


@kernel
def _list_entries(
    layout: Layout,
    arrays: Arrays,
    hashes: Ints,
    row: int,
    s: int,
    flags: int,
    things: Ints,
    columns: Ints,
) -> None:
    """List stored entries in a sequence; those of actions that it no longer lists are left out."""
    count = columns.shape[1]
    if not flags & HAS_ACTION and layout.keeps[s, ACTION] and layout.keeps_action[:, s].sum() > 1:
        return  # stored before the column was declared: which of the actions it was is not known
    kept = min(count, layout.sequence_length[s])
    if arrays.room[row, s] < kept:
        enlarge(layout, arrays, row, s, kept)
    keeps, arena, length = layout.keeps[s], arrays.arena, arrays.length[row, s]
    for e in range(count):
        action = layout.only_action[s]
        if flags & HAS_ACTION:
            action = _action(layout, s, columns[2, e])
            if action < 0:
                continue
        action = action if keeps[ACTION] else layout.only_action[s]
        named, value = 3 * columns[1, e], columns[3, e] if keeps[VALUE] else 0
        item = things[named] if keeps[ITEM] else -1
        author = things[named + AUTHOR - ITEM] if keeps[AUTHOR] else -1
        category = things[named + CATEGORY - ITEM] if keeps[CATEGORY] else -1
        said = layout.action_hash[action] if keeps[ACTION] else 0
        rest = hash_of(hashes, said, item, author, category, value)
        # Entries come in order as a rule; a changed plan or damage may have brought them out of it.
        time, at = columns[0, e], arrays.start[row, s] + length
        newer = length == 0 or arena[at - 1, TIME] < time
        newer = newer or (arena[at - 1, TIME] == time and arena[at - 1, HASH] < rest)
        if newer and length < layout.sequence_length[s]:
            arena[at, TIME], arena[at, HASH] = time, rest
            arrays.length[row, s] = length + 1
        else:
            at = insert(layout, arrays, row, s, time, rest)
        if at >= 0:
            put_entry(arena[at], item, author, category, action, value)
        length = arrays.length[row, s]


@kernel
def _action(layout: Layout, s: int, action_id: int) -> int:
    """The action of an id that a sequence lists, −1 for none."""
    for action in range(len(layout.action_id)):
        if layout.action_id[action] == action_id and layout.keeps_action[action, s]:
            return action
    return -1
