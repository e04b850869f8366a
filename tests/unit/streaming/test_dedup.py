"""An id is repeated when it occurred within the last H offsets of its partition, and only then."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.dedup import Dedup


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(offset, event) with gaps between offsets (bad records), and few different events."""
    gaps = draw(st.lists(st.integers(1, 4), max_size=60))
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    return [(offset, draw(st.integers(0, 6))) for offset in offsets]


def _defined(log: list[tuple[int, int]], horizon: int) -> list[bool]:
    """The definition, read aloud."""
    return [
        any(event == other and offset - earlier <= horizon for earlier, other in log[:place])
        for place, (offset, event) in enumerate(log)
    ]


@given(logs(), st.integers(0, 12))
def test_dedup_decides_as_defined(log: list[tuple[int, int]], horizon: int) -> None:
    dedup = Dedup(horizon)
    assert [dedup.repeated(event, offset) for offset, event in log] == _defined(log, horizon)


@given(logs(), st.integers(0, 12), st.data())
def test_whoever_reads_the_span_again_decides_the_same(
    log: list[tuple[int, int]], horizon: int, data: st.DataObject
) -> None:
    resume_at = data.draw(st.integers(0, 200))
    dedup = Dedup(horizon)
    again = [
        (offset, dedup.repeated(event, offset))
        for offset, event in log
        if offset >= resume_at - horizon
    ]
    whole = zip(log, _defined(log, horizon), strict=True)
    assert [d for d in again if d[0] >= resume_at] == [
        (offset, repeated) for (offset, _), repeated in whole if offset >= resume_at
    ]


def test_memory_is_bounded_by_the_horizon() -> None:
    dedup = Dedup(100)
    for offset in range(10_000):
        dedup.repeated(offset % 3_000, offset)
    assert len(dedup) == 101
