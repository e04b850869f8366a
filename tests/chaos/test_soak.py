"""The judge of the soak: flat is flat, growth is seen, a single error is one too many."""

from pathlib import Path

import pytest

from tests.chaos.soak import Sample, draw, verdict


def samples(grows_mb: float = 0.0, slows_ms: float = 0.0, errors: int = 0) -> list[Sample]:
    """An hour of which a ranker grows, or slows down, by so much in all."""
    return [
        Sample(
            at_s=30.0 * n,
            memory_mb={"redis": 50.0, "ranker": 400.0 + grows_mb * n / 120 + n % 3},
            p50_ms=10.0,
            p99_ms=40.0 + slows_ms * n / 120,
            calls=300,
            errors=errors if n == 60 else 0,
            degraded=0,
        )
        for n in range(120)
    ]


def test_a_steady_hour_holds() -> None:
    assert verdict(samples()) == []
    assert verdict(samples(grows_mb=30, slows_ms=10)) == []


@pytest.mark.parametrize(
    ("hour", "says"),
    [
        (samples(grows_mb=200), "ranker grew"),
        (samples(slows_ms=240), "p99 rose"),
        (samples(errors=1), "1 of 36000 rankings failed"),
    ],
)
def test_what_does_not_hold_is_named(hour: list[Sample], says: str) -> None:
    (wrong,) = verdict(hour)
    assert says in wrong


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw(samples(), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
