"""What `--what-if` tells: both sides of every figure, and whether it can be trusted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from math import isnan
from typing import Any

import numpy as np

from deploy.replaying.report import Curves, Plot, Section
from deploy.replaying.whatif import Side, changed_most
from ranker.judging.offpolicy import Estimate
from ranker.judging.whatif import WhatIf
from ranker.training.resampling import Interval

NAME = "what-if"
COLUMNS = ("figure", "as logged", "as it would be", "difference", "95 % of draws")


def nothing_compared(left_out: Counter[str]) -> Section:
    """The section when no ranking could be made again."""
    return Section(NAME, False, "no ranking could be compared", notes=_told(left_out))


def what_if_section(found: WhatIf, side: Side) -> Section:
    """Both sides, in words, figures, a table and charts."""
    overlap = float(np.mean(found.overlaps))
    same = sum(one == 1 for one in found.overlaps)
    doubts = list(dict.fromkeys([*found.doubts, *_estimate_doubts(found)]))
    trust = (
        f"this cannot be trusted, for {len(doubts)} reasons told below"
        if doubts
        else "nothing speaks against trusting this"
    )
    return Section(
        name=NAME,
        passed=None,
        says=(
            f"{found.rankings:,} rankings made again: rank-biased overlap {overlap:.3f}, "
            f"{same:,} pages the same; {trust}"
        ),
        figures={
            "rankings": found.rankings,
            "users": found.users,
            "items of which it is known what followed": found.rows,
            "rank-biased overlap": overlap,
            "pages the same": same,
            "trusted": not doubts,
        },
        notes=[
            *(f"not to be trusted: {doubt}" for doubt in doubts),
            *changed_most(side, found.overlaps),
            *_told(side.left_out),
        ],
        columns=COLUMNS,
        rows=[*_figure_rows(found), *_estimate_rows(found)],
        plots=list(_plots(found)),
        data={
            "doubts": doubts,
            "figures": [asdict(one) for one in found.figures],
            "estimates": {
                action: {"as logged": asdict(logged), "as it would be": asdict(other)}
                for action, (logged, other) in found.earned.items()
            },
        },
    )


def _told(left_out: Counter[str]) -> list[str]:
    return [f"left out: {count:,} rankings {why}" for why, count in left_out.items()]


def _estimate_doubts(found: WhatIf) -> Iterator[str]:
    for action, sides in found.earned.items():
        for estimate in sides:
            yield from (f"what explored items earn ({action}): {why}" for why in estimate.doubts)


def _figure_rows(found: WhatIf) -> Iterator[tuple[str, str, str, str, str]]:
    for one in found.figures:
        apart, draws = "–", "–"
        if one.difference is not None:
            apart, draws = f"{one.difference.value:+.4g}", _between(one.difference)
        yield one.name, _number(one.logged), _number(one.other), apart, draws


def _estimate_rows(found: WhatIf) -> Iterator[tuple[str, str, str, str, str]]:
    for action, (logged, other) in found.earned.items():
        for kind in ("ips", "snips"):
            name = f"{action} of an explored item, {kind.upper()}"
            yield name, _estimated(logged, kind), _estimated(other, kind), "–", "–"


def _estimated(estimate: Estimate, kind: str) -> str:
    one: Interval = getattr(estimate, kind)
    return "–" if isnan(one.value) else f"{one.value:.4g} ({_between(one)})"


def _between(one: Interval) -> str:
    return f"{one.low:.4g} to {one.high:.4g}"


def _number(value: float) -> str:
    return "–" if isnan(value) else f"{value:.4g}"


def _plots(found: WhatIf) -> Iterator[Plot]:
    at = np.sort(found.overlaps)
    share: Any = np.arange(1, len(at) + 1) / len(at)
    lines = {"rankings": (at.tolist(), share.tolist())}
    yield Curves("how alike the pages are", "rank-biased overlap", "share at or below", lines)
    for head, curves in found.curves.items():
        named = zip(("as logged", "as it would be"), curves, strict=True)
        lines = {name: (list(c.promised), list(c.came)) for name, c in named if c.promised}
        yield Curves(f"calibration: {head}", "promised", "came", lines, diagonal=True)
