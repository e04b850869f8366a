"""What-if: recorded rankings as they were served, side by side with another order of the same.

What followed is known of items that were shown and seen, so heads are judged on those; pages are
compared whole; and what chance showed tells what the other order would earn.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ranker.judging.figures import (
    Compared,
    Curve,
    compared,
    curve,
    weighted_calibration,
    weighted_calibration_error,
    weighted_log_loss,
    weighted_mean,
)
from ranker.judging.lists import Page, Spread, rank_biased_overlap, spread
from ranker.judging.offpolicy import Estimate, estimate
from ranker.training.resampling import weighted_auc, weighted_gauc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCORE: Final = "score"
"""What the order is by, judged as a head is."""
RANKINGS_MIN: Final = 100
POSITIVES_MIN: Final = 50
UNKNOWN_SHARE_MAX: Final = 0.2
SAME: Final = 1 - 1e-9
"""An overlap from here on is one; below, sums are not exact."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One ranking as it was served, and as it would be."""

    user_id: str
    happened: Sequence[Collection[str] | None]
    """[shown]: the actions that followed; None where that is not known."""
    propensity: Floats
    """[shown]: the chance with which each came to be a candidate; NaN: nothing was left to it."""
    logged: Mapping[str, Floats]
    """Head, and `SCORE` → [shown], as served."""
    other: Mapping[str, Floats]
    """The same, as it would be."""
    logged_page: Page
    other_page: Page
    other_propensity: Floats
    """[item of the other page], as in `propensity`."""
    candidates: Sequence[str]
    whole: bool
    """Whether all candidates were recorded, and not only what was shown."""


@dataclass(slots=True)
class WhatIf:
    """Everything that is told of the two sides."""

    rankings: int
    users: int
    rows: int
    """Items that were shown, and of which it is known what followed."""
    figures: list[Compared] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    """[ranking]: rank-biased overlap of the two pages."""
    curves: dict[str, tuple[Curve, Curve]] = field(default_factory=dict)
    """Head → calibration as logged, and as it would be."""
    earned: dict[str, tuple[Estimate, Estimate]] = field(default_factory=dict)
    """Action → the mean of the explored items on the pages of each side."""
    doubts: list[str] = field(default_factory=list)
    """Why what is told cannot be trusted, in words; none: it can."""


def what_if(
    rankings: Sequence[Judged], labels: Mapping[str, str], draws: int = 300, seed: int = 1
) -> WhatIf:
    """Compare at least one ranking; `labels` says which action each head is to foretell."""
    user = np.unique([one.user_id for one in rankings], return_inverse=True)[1].astype(np.int64)
    rows = _Rows.of(rankings, user, draws, seed)
    actions = list(dict.fromkeys(labels.values()))
    found = WhatIf(len(rankings), rows.owners, len(rows.request))
    found.figures += _lists(rankings, user, rows.owners, draws, seed)
    found.overlaps = [_overlap(one) for one in rankings]
    for head in dict.fromkeys(head for one in rankings for head in (*one.other, *one.logged)):
        if head in labels:
            _judge_head(rows, rankings, head, labels[head], found)
    for action in actions:
        found.figures += _order_figures(rows, rankings, action)
        found.earned[action] = _earned(rankings, user, action, draws, seed)
    found.doubts = list(_doubts(rankings, rows, actions))
    return found


@dataclass(frozen=True, slots=True)
class _Rows:
    """The shown items of which it is known what followed."""

    request: Ints
    user: Ints
    place: Ints
    """[row]: its place on its page."""
    happened: list[Collection[str]]
    owners: int
    draws: int
    seed: int

    @classmethod
    def of(cls, rankings: Sequence[Judged], user: Ints, draws: int, seed: int) -> "_Rows":
        known = [
            (number, place, acts)
            for number, one in enumerate(rankings)
            for place, acts in enumerate(one.happened)
            if acts is not None
        ]
        request = np.array([row[0] for row in known], np.int64)
        place = np.array([row[1] for row in known], np.int64)
        happened = [row[2] for row in known]
        return cls(request, user[request], place, happened, int(user.max()) + 1, draws, seed)

    def label(self, action: str) -> Ints:
        """[row]: whether an action followed."""
        return np.array([action in acts for acts in self.happened], np.int64)

    def said(self, sides: Sequence[Mapping[str, Floats]], head: str) -> Floats:
        """[row]: what a head says of it; NaN where it says nothing."""
        pairs = zip(self.request.tolist(), self.place.tolist(), strict=True)
        found = (sides[r][head][place] if head in sides[r] else np.nan for r, place in pairs)
        return np.fromiter(found, np.float64, len(self.request))

    def both(
        self, rankings: Sequence[Judged], head: str
    ) -> tuple[NDArray[np.bool_], Floats | None, Floats | None]:
        """Which rows every side that has the head speaks of, and what each says; None: nothing."""
        sides = [self.said([one.logged for one in rankings], head)]
        sides.append(self.said([one.other for one in rankings], head))
        spoken = np.ones(len(self.request), np.bool_)
        for side in sides:
            if np.isfinite(side).any():
                spoken &= np.isfinite(side)
        logged, other = (s[spoken] if np.isfinite(s).any() else None for s in sides)
        return spoken, logged, other


def _judge_head(
    rows: _Rows, rankings: Sequence[Judged], head: str, action: str, found: WhatIf
) -> None:
    """AUC, GAUC, log loss and calibration of one head, on rows that both sides speak of."""
    spoken, logged, other = rows.both(rankings, head)
    label, user, request = rows.label(action)[spoken], rows.user[spoken], rows.request[spoken]
    if len(np.unique(label)) < 2:
        return
    kinds = {
        "AUC": lambda side: weighted_auc(label, side, user),
        "GAUC by request": lambda side: weighted_gauc(label, side, request, user),
        "GAUC by user": lambda side: weighted_gauc(label, side, user, user),
    }
    name = head if head == action else f"{head} ({action})"
    chances = [side for side in (logged, other) if side is not None]
    if all(((side > 0) & (side < 1)).all() for side in chances):
        kinds |= {
            "log loss": lambda side: weighted_log_loss(label, side, user),
            "promised / came": lambda side: weighted_calibration(label, side, user),
            "calibration error": lambda side: weighted_calibration_error(label, side, user),
        }
        found.curves[name] = (
            Curve() if logged is None else curve(label, logged),
            Curve() if other is None else curve(label, other),
        )
    for kind, make in kinds.items():
        about = (rows.owners, rows.draws, rows.seed)
        found.figures.append(compared(f"{name}: {kind}", make, logged, other, *about))


def _order_figures(rows: _Rows, rankings: Sequence[Judged], action: str) -> Iterator[Compared]:
    """How well what the order is by puts first what an action followed."""
    spoken, logged, other = rows.both(rankings, SCORE)
    label, user, request = rows.label(action)[spoken], rows.user[spoken], rows.request[spoken]
    if len(np.unique(label)) == 2:
        yield compared(
            f"score ({action}): GAUC by request",
            lambda side: weighted_gauc(label, side, request, user),
            logged,
            other,
            rows.owners,
            rows.draws,
            rows.seed,
        )


def _overlap(one: Judged) -> float:
    overlap = rank_biased_overlap(one.logged_page.items, one.other_page.items)
    return 1.0 if overlap > SAME else overlap


_SPREAD = {
    "coverage": "share of all candidates on any page",
    "authors": "distinct authors per item of a page",
    "categories": "distinct categories per item of a page",
    "age_s": "median age of a shown item, s",
}


def _lists(
    rankings: Sequence[Judged], user: Ints, owners: int, draws: int, seed: int
) -> Iterator[Compared]:
    """What the pages of each side show; shares of a page have intervals."""
    total = len({item for one in rankings for item in one.candidates})
    sides = [[one.logged_page for one in rankings], [one.other_page for one in rankings]]
    logged, other = (spread(pages, total) for pages in sides)
    per_page = {
        "authors": [[spread([page], total).authors for page in pages] for pages in sides],
        "categories": [[spread([page], total).categories for page in pages] for pages in sides],
    }
    for one in fields(Spread):
        if one.name in per_page:
            make = partial(weighted_mean, owner=user)
            before, after = (np.array(side) for side in per_page[one.name])
            yield compared(_SPREAD[one.name], make, before, after, owners, draws, seed)
        else:
            both = (getattr(side, one.name) for side in (logged, other))
            yield Compared(_SPREAD[one.name], *both)


def _earned(
    rankings: Sequence[Judged], user: Ints, action: str, draws: int, seed: int
) -> tuple[Estimate, Estimate]:
    """What an explored item earns on a page of each side.

    An item that the draw made a candidate stands for 1 / propensity of those it was drawn from;
    what no draw decided (a propensity of 1, or none) is left out.
    """
    reward, logged, owner, kept = [], [], [], []
    for number, one in enumerate(rankings):
        there = set(one.other_page.items)
        rows = zip(one.logged_page.items, one.happened, one.propensity.tolist(), strict=True)
        for item, acts, propensity in rows:
            if acts is not None:
                reward.append(float(action in acts))
                logged.append(propensity if propensity < 1 else np.nan)
                owner.append(user[number])
                kept.append(float(item in there))
    made = partial(estimate, reward, logged, owner=owner, draws=draws, seed=seed)
    return made(chance=np.ones(len(reward))), made(chance=kept)


def _doubts(rankings: Sequence[Judged], rows: _Rows, actions: Sequence[str]) -> Iterator[str]:
    """In words, with what would help."""
    whole = sum(one.whole for one in rankings)
    if whole < len(rankings):
        yield (
            f"of {len(rankings) - whole:,} of {len(rankings):,} rankings the log keeps what was "
            "shown alone, so nothing else can come onto their pages: raise "
            "HEADRACE_LOG_CANDIDATES_SHARE, and record for longer"
        )
    if len(rankings) < RANKINGS_MIN:
        yield f"{len(rankings):,} rankings are few: record {RANKINGS_MIN} at least"
    if not len(rows.request):
        yield (
            "of nothing that was served it is known what followed: no impressions are recorded, or "
            "the window after them is still open"
        )
    for action in actions:
        came = int(rows.label(action).sum())
        if len(rows.request) and came < POSITIVES_MIN:
            yield (
                f"{action} followed {came:,} items that were shown, fewer than {POSITIVES_MIN}: "
                "what is said of it is chance"
            )
    shown = sum(len(one.other_page.items) for one in rankings)
    new = sum(len({*one.other_page.items} - {*one.logged_page.items}) for one in rankings)
    if new > UNKNOWN_SHARE_MAX * shown:
        yield (
            f"{new / shown:.0%} of what it would show was not shown when it was recorded, so "
            "nobody knows what would have followed: the policies have little in common"
        )
    explored = [
        item in one.logged_page.items
        for one in rankings
        for item, chance in zip(one.other_page.items, one.other_propensity.tolist(), strict=True)
        if chance < 1
    ]
    if explored and sum(explored) < (1 - UNKNOWN_SHARE_MAX) * len(explored):
        yield (
            f"of {len(explored):,} explored items that it would show {explored.count(False):,} "
            "stood on no page when they were recorded: what they would earn is not known"
        )
