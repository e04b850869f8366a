"""How two orders of the same candidates differ, and what a set of pages shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERSISTENCE = 0.9
"""Chance that a reader goes on to the next place: 86 % of the weight is on the first ten."""


def rank_biased_overlap(
    one: Sequence[str], other: Sequence[str], persistence: float = PERSISTENCE
) -> float:
    """How alike two lists are, 0 to 1, their tops counting most; what lies below their common depth
    is taken to agree as much as that depth does (RBO_ext: Webber, Moffat and Zobel, TOIS 2010).

    Items stand once in each list. Raises ValueError for a persistence outside 0 to 1.
    """
    if not 0 < persistence < 1:
        raise ValueError(f"a persistence of {persistence} is none: above 0 and below 1")
    depth = min(len(one), len(other))
    if not depth:
        return 1.0 if len(one) == len(other) else 0.0
    first, second = set[str](), set[str]()
    total = agreement = 0.0
    for place in range(depth):
        first.add(one[place])
        second.add(other[place])
        agreement = len(first & second) / (place + 1)
        total += agreement * persistence**place
    return (1 - persistence) * total + agreement * persistence**depth


@dataclass(frozen=True, slots=True)
class Spread:
    """What a set of pages shows."""

    coverage: float
    """The share of all candidates that stands on any page."""
    authors: float
    """Distinct authors per item of a page, mean."""
    categories: float
    """The same of first categories."""
    age_s: float
    """The median age of a shown item; nan where none is known."""


@dataclass(frozen=True, slots=True)
class Page:
    """The items of one page, and what is known of them; None where it is not."""

    items: Sequence[str]
    authors: Sequence[str | None]
    categories: Sequence[str | None]
    ages_s: Sequence[float]


def spread(pages: Sequence[Page], candidates: int) -> Spread:
    """Of pages drawn from so many distinct candidates; an unknown author is nobody else's."""
    shown = {item for page in pages for item in page.items}
    ages = [age for page in pages for age in page.ages_s if not np.isnan(age)]
    return Spread(
        coverage=len(shown) / candidates if candidates else float("nan"),
        authors=_distinct([page.authors for page in pages]),
        categories=_distinct([page.categories for page in pages]),
        age_s=float(np.median(ages)) if ages else float("nan"),
    )


def _distinct(of_pages: Sequence[Sequence[str | None]]) -> float:
    shares = [
        (len(set(names) - {None}) + sum(name is None for name in names)) / len(names)
        for names in of_pages
        if names
    ]
    return float(np.mean(shares)) if shares else float("nan")
