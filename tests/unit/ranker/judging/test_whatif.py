"""What-if on rankings that are made up: what is told, and what is doubted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ranker.judging.lists import Page
from ranker.judging.whatif import SCORE, Judged, what_if

LABELS = {"click": "click"}
SHOWN = 4


def page(items: Sequence[str]) -> Page:
    return Page(items, [f"a{i}" for i in items], [None] * len(items), [float("nan")] * len(items))


def rankings(
    count: int = 200, chance: float = 0.5, turned: bool = False, fresh: int = 0, **of: Any
) -> list[Judged]:
    """Each shows four items, the lower numbers clicked more; the other side may turn them around,
    and show `fresh` others at the end that nobody was shown."""
    random = np.random.default_rng(7)
    found = []
    for number in range(count):
        items = [f"i{(number + place) % 9}" for place in range(SHOWN)]
        score = np.linspace(0.8, 0.2, SHOWN)
        clicked = random.random(SHOWN) < score
        other = [*items[::-1]] if turned else [*items]
        if fresh:
            other[-fresh:] = [f"new{place}" for place in range(fresh)]
        told = score[::-1] if turned else score
        about = {
            "user_id": f"u{number % 40}",
            "happened": [{"click"} if one else set() for one in clicked.tolist()],
            "propensity": np.full(SHOWN, chance),
            "logged": {"click": score, SCORE: score},
            "other": {"click": told, SCORE: told},
            "logged_page": page(items),
            "other_page": page(other),
            "other_propensity": np.full(SHOWN, chance),
            "candidates": [*items, "new0", "new1"],
            "whole": True,
        }
        found.append(Judged(**about | of))  # type: ignore[arg-type]
    return found


def doubts(made: list[Judged]) -> str:
    return " | ".join(what_if(made, LABELS, draws=50).doubts)


def test_the_same_twice_is_the_same_and_nothing_is_doubted() -> None:
    found = what_if(rankings(), LABELS, draws=50)
    assert found.doubts == []
    assert set(found.overlaps) == {1.0}
    for one in found.figures:
        np.testing.assert_equal(one.logged, one.other)
    logged, other = found.earned["click"]
    assert logged == other
    assert logged.doubts == ()
    assert found.curves["click"][0] == found.curves["click"][1]


def test_an_order_that_is_turned_loses_what_the_first_had_gained() -> None:
    found = what_if(rankings(turned=True), LABELS, draws=50)
    named = {one.name: one for one in found.figures}
    for name in ("click: AUC", "click: GAUC by request", "score (click): GAUC by request"):
        one = named[name]
        assert one.other == pytest.approx(1 - one.logged)
        assert one.difference is not None
        assert one.difference.high < 0
    assert named["click: promised / came"].logged == named["click: promised / came"].other
    assert named["click: log loss"].other > named["click: log loss"].logged
    assert max(found.overlaps) < 1


def test_items_that_are_no_longer_shown_earn_nothing_and_the_rest_is_weighed() -> None:
    found = what_if(rankings(fresh=1), LABELS, draws=50)
    logged, other = found.earned["click"]
    assert logged.rows == other.rows == 200 * SHOWN
    # The last place, which earned least, is given up.
    assert other.snips.value > logged.snips.value
    assert other.ips.value < logged.ips.value
    assert other.effective == pytest.approx(200 * (SHOWN - 1))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (rankings(count=30), "30 rankings are few"),
        (rankings(whole=False), "keeps what was shown alone"),
        (rankings(happened=[None] * SHOWN), "it is known what followed"),
        (rankings(happened=[set()] * SHOWN), "click followed 0 items"),
        (rankings(fresh=2), "50% of what it would show was not shown"),
        (rankings(fresh=2), "stood on no page when they were recorded"),
    ],
)
def test_what_cannot_be_trusted_is_said(made: list[Judged], said: str) -> None:
    assert said in doubts(made)


def test_what_no_chance_decided_tells_nothing_of_what_is_explored() -> None:
    for made in (rankings(chance=1.0), rankings(chance=float("nan"))):
        logged, _ = what_if(made, LABELS, draws=50).earned["click"]
        assert logged.rows == 0
        assert "nothing was left to chance" in logged.doubts[0]


def test_a_head_that_one_side_alone_has_is_told_without_a_difference() -> None:
    made = rankings(other={SCORE: np.linspace(0.8, 0.2, SHOWN)})
    (one,) = (f for f in what_if(made, LABELS, draws=50).figures if f.name == "click: AUC")
    assert np.isfinite(one.logged)
    assert np.isnan(one.other)
    assert one.difference is None
