"""Activity state that is only read: a row's counters stay packed, and are summed where they lie.

A block of an `ActivityTable` has a slot for every bucket, most of which never counted anything: of
KuaiRand's items it takes 1,700 bytes, and their packs 75. Here a row is a run of bytes, made
from the stored pack (`counts_pack`) and checked once: for each metric that counted anything its
place, its total, and for each ring its buckets, newest first.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.as_of_kernels import (
    ALL,
    COUNT,
    DECAYED,
    FIRST,
    RATE,
    TREND,
    CountProgram,
    Floats,
    rate_of,
)
from features.byte_runs import ByteRuns, Runs
from features.codec import decode_int64
from features.compiled import kernel
from features.counts_pack import FORMAT, WIDTHS_MAX, get_widths, metric_of
from features.errors import BadInput
from features.fold import SUM_MAX
from features.layout import COUNTS, NEVER, Ints, Layout, shape_of
from features.layout import FIRST as FIRST_FIELD
from features.spec import ActivityView
from features.varints import Bytes, get_id, get_varint, put_varint

ROOM: Final = 4
"""Bytes of a repacked row are at most so many times those of its pack, and a few more."""


METRIC, TOTAL, RING, BUCKET, MORE = range(5)
"""What the next number of a run is."""


class SparseActivity:
    """Rows of one activity view, by the row numbers their owner gives out. Lists are not held."""

    def __init__(self, view: ActivityView, actions: tuple[str, ...]) -> None:
        self.view = view
        self.layout, self.fields, self.metrics, self.sequences = shape_of(view, actions)
        self.newest: Ints = np.full(64, NEVER, np.int64)
        self.first: Ints = np.full(64, NEVER, np.int64)
        self.version: Ints = np.zeros(64, np.int64)
        """[row]: another number whenever the row was replaced."""
        self._runs = ByteRuns()
        self._counts = self.layout.field_kind.tolist().index(COUNTS)
        kinds = self.layout.field_kind.tolist()
        self._first = kinds.index(FIRST_FIELD) if FIRST_FIELD in kinds else None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that hold something."""
        return self.newest.nbytes + self.first.nbytes + self.version.nbytes + self._runs.nbytes

    def reserve(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        have = len(self.newest)
        if rows > have:
            blank = np.full(max(rows, 2 * have) - have, NEVER, np.int64)
            self.newest = np.concatenate([self.newest, blank])
            self.first = np.concatenate([self.first, blank])
            self.version = np.concatenate([self.version, np.zeros(len(blank), np.int64)])
        self._runs.reserve(rows)

    def load(self, rows: Ints, updated_at: Ints, values: Sequence[Sequence[bytes | None]]) -> None:
        """Replace rows by what the store holds; at a damaged one BadInput, and none is replaced."""
        packs = [row[self._counts] or b"" for row in values]
        content = np.frombuffer(b"".join(packs), np.uint8)
        ends = np.cumsum([len(pack) for pack in packs], dtype=np.int64)
        out = np.empty(ROOM * len(content) + 64 * len(packs), np.uint8)
        stops = np.zeros(len(packs), np.int64)
        damaged = repack_rows(self.layout, content, ends, updated_at, out, stops)
        if damaged >= 0:
            raise BadInput(
                f"a stored row of view {self.view.name} is not in Headrace's layout; "
                "it was written by something else: delete the row, then replay into it"
            )
        if self._first is not None:
            first = [row[self._first] for row in values]
            self.first[rows] = [decode_int64(value) if value else NEVER for value in first]
        self.newest[rows] = updated_at
        self.version[rows] += 1
        self._runs.put(rows, out, stops)

    def run(self, row: int) -> bytes:
        """The bytes that say what a row counted: equal for equal counters."""
        return self._runs.get(row)

    def read(self, program: CountProgram, rows: Ints, now: int, out: Floats) -> None:
        """out[i, feature] of these rows as of `now`, as `read_counts` has it of dense rows."""
        each, of = np.unique(rows, return_inverse=True)
        if len(each) > len(rows) // 2:
            each, part = rows, out
        else:  # few rows for many candidates, such as their categories: long ones, each read once
            part = np.empty((len(each), out.shape[1]))
        runs = self._runs.all
        read_sparse(self.layout, runs, self.newest, self.first, program, each, now, part)
        if part is not out:
            out[:] = part[of]

    def window_sums(self, rows: Ints, metric: int, ring: int, buckets: int, now: int) -> Floats:
        """[row]: Σ of one metric over a window; 0 for row −1."""
        one = CountProgram(
            sum_metric=np.array([metric], np.int64),
            sum_ring=np.array([ring], np.int64),
            sum_buckets=np.array([buckets], np.int64),
            op=np.array([COUNT], np.int64),
            of=np.zeros(1, np.int64),
            per=np.zeros(1, np.int64),
            more_of=np.full((1, 1), -1, np.int64),
            more_per=np.full((1, 1), -1, np.int64),
            prior_of=np.zeros(1),
            prior_per=np.zeros(1),
            weights=np.zeros((1, 1)),
        )
        out = np.empty((len(rows), 1))
        read_sparse(self.layout, self._runs.all, self.newest, self.first, one, rows, now, out)
        return out[:, 0]


@kernel
def repack_rows(
    layout: Layout, content: Bytes, ends: Ints, newest: Ints, out: Bytes, stops: Ints
) -> int:
    """Runs of rows from their Feast values, end to end in `out`; −1, or a row that is damaged."""
    width_ms, stored = np.zeros(WIDTHS_MAX, np.int64), np.zeros(WIDTHS_MAX, np.int64)
    start, put = 0, 0
    for i in range(len(ends)):
        end = ends[i]
        if end > start:
            put = _repack(layout, content, start, end, newest[i], width_ms, stored, out, put)
        elif newest[i] >= 0:
            return i  # every row of ours has its counts
        if put < 0:
            return i
        stops[i], start = put, end
    return -1


@kernel
def _repack(
    layout: Layout,
    content: Bytes,
    at: int,
    end: int,
    newest: int,
    width_ms: Ints,
    stored: Ints,
    out: Bytes,
    put: int,
) -> int:
    """One row; returns the place after its run, −1 when the value is damaged."""
    if newest < 0 or content[at] != 0x0A:
        return -1
    size, at = get_varint(content, at + 1, end)
    if at < 0 or size != end - at or size == 0 or content[at] != FORMAT:
        return -1
    said, at = get_varint(content, at + 1, end)
    widths, at = get_widths(layout, content, at, end, width_ms, stored)
    if at < 0 or said != newest:
        return -1
    metrics, at = get_varint(content, at, end)
    for _ in range(metrics):
        metric_id, at = get_id(content, at, end)
        total, at = get_varint(content, at, end)
        metric = metric_of(layout, metric_id)
        if at < 0:
            return -1
        if metric >= 0:
            put = put_varint(out, put, metric)
            put = put_varint(out, put, min(total, SUM_MAX) if layout.keeps_total[metric] else 0)
        for w in range(widths):
            ring, oldest = -1, 0
            if metric >= 0 and stored[w] >= 0:
                ring = layout.stored_ring[metric, stored[w]]
                oldest = max(newest // width_ms[w] - layout.ring_buckets[ring] + 1, 0)
            at, put = _repack_ring(content, at, end, newest // width_ms[w], ring, oldest, out, put)
        if at < 0:
            return -1
        if metric >= 0:
            out[put] = 0
            put += 1
    return put if at == end else -1


@kernel
def _repack_ring(
    content: Bytes, at: int, end: int, bucket: int, ring: int, oldest: int, out: Bytes, put: int
) -> tuple[int, int]:
    """One ring (−1: pass over it): its number + 1, then 4 × gap + min(amount, 4) of each bucket,
    what is above 4, and a 0. Nothing of a ring whose buckets are all past it."""
    before, gap = put, 0
    count, at = get_varint(content, at, end)
    if ring >= 0:
        put = put_varint(out, put, ring + 1)
    filled = put
    for _ in range(count):
        code, at = get_varint(content, at, end)
        amount, bucket, gap = (code & 3) + 1, bucket - (code >> 2), gap + (code >> 2)
        if amount == 4:
            more, at = get_varint(content, at, end)
            amount = min(more, SUM_MAX - 4) + 4
        if at < 0 or bucket < 0:
            return -1, put
        if ring >= 0 and bucket >= oldest:
            put, gap = put_varint(out, put, 4 * gap + min(amount, 4)), 0
            if amount >= 4:
                put = put_varint(out, put, amount - 4)
    if put == filled:
        return at, before
    out[put] = 0
    return at, put + 1


@kernel
def read_sparse(  # noqa: C901 - one loop, see the comment in it
    layout: Layout,
    runs: Runs,
    newest: Ints,
    first: Ints,
    program: CountProgram,
    rows: Ints,
    now: int,
    out: Floats,
) -> None:
    """out[i, feature] of rows, −1 for an entity nobody ever saw; the bits of `read_counts`."""
    content, starts, lengths, widths = runs.content, runs.start, runs.length, layout.ring_width
    sum_buckets, weights, of_sum = program.sum_buckets, program.weights, program.of
    sums = np.zeros(len(program.sum_metric), np.int64)
    decayed = np.zeros(len(program.op))
    sums_of, decayed_of = _readers(layout, program)
    current = now // widths
    longest = 1
    for buckets in layout.ring_buckets:
        longest = max(longest, buckets)
    ages, amounts = np.zeros(longest, np.int64), np.zeros(longest, np.int64)
    for i in range(len(rows)):
        row = rows[i]
        sums[:] = 0
        decayed[:] = 0.0
        at, end, seen, begun = 0, 0, -1, -1
        if row >= 0:
            at, seen, begun = starts[row], newest[row], first[row]
            end = at + lengths[row]
        expects, metric, ring, age, count = METRIC, 0, 0, 0, 0
        while at < end:
            # The numbers are read here and not by a function: a call that is handed an array
            # counts its references, which takes twenty times as long.
            number = np.int64(content[at])
            at += 1
            if number > 0x7F:
                number, shift, byte = number & 0x7F, 7, np.int64(0x80)
                while byte > 0x7F:
                    byte = np.int64(content[at])
                    number |= (byte & 0x7F) << shift
                    at, shift = at + 1, shift + 7
            if expects == BUCKET:
                if number == 0:
                    expects = RING
                    for k in range(sums_of.shape[2]):
                        s = sums_of[metric, ring, k]
                        if s < 0:
                            break
                        for b in range(count):
                            if 0 <= ages[b] < sum_buckets[s]:
                                sums[s] += amounts[b]
                    for k in range(decayed_of.shape[2]):
                        f = decayed_of[metric, ring, k]
                        if f < 0:
                            break
                        for b in range(count - 1, -1, -1):
                            if 0 <= ages[b] < sum_buckets[of_sum[f]]:
                                decayed[f] += amounts[b] * weights[f, ages[b]]
                else:
                    age += int((number - 1) >> 2)
                    ages[count], amounts[count] = age, ((number - 1) & 3) + 1
                    expects = MORE if amounts[count] == 4 else BUCKET
                    count += 1
            elif expects == MORE:
                amounts[count - 1] += number
                expects = BUCKET
            elif expects == RING:
                ring, count, expects = int(number), 0, METRIC
                if ring > 0:
                    # How many buckets before the current one the first of them is.
                    age, expects = current[ring - 1] - seen // widths[ring - 1], BUCKET
            elif expects == METRIC:
                metric, expects = int(number), TOTAL
            else:
                expects = RING
                for k in range(sums_of.shape[2]):
                    s = sums_of[metric, 0, k]
                    if s < 0:
                        break
                    sums[s] = number
        # The formulas of `read_counts`.
        for f in range(len(of_sum)):
            op, of, per = program.op[f], of_sum[f], program.per[f]
            if op == COUNT:
                out[i, f] = sums[of]
            elif op == RATE:
                out[i, f] = rate_of(program, f, sums)
            elif op == DECAYED:
                out[i, f] = decayed[f]
            elif op == TREND:
                out[i, f] = (sums[of] + 1.0) / (sums[per] * program.prior_per[f] + 1.0)
            else:
                time = begun if op == FIRST else seen
                out[i, f] = (now - time) / 1000.0 if time >= 0 else np.nan


@kernel
def _readers(layout: Layout, program: CountProgram) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[metric, ring + 1, k]: the sums, and the decayed features, that read a ring; −1 padded."""
    shape = (len(layout.metric_id), len(layout.ring_width) + 1)
    sums = np.full((*shape, len(program.sum_metric) + 1), -1, np.int64)
    decayed = np.full((*shape, len(program.op) + 1), -1, np.int64)
    for s in range(len(program.sum_metric)):
        of = sums[program.sum_metric[s], program.sum_ring[s] - ALL]
        k = 0
        while of[k] >= 0:
            k += 1
        of[k] = s
    for f in range(len(program.op)):
        if program.op[f] == DECAYED:
            s = program.of[f]
            of = decayed[program.sum_metric[s], program.sum_ring[s] - ALL]
            k = 0
            while of[k] >= 0:
                k += 1
            of[k] = f
    return sums, decayed
